"""Two or three sessions on real connections, whose steps run in a given order.

A session's steps are its call, in a transaction of its own, and that transaction's end. After each step all sessions
run until they have finished or wait for a lock, so an order of steps is always the same interleaving.
"""

from __future__ import annotations

import itertools
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from tests.support.database import SqlError, rpc
from tests.support.wait import until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.support.database import Database, Session

Statement = tuple[str, dict[str, Any]]

BATCH = 2  # records
WAITS = (
    "select from pg_stat_activity as a join pg_locks as l using (pid)"
    " where pid = %s and a.state = 'active' and a.wait_event_type = 'Lock' and not l.granted"
)


def normal(response: Any) -> Any:
    """A result such as lost or completed, a status, the number of claimed or reaped rows, or an error code."""
    if isinstance(response, SqlError):
        return response.code
    value = response[0]["result"]
    if isinstance(value, dict):
        return value.get("result") or value.get("status") or sum(value.values())
    return len(value) if isinstance(value, list) else value


class RaceSession:
    """A session whose steps run in order in its own thread, so that a waiting one does not block the others."""

    def __init__(self, database: Database, session: Session) -> None:
        self.database = database
        self.session = session
        self.thread = ThreadPoolExecutor(1)
        self.steps: list[Future[Any]] = []

    def begin(self, statement: Statement) -> None:
        self.session.execute("begin")
        self.steps = [self.thread.submit(self.session.attempt, *statement)]

    def end(self, how: str) -> None:
        self.steps.append(self.thread.submit(self.session.execute, how))

    def is_at_rest(self) -> bool:
        """Whether it has finished its steps or waits for a lock."""
        done = all(step.done() for step in self.steps)
        return done or bool(self.database.all(WAITS, (self.session.connection.info.backend_pid,)))

    def close(self) -> None:
        self.thread.shutdown()
        self.session.close()


def interleavings(names: Sequence[str]) -> list[tuple[str, ...]]:
    """All orders of the two steps of each session."""
    return sorted(set(itertools.permutations([*names, *names])))


def perform(
    sessions: Mapping[str, RaceSession], calls: Mapping[str, Statement], order: Sequence[str], ends: Mapping[str, str]
) -> dict[str, Any]:
    """Runs the sessions' steps in this order. Returns the result of each session's call."""
    begun: set[str] = set()
    for session in sessions.values():
        session.steps = []
    for name in order:
        if name in begun:
            sessions[name].end(ends[name])
        else:
            sessions[name].begin(calls[name])
        begun.add(name)
        wait(sessions[name].steps, 0.002)  # most are done by then, which saves a query
        until(lambda: all(session.is_at_rest() for session in sessions.values()))
    for session in sessions.values():
        session.steps[1].result(30)
    return {name: normal(session.steps[0].result(30)) for name, session in sessions.items()}


def batch(job_id: str, lease_token: int = 1, seq: int = 1, keys: Sequence[str] = ()) -> Statement:
    records = [{"key": key, "data": {}} for key in keys or (f"{job_id}{n}" for n in range(BATCH))]
    sent = {"execution_id": job_id, "lease_token": lease_token, "seq": seq, "resource": "flights", "records": records}
    return rpc("worker_commit_batch", **sent, checkpoint={}, progress={})
