"""Gates, promotion and the artefacts of a model version."""
