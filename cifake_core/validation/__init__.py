"""The gate that images, labels and shortcuts must pass."""
