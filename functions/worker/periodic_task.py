"""Work of the worker that repeats and holds no lease: sending events, deleting secrets."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from functions.worker.tasks import run_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PeriodicTask:
    """Repeats `step`, which returns whether more may be due: then at once, else after `interval_seconds`.

    An error of a step is logged as "periodic task failed" with the task's name, and the task goes on.
    """

    name: str
    step: Callable[[], Awaitable[bool]]
    interval_seconds: float

    async def run(self, shutdown: asyncio.Event) -> None:
        """Repeat until `shutdown`. A step that is under way is cancelled; another worker repeats it."""
        await run_until(shutdown, self._repeat())

    async def drain(self) -> None:
        """Repeat until nothing is due. Raises what a step raises."""
        while await self.step():
            pass

    async def _repeat(self) -> None:
        while True:
            try:
                await self.drain()
            except Exception:
                log.exception("periodic task failed", extra={"task": self.name})
            await asyncio.sleep(self.interval_seconds)
