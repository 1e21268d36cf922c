"""Every performance claim, as one command each."""
