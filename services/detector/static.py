"""The page at `/`: its files are kept in memory, so that no path a caller writes reaches the disk."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

FOLDER = Path(__file__).with_name("page")
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
}


def add_page(app: FastAPI) -> list[str]:
    """Route every file of the page; returns their paths."""
    paths = []
    for file in sorted(FOLDER.rglob("*")):
        if file.suffix in TYPES:
            path = "/" if file.name == "index.html" else f"/page/{file.relative_to(FOLDER).as_posix()}"
            _add(app, path, file.read_bytes(), TYPES[file.suffix])
            paths.append(path)
    return paths


def _add(app: FastAPI, path: str, content: bytes, media_type: str) -> None:
    async def answer(_: Request) -> Response:
        return Response(content, headers={"Cache-Control": "no-cache"}, media_type=media_type)

    app.add_route(path, answer, include_in_schema=False)
