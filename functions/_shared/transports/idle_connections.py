"""Connections to Postgres that wait for the next call."""

from __future__ import annotations

import select
import time
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[Any]


class IdleConnections(deque["tuple[Connection, float]"]):
    """Each with the time of its last use. The last used is taken first, as the least likely to be closed.

    A proxy may have dropped a connection that was idle for `seconds`, without closing it. The time is the calendar's,
    because no other clock runs on while the process is frozen. Threads share it.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def keep(self, connection: Connection) -> None:
        self.append((connection, time.time()))

    def take(self) -> Connection | None:
        while (last := self._last()) is not None:
            connection, used_at = last
            if 0 <= time.time() - used_at < self._seconds and not _is_closed(connection):
                return connection
            connection.close()
        return None

    def close(self) -> None:
        while (last := self._last()) is not None:
            last[0].close()

    def _last(self) -> tuple[Connection, float] | None:
        try:
            return self.pop()
        except IndexError:  # none, or another thread was faster
            return None


def _is_closed(connection: Connection) -> bool:
    """A readable idle connection means that the server closed it. (`select` supports only 1024 open files.)"""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
