"""The registry's fixtures: a real MLflow server, and models whose answers a test chooses."""

from tests.registry.conftest import field, mlflow, policy

__all__ = ["field", "mlflow", "policy"]
