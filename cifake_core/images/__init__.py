"""What an image is here: codec, rows and shards, sources, splits, dataset versions."""
