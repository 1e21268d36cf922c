"""Scores of any score function, in slices and with intervals."""
