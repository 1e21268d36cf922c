"""Where a diffusers model's files come from: CIFAKE_GENERATOR_WEIGHTS (a folder or URL), or the Hugging Face hub.

No torch here: a plan names the model's revision, and plans are made where no image is drawn.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import fsspec

from cifake_core.errors import CifakeError, ConfigurationError
from cifake_core.generation import torch_environment
from cifake_core.generation.generators import Generator
from cifake_core.settings import settings
from cifake_core.verb import progress

INDEX = "model_index.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def revision(generator: Generator) -> str:
    """The model's identity: its commit on the hub, or for weights that were pointed at a hash of their files.

    Raises:
        ConfigurationError: no such weights, or a hub out of reach and nothing in its cache.
    """
    if settings().generator_weights:
        return hash_of(given(generator))
    return generator.revision if _COMMIT.fullmatch(generator.revision) else _commit_on_hub(generator)


def given(generator: Generator) -> Path:
    """The local folder of the weights that CIFAKE_GENERATOR_WEIGHTS points at, fetched when that is a URL.

    It holds one model (`model_index.json` at its top), or models by hub name (`CompVis/stable-diffusion-v1-4/…`).

    Raises:
        ConfigurationError: there is no such model.
    """
    location = settings().generator_weights.rstrip("/")
    try:
        fs, root = fsspec.core.url_to_fs(location)
        for folder in (root, f"{root}/{generator.model}"):
            if fs.exists(f"{folder}/{INDEX}"):
                local = "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,))
                return Path(folder) if local else _fetched(fs, folder)
    except CifakeError:
        raise
    except Exception as exc:  # every file system raises its own kind for "unreachable" and "not allowed"
        raise ConfigurationError(f"CIFAKE_GENERATOR_WEIGHTS: {location}: cannot be read ({exc})") from exc
    raise ConfigurationError(
        f"CIFAKE_GENERATOR_WEIGHTS: {location}: no {INDEX} there, nor in {generator.model} below it; "
        "it must hold a model in diffusers' layout"
    )


def _fetched(fs: Any, folder: str) -> Path:
    """A copy in the cache, named after what the remote listing says of every file; whole or not there at all."""
    files = {path: info for path, info in sorted(fs.find(folder, detail=True).items()) if info["type"] == "file"}
    listing = [(path, info["size"], info.get("ETag") or info.get("etag")) for path, info in files.items()]
    target = settings().cache / "generators" / hashlib.sha256(repr(listing).encode()).hexdigest()[:16]
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="fetching-") as partial:
        whole = Path(partial) / "model"
        for path in progress(files, "fetching weights", len(files), "file"):
            file = whole / path.removeprefix(folder).lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(path, str(file))
        try:
            whole.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another process was quicker
                raise
            shutil.rmtree(whole)
    return target


@cache
def hash_of(folder: Path) -> str:
    """Short hash over the names and bytes of all files below a folder; computed once per process."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest.update(f"{path.relative_to(folder)}\0".encode())
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def _commit_on_hub(generator: Generator) -> str:
    """The commit that the table's branch name means now, or meant when it was last downloaded."""
    try:
        import huggingface_hub
    except ImportError as exc:
        raise ConfigurationError(torch_environment.missing(f"generator {generator.name!r}")) from exc
    try:
        found = huggingface_hub.model_info(generator.model, revision=generator.revision, timeout=10).sha
        if found:
            return found
    except Exception:  # a hub out of reach raises requests', httpx's or its own errors: then the cache decides
        cached = huggingface_hub.try_to_load_from_cache(generator.model, INDEX, revision=generator.revision)
        if isinstance(cached, str):
            return Path(cached).parent.name
    raise ConfigurationError(out_of_reach(generator))


def out_of_reach(generator: Generator) -> str:
    """What to do without the hub."""
    return (
        f"{generator.model} is not in the Hugging Face cache and the hub did not give it (no network, or a licence to "
        "accept); set CIFAKE_GENERATOR_WEIGHTS to a folder or s3:// URL that holds it"
    )
