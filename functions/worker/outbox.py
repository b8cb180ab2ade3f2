"""Sends events about ended executions to webhooks. No lease is held, because sending an event twice is harmless."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from functions.worker.connectors.webhook import WebhookMessage, WebhookRejected, WebhookUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions.worker.client import WorkerClient
    from functions.worker.connectors.webhook import Send

log = logging.getLogger(__name__)

MAX_EVENTS = 10


@dataclass(frozen=True)
class Outbox:
    """The step of a PeriodicTask."""

    client: WorkerClient
    send: Send

    async def send_due(self) -> bool:
        """Send up to MAX_EVENTS events at once. Return whether more may be due."""
        events = await self.client.claim_events(MAX_EVENTS)
        await asyncio.gather(*map(self._send, events))
        return len(events) == MAX_EVENTS

    async def _send(self, event: Mapping[str, Any]) -> None:
        message = WebhookMessage(**{name: value for name, value in event.items() if name != "attempt"})
        try:
            await self.send(message)
            delivered = True
        except (WebhookRejected, WebhookUnavailable):
            delivered = False
        except Exception:  # a bug of the worker: the other events are still sent
            log.exception("could not send event", extra={"delivery_id": message.id})
            delivered = False
        await self.client.ack_event(event, delivered=delivered)
