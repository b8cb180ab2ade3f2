"""Events about ended executions, sent after their end: no lease stands behind them, a repetition is harmless."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from functions.worker.connectors.webhook import Letter, ReceiverRefused, ReceiverUnavailable
from functions.worker.tasks import work_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions.worker.connectors.webhook import Post
    from functions.worker.protocol import Protocol

log = logging.getLogger(__name__)

AT_ONCE = 10


class Outbox:
    def __init__(self, protocol: Protocol, post: Post, tick_seconds: float) -> None:
        self._protocol = protocol
        self._post = post
        self._tick_seconds = tick_seconds

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; what is being sent then is sent again by the next worker."""
        await work_until(stop, self._send_for_ever())

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
        events = await self._protocol.claim_events(AT_ONCE)
        await asyncio.gather(*map(self._send, events))
        return len(events) == AT_ONCE

    async def _send(self, event: Mapping[str, Any]) -> None:
        letter = Letter(**{name: value for name, value in event.items() if name != "attempt"})
        try:
            await self._post(letter)
            delivered = True
        except (ReceiverRefused, ReceiverUnavailable):
            delivered = False
        except Exception:  # of ours; the others' letters do not wait for it
            log.exception("an event was not sent", extra={"delivery_id": letter.id})
            delivered = False
        await self._protocol.settle_event(event, delivered=delivered)
