"""The long-running services."""
