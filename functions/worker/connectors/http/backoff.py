"""Waits between requests: after a failure, and for the rate limit."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from tenacity import RetryCallState, wait_random_exponential

from functions._connections.errors import SourceUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@dataclass(frozen=True)
class Backoff:
    """Waits between attempts: random, below a bound that doubles from `base_seconds` to `max_seconds`.

    A wait is at least the source's Retry-After, but that counts up to `retry_after_max_seconds` only. Tests replace
    `sleep`.
    """

    attempts: int = 5
    base_seconds: float = 0.5
    max_seconds: float = 30.0
    retry_after_max_seconds: float = 120.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def wait(self, state: RetryCallState) -> float:
        """The next wait in seconds, as tenacity calls it."""
        jittered = wait_random_exponential(multiplier=self.base_seconds, max=self.max_seconds)(state)
        error = state.outcome.exception() if state.outcome else None
        requested = error.retry_after if isinstance(error, SourceUnavailable) else None
        return max(jittered, min(requested or 0.0, self.retry_after_max_seconds))


class RateLimiter:
    """Spaces requests evenly. `per_second` None: no limit."""

    def __init__(self, per_second: float | None, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._interval = 1 / per_second if per_second else 0.0
        self._sleep = sleep
        self._free_at = -math.inf

    async def wait(self) -> None:
        """Wait until the next request may be sent."""
        if self._interval:
            now = asyncio.get_running_loop().time()
            start = max(now, self._free_at)
            self._free_at = start + self._interval
            if start > now:
                await self._sleep(start - now)


def retry_after(text: str | None) -> float | None:
    """Seconds, from either form of Retry-After (a number or a date). None if it is missing or invalid."""
    try:
        return max(0.0, float(int(text or "")))
    except (ValueError, OverflowError):
        pass
    try:
        moment = parsedate_to_datetime(text or "")
    except (ValueError, OverflowError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
