"""Every error a user may meet: one line that says what was wrong, where, and what to do."""

from __future__ import annotations

from typing import Any


class CifakeError(Exception):
    """Base of all errors shown to users. `exit_code` is what the command line exits with."""

    exit_code = 2


class OutOfReachError(CifakeError):
    """Something this needs does not answer, or refuses: trying again may help."""

    exit_code = 3


class ConfigurationError(CifakeError):
    """A setting, option or file of the user's is wrong."""


class DataNotFoundError(CifakeError):
    """No images where they were looked for."""


class DatasetError(CifakeError):
    """A dataset version or shard is missing, incomplete or not what its manifest says."""


class StoreError(OutOfReachError):
    """The object store refused a read or a write (permissions, disk full, unreachable)."""


class NoSuchObjectError(StoreError):
    """The object store answers, and has no such object."""

    exit_code = 2


class RegistryError(OutOfReachError):
    """MLflow is unreachable, or has no such model version or alias."""


class NotRegisteredError(RegistryError):
    """MLflow answers, and has no such model version or alias."""

    exit_code = 2


class ServiceError(OutOfReachError):
    """The detector service is unreachable or answered with an error."""


class ModelError(CifakeError):
    """A model bundle is missing, damaged, or disagrees with what it recorded of itself."""


class ImageRejectedError(CifakeError):
    """An image was refused. `reason` is a stable code, fit for a metric label."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:  # from a worker process to its parent
        return type(self), (self.reason, str(self))


class CheckFailedError(CifakeError):
    """A gate or a validation said no. `result` is what the verb would have returned."""

    exit_code = 1

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result
