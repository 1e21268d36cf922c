"""The loop that closes: what the figures ask for, and training against a generator that gets past the detector."""
