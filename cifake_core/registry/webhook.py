"""Tell MLflow to call the detector when an alias moves."""

from __future__ import annotations

from typing import Any

from cifake_core.errors import ConfigurationError, RegistryError
from cifake_core.mlflow_client import client, registry_errors
from cifake_core.settings import settings

NAME = "cifake-detector"


def register(url: str) -> dict[str, Any]:
    """Make or renew the webhook with CIFAKE_WEBHOOK_SECRET, and let MLflow try it once.

    Returns:
        id, url, events, answered (the HTTP status that the detector gave).

    Raises:
        ConfigurationError: no secret, or a database without an MLflow server, which would call nobody.
        RegistryError: MLflow refuses the address, or the detector did not take the delivery.
    """
    secret = settings().webhook_secret
    if not secret:
        raise ConfigurationError("CIFAKE_WEBHOOK_SECRET is not set: the detector would take nobody's word")
    if not settings().tracking_uri.startswith("http"):
        raise ConfigurationError(
            f"{settings().tracking_uri}: only an MLflow server calls; set MLFLOW_TRACKING_URI to one"
        )
    from mlflow.entities.webhook import WebhookAction, WebhookEntity, WebhookEvent

    with registry_errors("register the webhook"):
        api = client()
        events: list[Any] = [
            WebhookEvent(WebhookEntity.MODEL_VERSION_ALIAS, action)
            for action in (WebhookAction.CREATED, WebhookAction.DELETED)
        ]
        found = next((hook for hook in api.list_webhooks() if hook.name == NAME), None)
        if found:
            made = api.update_webhook(found.webhook_id, url=url, events=events, secret=secret, status="ACTIVE")
        else:
            made = api.create_webhook(NAME, url, events, "The detector looks at its alias at once.", secret)
        tried = api.test_webhook(made.webhook_id)
    if not tried.success:
        said = tried.error_message or f"HTTP {tried.response_status}: {(tried.response_body or '')[:200]}"
        raise RegistryError(f"the webhook is registered, and {url} did not take MLflow's delivery: {said}")
    return {
        "id": made.webhook_id,
        "url": made.url,
        "events": [str(event) for event in events],
        "answered": tried.response_status,
    }
