"""The BentoML service: `cifake serve`, or `bentoml serve services.detector.service:Detector`.

The latter asks for API keys unless CIFAKE_HOST says that only this machine can reach it.
"""

from __future__ import annotations

import gc
from typing import Any

import bentoml
from uvicorn.config import HTTP_PROTOCOLS

from cifake_core.settings import settings
from services.detector import refusals
from services.detector.app import create_app
from services.detector.champion import Champion
from services.detector.guard import App
from services.detector.shadow import shadow

champion = Champion(also=shadow.look)
app, guard = create_app(champion)


async def everything(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
    """The application under a plain function: BentoML then leaves it every path, its own index page's too."""
    await app(scope, receive, send)


class Guarded(bentoml.Service[Any]):
    """A service with our guard outside BentoML's own layers: a refusal must cost little when most are refused."""

    def to_asgi(self, is_main: bool = True) -> App:
        """The application that a worker serves, and how its uvicorn speaks HTTP: BentoML has no setting for it."""
        guarded = guard(super().to_asgi(is_main))
        HTTP_PROTOCOLS["auto"] = refusals.protocol(guarded.place)  # type: ignore[assignment]
        return guarded


@bentoml.service(
    name="detector",
    service_class=Guarded,
    workers=settings().service_workers,
    metrics={"enabled": False},  # BentoML's own label every unknown path; ours are at /metrics
    logging={"access": {"enabled": False}},
    traffic={"timeout": 60},
    tracing={} if settings().tracing else {"excluded_urls": ".*"},  # a span that nobody collects costs 0.4 ms
)
@bentoml.asgi_app(everything, path="/")
class Detector:
    """Classifies images and explains the verdicts with the registry's champion."""

    def __init__(self) -> None:
        champion.start()
        gc.freeze()  # what start-up made stays: not to be gone through, for a tenth of a second, ever again

    @bentoml.on_shutdown
    def stop(self) -> None:
        """Stop following the alias."""
        champion.stop()

    def __is_ready__(self) -> bool:
        return champion.current is not None
