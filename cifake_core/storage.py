"""One object store behind one URL: `file://…` on a laptop, `s3://…` by setting alone (fsspec)."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

import fsspec

from cifake_core.errors import ConfigurationError, NoSuchObjectError, StoreError
from cifake_core.settings import settings


@contextmanager
def _locked(path: str) -> Iterator[IO[bytes]]:
    """A file opened for writing by this process alone; waits for another writer of the same name."""
    while True:
        with open(path, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_named(file, path):
                yield file
                return
        # The writer waited for has renamed or removed this very file: open the name anew.


def _is_named(file: IO[bytes], path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), Path(path).stat())
    except FileNotFoundError:
        return False


class Store:
    """Whole objects by relative name; a write is seen complete or not at all, and is safe to repeat.

    Args:
        url: root of the store; default CIFAKE_STORE.

    Raises:
        ConfigurationError: not a store's URL. StoreError: from every method, when it refuses or cannot be reached.
    """

    def __init__(self, url: str | None = None) -> None:
        self.url = (url or settings().store).rstrip("/")
        try:
            plain = unquote(self.url) if self.url.startswith("file:") else self.url  # fsspec leaves %20 as it is
            self.fs, self.root = fsspec.core.url_to_fs(plain, use_listings_cache=False)
        except (ValueError, ImportError) as exc:
            raise ConfigurationError(
                f"{self.url}: not a store URL this installation knows ({exc}); use file://… or s3://…"
            ) from exc
        self.local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def path(self, name: str) -> str:
        """The file system's own path of an object."""
        return f"{self.root}/{name}" if name else self.root

    def url_of(self, name: str) -> str:
        """The object's URL, to hand to another step."""
        return f"{self.url}/{name}"

    def exists(self, name: str) -> bool:
        """Is there an object or folder of this name?"""
        return bool(self._do("look at", name, lambda: self.fs.exists(self.path(name))))

    def read(self, name: str) -> bytes:
        """An object's bytes."""
        return bytes(self._do("read", name, lambda: self.fs.cat_file(self.path(name))))

    def open(self, name: str) -> IO[bytes]:
        """An object opened for random reading."""
        return self._do("read", name, lambda: self.fs.open(self.path(name), "rb"))  # type: ignore[no-any-return]

    def write(self, name: str, data: bytes) -> None:
        """Put an object: to a temporary name and renamed (file), or in one request (s3)."""
        self._do("write", name, lambda: self._write(self.path(name), data))

    def create(self, name: str, data: bytes) -> bool:
        """Put an object only if there is none of this name: True when this call made it. Safe between machines."""
        return bool(self._do("write", name, lambda: self._create(self.path(name), data)))

    def list(self, name: str = "") -> list[str]:
        """Names directly under a folder, sorted; empty when there is no such folder."""

        def names() -> list[str]:
            folder = self.path(name)
            if not self.fs.exists(folder):
                return []
            found = (path.rstrip("/") for path in self.fs.ls(folder, detail=False))
            return sorted(path.rsplit("/", 1)[-1] for path in found if path != folder)  # S3 may list a folder in itself

        return [n for n in self._do("list", name, names) if not n.endswith(".partial")]

    def delete(self, name: str) -> None:
        """Remove an object or a folder; no error when it is not there."""
        self._do(
            "delete", name, lambda: self.fs.exists(self.path(name)) and self.fs.rm(self.path(name), recursive=True)
        )

    def _write(self, path: str, data: bytes) -> None:
        if not self.local:
            self.fs.pipe_file(path, data)
            return
        # One fixed temporary name, locked: a killed writer's leftover is taken over by the next try.
        partial = f"{path}.partial"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with _locked(partial) as file:
            try:
                file.truncate(0)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.replace(partial, path)
            except BaseException:
                os.unlink(partial)
                raise

    def _create(self, path: str, data: bytes) -> bool:
        try:
            if not self.local:
                self.fs.pipe_file(path, data, mode="create")
                return True
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), suffix=".partial") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.link(file.name, path)  # unlike a rename, refuses a name that is taken
        except FileExistsError:
            return False
        except OSError as exc:
            # How s3fs says 412 (the name is taken) and 409 (another writer was quicker).
            if exc.errno not in (errno.EINVAL, errno.EBUSY) or self.local:
                raise
            if not self.fs.exists(path):
                raise
            return False
        return True

    def _do(self, what: str, name: str, action: Any) -> Any:
        try:
            return action()
        except FileNotFoundError as exc:
            raise NoSuchObjectError(f"{self.url_of(name)}: no such object") from exc
        except OSError as exc:
            full = exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            hint = " (disk full: free some space and run it again)" if full else ""
            raise StoreError(f"{self.url_of(name)}: cannot {what}: {exc.strerror or exc}{hint}") from exc
        except Exception as exc:  # botocore and aiohttp errors have no common base with OSError
            raise StoreError(f"{self.url_of(name)}: cannot {what}: {exc}") from exc
