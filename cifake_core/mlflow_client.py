"""MLflow as this project reaches it: one tracking URI, short time-outs, errors in one line."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cifake_core.errors import RegistryError
from cifake_core.settings import EXPERIMENT, settings

if TYPE_CHECKING:
    from mlflow import MlflowClient


@contextmanager
def registry_errors(what: str) -> Iterator[None]:
    """Turn MLflow's and the network's exceptions into a RegistryError that says what was being done."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        yield
    except Exception as exc:
        # A database that cannot be opened, or whose driver is missing, is told by sqlalchemy's errors or Python's own.
        database = type(exc).__module__.startswith("sqlalchemy") or isinstance(exc, ModuleNotFoundError)
        if not (database or isinstance(exc, (MlflowException, RequestException))):
            raise
        first = (str(exc) or type(exc).__name__).splitlines()[0][:300]
        if "Max retries" in first or "Failed to establish" in first:
            first = "no answer; is MLflow up? (`make up`, or unset MLFLOW_TRACKING_URI)"
        raise RegistryError(f"cannot {what} at {settings().tracking_uri}: {first}") from exc


def client() -> MlflowClient:
    """An MLflow client for the configured tracking URI, which is also made the process's default.

    Raises:
        RegistryError: only from calls made inside `registry_errors`; making the client contacts nobody.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")  # seconds; twice as long from try to try
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    if not sys.stderr.isatty():
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # It warns of every retry; the error that ends them says it once.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    if settings().tracking_uri.startswith("sqlite:"):
        settings().home.mkdir(parents=True, exist_ok=True)
    import mlflow

    mlflow.set_tracking_uri(settings().tracking_uri)
    return mlflow.MlflowClient()


def experiment_id() -> str:
    """The id of the project's experiment, created on first use.

    Raises:
        RegistryError: MLflow is unreachable.
    """
    from mlflow.exceptions import MlflowException

    api = client()
    with registry_errors("find the experiment"):
        found = api.get_experiment_by_name(EXPERIMENT)
        if found:
            return str(found.experiment_id)
        root = None if settings().tracking_uri.startswith("http") else settings().artifact_root
        try:
            return str(api.create_experiment(EXPERIMENT, artifact_location=root))
        except MlflowException:  # another process made it between the two calls
            found = api.get_experiment_by_name(EXPERIMENT)
            if not found:
                raise
            return str(found.experiment_id)
