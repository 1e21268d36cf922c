"""The detector's HTTP interface."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from cifake_core.client.answers import (
    Batch,
    Classification,
    ExplainOptions,
    FeedbackReceipt,
    HeatmapAnswer,
    ModelCard,
    Status,
)
from cifake_core.images import codec
from cifake_core.settings import settings
from services.detector import bodies, inference, keys, metrics, openapi, problems, static, webhook
from services.detector.capacity import Capacity, Place
from services.detector.champion import Champion, Served
from services.detector.drift import watch
from services.detector.feedback import LiveAccuracy, verdicts
from services.detector.guard import App, Guard
from services.detector.problems import ProblemError
from services.detector.shadow import shadow

SMALL = 16_384  # bytes of a body that may be looked into on the event loop
WORK = ("/classify", "/classify_batch", "/explain", "/explain_map")
PUBLIC = ("/metrics", "/openapi.json")


def create_app(champion: Champion) -> tuple[App, Callable[[App], Guard]]:
    """The ASGI application that answers with the given champion, and what makes the guard to put before it.

    The guard passes `/classify` on past every framework, since routing and their middlewares cost as much as the model.
    """
    app = FastAPI(title="cifake detector", docs_url=None, redoc_url=None, openapi_url=None)
    capacity = Capacity(settings().service_slots or os.cpu_count() or 1, settings().service_queue)

    def served() -> Served:
        if champion.current is None:
            raise ProblemError("no_model", champion.problem or "the model is still loading", {"Retry-After": "5"})
        return champion.current

    def place(path: str) -> Place | None:
        return Place(capacity) if path in WORK else None

    @app.post("/classify", response_model=Classification, **openapi.takes_one_image())
    async def classify(request: Request) -> Response:
        """Tell whether one image is real or AI-generated."""
        model = served()
        body = await bodies.read(request)
        start = time.perf_counter()
        if len(body.data) <= SMALL and codec.is_canonical(data := bodies.one_image(body)):
            answer = await capacity.together(inference.classified_together, (model, data))
        else:
            answer = await capacity.run(lambda: inference.classified(model, bodies.one_image(body)))
        return _json(answer, request, start)

    @app.post("/classify_batch", response_model=Batch, **openapi.takes_images())
    async def classify_batch(request: Request) -> Response:
        """Tell of several images, each on its own: a bad one gets its problem, the others their verdicts."""
        model = served()
        body = await bodies.read(request, bodies.BATCH_BYTES)
        start = time.perf_counter()
        answer = await capacity.run(lambda: inference.classified_batch(model, bodies.images(body)))
        return _json(answer, request, start)

    @app.post("/explain", response_class=Response, **openapi.explains("image/png"))
    async def explain(request: Request, options: Annotated[ExplainOptions, Query()]) -> Response:
        """Show what in the image speaks for the verdict: PNG of original, heatmap and overlay."""
        model = served()
        body = await bodies.read(request)
        png = await capacity.run(lambda: inference.picture(model, bodies.one_image(body), options))
        return Response(png, media_type="image/png")

    @app.post("/explain_map", response_model=HeatmapAnswer, **openapi.explains())
    async def explain_map(request: Request, options: Annotated[ExplainOptions, Query()]) -> Response:
        """The heatmap as numbers, with how faithful it is to the model."""
        model = served()
        body = await bodies.read(request)
        start = time.perf_counter()
        answer = await capacity.run(lambda: inference.heatmap(model, bodies.one_image(body), options))
        return _json(answer, request, start)

    @app.post("/feedback", response_model=FeedbackReceipt, **openapi.takes_feedback())
    async def feedback(request: Request) -> FeedbackReceipt:
        """Tell the true label of an image that was answered before; live accuracy comes from it."""
        body = await bodies.read(request, 0)
        return await verdicts.feedback(bodies.feedback(body))

    @app.get("/status", response_model=Status, responses=openapi.ALWAYS)
    async def status() -> dict[str, Any]:
        """Which model is served since when, and what keeps a newer one away."""
        now, challenger = champion.current, shadow.current
        return {
            "ready": now is not None,
            "model": inference.model(now) if now else None,
            "since": now.since.isoformat() if now else None,
            "from_cache": now.from_cache if now else None,
            "challenger": challenger.version.version if challenger else None,
            "problem": champion.problem,
            "checked": champion.checked.isoformat() if champion.checked else None,
        }

    @app.get("/model", response_model=ModelCard, responses=openapi.NO_MODEL)
    async def model_card() -> ModelCard:
        """What the served model says of itself."""
        if champion.current is None:
            raise ProblemError("no_model", champion.problem or "the model is still loading", {"Retry-After": "5"})
        return inference.card(champion.current)

    @app.get("/metrics", response_class=Response, responses=openapi.METRICS)
    def exposition() -> Response:
        """Prometheus metrics of all workers."""
        content, kind = metrics.exposition(champion.named, watch.collector(champion.current), LiveAccuracy(verdicts))
        return Response(content, media_type=kind)

    @app.get("/openapi.json", include_in_schema=False)
    async def document() -> dict[str, Any]:
        return openapi.document(app)

    @app.exception_handler(ProblemError)
    async def problem(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, ProblemError)
        return problems.response(exc.code, exc.detail, request.state.request_id, exc.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, RequestValidationError)
        first = exc.errors()[0]
        detail = f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}"
        return problems.response("invalid_request", detail, request.state.request_id)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        code = {404: "not_found", 405: "method_not_allowed"}.get(exc.status_code, "invalid_request")
        return problems.response(code, str(exc.detail), request.state.request_id, dict(exc.headers or {}))

    @app.exception_handler(Exception)
    async def internal(request: Request, exc: Exception) -> Response:
        # Starlette raises it again after this answer; the guard logs it.
        return problems.response("internal", problems.SEE_LOG, request.state.request_id)

    public = (*PUBLIC, *static.add_page(app), *webhook.add_webhook(app, champion))
    allowed = keys.Keys(settings().api_keys, settings().rate_limit) if keys.needed() else None
    routes = [route.path for route in app.routes if hasattr(route, "path")]
    direct = {} if settings().tracing else {("POST", "/classify"): classify}  # spans are BentoML's layers' to make
    return app, partial(Guard, routes=routes, place=place, direct=direct, keys=allowed, public=public)


def _json(answer: Classification | Batch | HeatmapAnswer, request: Request, start: float) -> Response:
    answer.latency_ms = round((time.perf_counter() - start) * 1000, 3)
    answer.request_id = request.state.request_id
    verdicts.remember(answer, answer.request_id)
    return Response(answer.model_dump_json(), media_type="application/json")
