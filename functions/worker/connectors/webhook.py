"""Sends events to webhooks: signed, one attempt per call. The database decides whether another attempt follows.

Body, headers and signature are those of the published API's webhooks.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import httpx

from functions._connections.errors import SourceRefused
from functions._shared import exact_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from functions.worker.client import Delivery, Execution

    Send: TypeAlias = Callable[["WebhookMessage"], Awaitable[None]]

TIMEOUT_SECONDS = 30.0


class WebhookRejected(Exception):
    """The receiver responded 400: it does not want the event."""


class WebhookUnavailable(Exception):
    """The receiver did not respond, or with neither 2xx nor 400."""


@dataclass(frozen=True)
class WebhookMessage:
    """One event for one webhook. `id` is the same for every attempt, so that receivers can recognize a repetition."""

    id: str
    event: str
    payload: Mapping[str, Any]
    created_at: str
    environment_id: str
    webhook_id: str
    url: str
    secret: str = field(repr=False)

    @classmethod
    def of(cls, execution: Execution, delivery: Delivery, begun: Mapping[str, Any]) -> Self:
        """The event of an execution's batch; `begun` is what `WorkerClient.begin_delivery` returned."""
        assert execution.destination is not None
        return cls(
            id=begun["delivery"],
            event=delivery.event,
            payload=delivery.payload,
            created_at=begun["created_at"],
            environment_id=execution.agency_id,
            webhook_id=execution.destination["id"],
            url=execution.destination["config"]["target_url"],
            secret=execution.destination["secret"].get("secret", ""),
        )

    @property
    def body(self) -> bytes:
        """The event as JSON: all fields but `url` and `secret`."""
        members = ("id", "event", "payload", "environment_id", "webhook_id", "created_at")
        return exact_json.dumps({name: getattr(self, name) for name in members}).encode()


def signature(body: bytes, secret: str) -> str:
    """The value of the signature header."""
    mac = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return f"format=sha256,v={mac}"


async def send(message: WebhookMessage, client: httpx.AsyncClient) -> None:
    """Make one attempt. Raises WebhookRejected or WebhookUnavailable."""
    body = message.body
    headers = {
        "content-type": "application/json",
        "user-agent": "sync-control-plane",
        "idempotency-key": message.id,
        "x-truto-signature": signature(body, message.secret),
    }
    request = client.build_request("POST", message.url, content=body, headers=headers, timeout=None)
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            response = await client.send(request, stream=True, follow_redirects=False)
            await response.aclose()  # the body is not read, because it may be endless
    except (httpx.HTTPError, TimeoutError, SourceRefused):  # SourceRefused: the address is not public
        raise WebhookUnavailable from None
    if response.status_code == httpx.codes.BAD_REQUEST:
        raise WebhookRejected
    if not response.is_success:
        raise WebhookUnavailable
