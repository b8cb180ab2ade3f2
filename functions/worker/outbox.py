"""Events about ended executions, sent after their end: no lease stands behind them, a repetition is harmless."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from functions.worker.connectors.webhook import WebhookMessage, WebhookRejected, WebhookUnavailable
from functions.worker.tasks import run_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions.worker.client import Protocol
    from functions.worker.connectors.webhook import Post

log = logging.getLogger(__name__)

MAX_CONCURRENT = 10


class Outbox:
    def __init__(self, protocol: Protocol, post: Post, tick_seconds: float) -> None:
        self._protocol = protocol
        self._post = post
        self._tick_seconds = tick_seconds

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; what is being sent then is sent again by the next worker."""
        await run_until(stop, self._send_for_ever())

    async def drain(self) -> None:
        """Until nothing is due."""
        while await self._send_some():
            pass

    async def _send_for_ever(self) -> None:
        while True:
            try:
                more = await self._send_some()
            except Exception:
                log.exception("no events")
                more = False
            if not more:
                await asyncio.sleep(self._tick_seconds)

    async def _send_some(self) -> bool:
        """Whether more may be due."""
        events = await self._protocol.claim_events(MAX_CONCURRENT)
        await asyncio.gather(*map(self._send, events))
        return len(events) == MAX_CONCURRENT

    async def _send(self, event: Mapping[str, Any]) -> None:
        message = WebhookMessage(**{name: value for name, value in event.items() if name != "attempt"})
        try:
            await self._post(message)
            delivered = True
        except (WebhookRejected, WebhookUnavailable):
            delivered = False
        except Exception:  # of ours; the others' letters do not wait for it
            log.exception("an event was not sent", extra={"delivery_id": message.id})
            delivered = False
        await self._protocol.ack_event(event, delivered=delivered)
