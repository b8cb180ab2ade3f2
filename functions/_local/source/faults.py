"""Faults on request, and the rate limit."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from http import HTTPStatus


@dataclass(frozen=True)
class Fault:
    kind: str
    status: int = HTTPStatus.OK
    retry_after: int | str | None = None
    seconds: float = 0.0


class Faults:
    """Each request for a resource takes the next fault of the queue. Safe to use from any thread.

    `delay_seconds` delays every response for a resource.
    """

    def __init__(self, delay_seconds: float = 0.0) -> None:
        self.delay_seconds = delay_seconds
        self._queue: deque[Fault] = deque()

    def status(self, status: int, *, times: int = 1, retry_after: int | str | None = None) -> None:
        """Responds with this status. `retry_after` is in seconds, or an HTTP date."""
        self._queue.extend([Fault("status", status, retry_after)] * times)

    def invalid_json(self, *, times: int = 1) -> None:
        self._queue.extend([Fault("invalid_json")] * times)

    def truncate(self, *, times: int = 1) -> None:
        """Closes the connection after half of the body."""
        self._queue.extend([Fault("truncate")] * times)

    def delay(self, seconds: float, *, times: int = 1) -> None:
        self._queue.extend([Fault("delay", seconds=seconds)] * times)

    def clear(self) -> None:
        self._queue.clear()
        self.delay_seconds = 0.0

    def take(self) -> Fault | None:
        try:
            return self._queue.popleft()
        except IndexError:
            return None


class Bucket:
    """A token bucket for the requests of one second."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._tokens = self._size = max(1.0, per_second)
        self._filled = time.monotonic()
        self._lock = threading.Lock()

    def take(self) -> float:
        """Seconds until the next token; zero when this call took one."""
        with self._lock:
            now = time.monotonic()
            self._tokens = min(self._size, self._tokens + (now - self._filled) * self._per_second)
            self._filled = now
            if self._tokens < 1:
                return (1 - self._tokens) / self._per_second
            self._tokens -= 1
            return 0.0
