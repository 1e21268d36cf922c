"""The detector's HTTP interface."""

from __future__ import annotations

import json
import time
import uuid
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response

from cifake_core.client.answers import Classification, ExplainOptions
from services.detector import bodies, inference, metrics, problems
from services.detector.champion import Champion, Served
from services.detector.problems import ProblemError


def create_app(champion: Champion) -> FastAPI:
    """The ASGI application that answers with the given champion."""
    app = FastAPI(title="cifake detector", docs_url=None, redoc_url=None, openapi_url="/openapi.json")

    def served() -> Served:
        if champion.current is None:
            raise ProblemError("no_model", champion.problem or "the model is still loading", {"Retry-After": "5"})
        return champion.current

    @app.post("/classify", response_model=Classification)
    async def classify(request: Request) -> Response:
        """Tell whether one image is real or AI-generated."""
        model = served()
        data = await bodies.one_image(request)
        start = time.perf_counter()
        verdict = await run_in_threadpool(inference.classify, model, data)
        content = inference.answer(model, verdict)
        content["latency_ms"] = round((time.perf_counter() - start) * 1000, 3)
        content["request_id"] = uuid.uuid4().hex
        return Response(json.dumps(content), media_type="application/json")

    @app.post("/explain", response_class=Response)
    async def explain(request: Request, options: Annotated[ExplainOptions, Query()]) -> Response:
        """Show what in the image speaks for the verdict: PNG of original, heatmap and overlay."""
        model = served()
        data = await bodies.one_image(request)
        png = await run_in_threadpool(inference.picture, model, data, options)
        return Response(png, media_type="image/png")

    @app.get("/status")
    async def status() -> dict[str, Any]:
        """Which model is served since when, and what keeps a newer one away."""
        now = champion.current
        return {
            "ready": now is not None,
            "model": inference.model(now) if now else None,
            "since": now.since.isoformat() if now else None,
            "from_cache": now.from_cache if now else None,
            "problem": champion.problem,
            "checked": champion.checked.isoformat() if champion.checked else None,
        }

    @app.get("/metrics", response_class=Response)
    def exposition() -> Response:
        """Prometheus metrics of all workers."""
        content, kind = metrics.exposition()
        return Response(content, media_type=kind)

    @app.exception_handler(ProblemError)
    async def problem(_: Request, exc: Exception) -> Response:
        assert isinstance(exc, ProblemError)
        return problems.response(exc.code, exc.detail, headers=exc.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, exc: Exception) -> Response:
        assert isinstance(exc, RequestValidationError)
        first = exc.errors()[0]
        return problems.response("invalid_request", f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        code = {404: "not_found", 405: "method_not_allowed"}.get(exc.status_code, "internal")
        return problems.response(code, str(exc.detail), headers=dict(exc.headers or {}))

    return app
