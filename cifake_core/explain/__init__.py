"""The Grad-CAM family as array code."""
