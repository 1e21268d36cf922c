"""`POST /webhooks/mlflow`: MLflow says that an alias moved, so look now and not at the next poll.

MLflow signs as Standard Webhooks do (https://www.standardwebhooks.com): the base64 of HMAC-SHA256 over
`id.timestamp.body`. What a delivery says is a reason to look and nothing more: the registry alone says who is champion.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Mapping

from fastapi import FastAPI
from prometheus_client import Counter
from starlette.requests import Request
from starlette.responses import Response

from cifake_core.settings import MODEL_NAME, settings
from services.detector import bodies
from services.detector.champion import Champion
from services.detector.problems import ProblemError

PATH = "/webhooks/mlflow"
FRESH_SECONDS = 300  # an older delivery may be a recorded one

deliveries_total = Counter("cifake_webhook_deliveries", "Deliveries of MLflow's webhook.", ["outcome"])
for _outcome in ("looked", "ignored", "refused"):
    deliveries_total.labels(_outcome)


def add_webhook(app: FastAPI, champion: Champion) -> list[str]:
    """Route the webhook where there is a secret to know MLflow by; returns its path."""
    secret = settings().webhook_secret
    if not secret:
        return []

    async def deliver(request: Request) -> Response:
        body = (await bodies.read(request, 0)).data  # a few kB; whoever sends it is not known yet
        if not genuine(secret, request.headers, body, time.time()):
            deliveries_total.labels("refused").inc()
            raise ProblemError("unauthorized", "the delivery is not signed with this service's secret, or is too old")
        if about_our_aliases(body):
            deliveries_total.labels("looked").inc()
            champion.wake()
        else:
            deliveries_total.labels("ignored").inc()
        return Response(status_code=204)

    app.add_route(PATH, deliver, methods=["POST"], include_in_schema=False)
    return [PATH]


def genuine(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Is this delivery MLflow's, and from the last minutes?"""
    sent, number = headers.get("x-mlflow-timestamp", ""), headers.get("x-mlflow-delivery-id", "")
    if not re.fullmatch("[0-9]{1,12}", sent) or abs(now - int(sent)) > FRESH_SECONDS:
        return False
    digest = hmac.new(secret.encode(), f"{number}.{sent}.".encode() + body, hashlib.sha256).digest()
    expected = "v1," + base64.b64encode(digest).decode()
    return hmac.compare_digest(expected.encode(), headers.get("x-mlflow-signature", "").encode())


def about_our_aliases(body: bytes) -> bool:
    """Does it say that an alias of the detector moved?"""
    try:
        said = json.loads(body)
        return said["entity"] == "model_version_alias" and said["data"]["name"] == MODEL_NAME
    except (ValueError, KeyError, TypeError):
        return False
