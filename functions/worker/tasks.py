"""Waiting for the first of several events, and ending tasks."""

from __future__ import annotations

import asyncio
from typing import Any


async def first_of(*events: asyncio.Event, seconds: float | None = None) -> None:
    """Until one of them is set, or so many seconds have passed."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(*waits)


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Ends tasks and waits until they have ended; how they ended no longer matters."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
