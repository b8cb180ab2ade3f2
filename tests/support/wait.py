"""Waits for another process or task: evaluates a condition until it is true or a time limit has passed."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

PAUSE_SECONDS = 0.005


def until(condition: Callable[[], T], seconds: float = 30) -> T:
    """Returns the condition's first true value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        _check(condition, deadline)
        time.sleep(PAUSE_SECONDS)
    return value


async def eventually(condition: Callable[[], T], seconds: float = 30) -> T:
    """`until` for tasks of an event loop."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        _check(condition, deadline)
        await asyncio.sleep(PAUSE_SECONDS)
    return value


def _check(condition: Callable[[], object], deadline: float) -> None:
    if time.monotonic() > deadline:
        raise AssertionError(f"Not true in time: {inspect.getsource(condition).strip()}")
