"""Connections that wait for the next call."""

from __future__ import annotations

import select
import time
from collections import deque
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable


class _Closable(Protocol):
    def close(self) -> object: ...


T = TypeVar("T", bound=_Closable)


class Idle(deque[tuple[T, float]], Generic[T]):
    """With when each was last used; the last used is taken first, as the least likely to have gone. Threads share it.

    What was idle for `seconds` may have been forgotten by what stands in between, without a word. The time is the
    calendar's: no other clock knows that the process was frozen.
    """

    def __init__(self, seconds: float, fileno: Callable[[T], int]) -> None:
        super().__init__()
        self._seconds = seconds
        self._fileno = fileno

    def keep(self, connection: T) -> None:
        self.append((connection, time.time()))

    def take(self) -> T | None:
        while (last := self._last()) is not None:
            connection, used_at = last
            if 0 <= time.time() - used_at < self._seconds and not _has_gone(self._fileno(connection)):
                return connection
            connection.close()
        return None

    def close(self) -> None:
        while (last := self._last()) is not None:
            last[0].close()

    def _last(self) -> tuple[T, float] | None:
        try:
            return self.pop()
        except IndexError:  # none, or another thread was faster
            return None


def _has_gone(descriptor: int) -> bool:
    """An idle server says nothing: something to read is its farewell. (`select` ends at 1024 open files.)"""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(0))
