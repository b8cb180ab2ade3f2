"""When to ask: after a failure, and at all."""

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
    """A wait is random below a bound that doubles from `base_seconds` to `max_seconds`, and no less than Retry-After.

    Retry-After counts up to `retry_after_max_seconds`. `sleep` is replaced where waiting would be a waste.
    """

    attempts: int = 5
    base_seconds: float = 0.5
    max_seconds: float = 30.0
    retry_after_max_seconds: float = 120.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def wait(self, state: RetryCallState) -> float:
        jittered = wait_random_exponential(multiplier=self.base_seconds, max=self.max_seconds)(state)
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, SourceUnavailable) else None
        return max(jittered, min(asked or 0.0, self.retry_after_max_seconds))


class RateLimiter:
    """Spaces requests evenly; None lets them all pass."""

    def __init__(self, per_second: float | None, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._interval = 1 / per_second if per_second else 0.0
        self._sleep = sleep
        self._free_at = -math.inf

    async def turn(self) -> None:
        if self._interval:
            now = asyncio.get_running_loop().time()
            turn = max(now, self._free_at)
            self._free_at = turn + self._interval
            if turn > now:
                await self._sleep(turn - now)


def retry_after(text: str | None) -> float | None:
    """Seconds, from either form of Retry-After; None when there is none to be read."""
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
