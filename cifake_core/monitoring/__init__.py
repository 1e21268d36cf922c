"""Drift and reference profiles as array code."""
