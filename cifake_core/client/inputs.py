"""What a user names on the command line, as images: files, folders (recursive), URLs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cifake_core.errors import DataNotFoundError, ImageRejectedError
from cifake_core.settings import settings

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def expand(names: Sequence[str]) -> list[str]:
    """The images that the names mean; a folder's are those with an image suffix, hidden ones left out, sorted.

    Raises:
        DataNotFoundError: no such file or folder, or a folder without images.
    """
    found: list[str] = []
    for name in names:
        try:
            found += [name] if "://" in name else _expand(Path(name), name)
        except OSError as exc:
            raise DataNotFoundError(f"{name}: cannot be read: {exc.strerror or exc}") from exc
    return found


def _expand(path: Path, name: str) -> list[str]:
    if path.is_file():
        return [name]
    if not path.is_dir():
        raise DataNotFoundError(f"{name}: no such file or folder")
    inside = sorted(
        str(file)
        for file in path.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not inside:
        raise DataNotFoundError(f"{name}: no {', '.join(SUFFIXES)} files in this folder")
    return inside


def read(name: str) -> bytes:
    """One image's bytes; never more than one byte beyond CIFAKE_MAX_IMAGE_BYTES.

    Raises:
        ImageRejectedError: reason `unreadable`.
    """
    limit = settings().max_image_bytes + 1
    try:
        if name.startswith(("http://", "https://")):
            return _download(name, limit)
        if "://" in name:
            import fsspec

            with fsspec.open(name, "rb") as file:
                return bytes(file.read(limit))
        with open(name, "rb") as file:
            return file.read(limit)
    except OSError as exc:
        raise ImageRejectedError("unreadable", f"cannot be read: {exc.strerror or exc}") from exc
    except ImageRejectedError:
        raise
    except Exception as exc:  # fsspec's back ends have no common base
        raise ImageRejectedError("unreadable", f"cannot be read: {exc}") from exc


def _download(url: str, limit: int) -> bytes:
    import httpx

    try:
        with httpx.stream("GET", url, timeout=20, follow_redirects=True) as answer:
            answer.raise_for_status()
            data = bytearray()
            for chunk in answer.iter_bytes():
                data += chunk
                if len(data) >= limit:
                    break
            return bytes(data[:limit])
    except httpx.HTTPStatusError as exc:
        raise ImageRejectedError("unreadable", f"the server answered {exc.response.status_code}") from exc
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise ImageRejectedError("unreadable", f"cannot be downloaded: {exc or type(exc).__name__}") from exc
