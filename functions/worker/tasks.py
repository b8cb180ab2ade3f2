"""Waiting for the first of several events, working until one, and ending tasks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine


async def wait_any(*events: asyncio.Event, seconds: float | None = None) -> None:
    """Until one of them is set, or so many seconds have passed."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(*waits)


async def run_until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Has it done until `stop`, and ends it wherever it is then."""
    working = asyncio.create_task(work)
    await stop.wait()
    await end(working)


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Ends tasks and waits until they have ended; how they ended no longer matters."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
