"""Helpers for asyncio tasks: wait for the first of several, run until an event, cancel and wait."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine


async def wait_any(*awaited: asyncio.Event | asyncio.Future[Any], seconds: float | None = None) -> None:
    """Return once an event is set, a future is done, or `seconds` have passed. The futures are not cancelled."""
    waits = [asyncio.create_task(one.wait()) for one in awaited if isinstance(one, asyncio.Event)]
    futures = [one for one in awaited if not isinstance(one, asyncio.Event)]
    try:
        await asyncio.wait([*waits, *futures], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_and_wait(*waits)


async def run_until(event: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until the event is set, then cancel it wherever it is."""
    task = asyncio.create_task(work)
    await event.wait()
    await cancel_and_wait(task)


async def cancel_and_wait(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait until they have ended. Their results and errors are dropped."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
