"""functions/worker/engine.py: scripted runners, the real database."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

from functions._connections.errors import SourceRefused, SourceUnavailable
from functions._shared.transports.postgres import PostgresTransport
from functions.worker.client import Batch, Protocol, service_caller
from functions.worker.engine import Engine, Signals
from tests.support.wait import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from functions.worker.client import Execution
    from tests.support.database import Database

FAMILIES = ["historical_sync", "bulk_sync"]
SOON = 0.02
NEVER = 3600.0


class Bench:
    """An engine over one database. Nothing but what a test names interrupts an execution: heartbeats come `NEVER`."""

    def __init__(self, database: Database, protocol: Protocol) -> None:
        self.database = database
        self.protocol = protocol

    async def claim(self, lease_seconds: int = 30) -> Execution:
        [execution] = await self.protocol.claim("w", FAMILIES, 1, lease_seconds)
        return execution

    async def run(
        self,
        runner: Callable[[Execution], AsyncGenerator[Batch, None]],
        *,
        heartbeat_seconds: float = NEVER,
        time_budget_seconds: float | None = None,
        lease_seconds: int = 30,
        signals: Signals | None = None,
    ) -> str:
        """Claims the one execution that waits, runs it, and answers how it ended; no task of it is left."""
        engine = Engine(self.protocol, heartbeat_seconds, time_budget_seconds)
        claimed, before = await self.claim(lease_seconds), asyncio.all_tasks()
        ended = await engine.run(claimed, runner, signals or Signals())
        assert asyncio.all_tasks() <= before
        return ended

    def due(self, job_id: str) -> None:
        """Ends the wait of an execution that is to be tried again."""
        with self.database.connect() as connection:
            connection.execute("set session_replication_role = replica")  # no guard
            connection.execute("update app.executions set run_at = now() where id = %s", (job_id,))

    def two_step(self, **columns: Any) -> str:
        """An execution of a family that cancels in two steps."""
        values = {"agency_id": self.database.agency(), "family": "bulk_sync", "max_attempts": 5} | columns
        with self.database.session({}, role="postgres") as session:
            row = session.execute(
                f"insert into app.executions ({', '.join(values)})"
                f" values ({', '.join(['%s'] * len(values))}) returning id",
                list(values.values()),
            )
        return str(row[0]["id"])

    def request_cancel(self, job_id: str) -> None:
        with self.database.worker() as session:
            session.execute("select app.cancel_execution('bulk_sync', %s, 'enough')", (job_id,))

    def records(self) -> list[str]:
        return [row["key"] for row in self.database.all("select key from app.records order by key")]


@pytest.fixture
def bench(database: Database) -> Iterator[Bench]:
    protocol = Protocol(PostgresTransport(database.login("authenticator")), service_caller(""))
    yield Bench(database, protocol)
    asyncio.run(protocol.aclose())


def batch(number: int, *keys: str, resource: str = "flights") -> Batch:
    records = [{"key": key, "data": {"batch": number}} for key in keys or (f"k{number}",)]
    return Batch(resource, records, {"at": number}, {"windows_done": number, "windows_total": 3})


def moves(database: Database, job_id: str) -> list[str]:
    return [event["event"] for event in database.events(job_id)]


async def three_batches(_: Execution) -> AsyncGenerator[Batch, None]:
    for number in (1, 2, 3):
        yield batch(number)


class Slow:
    """A runner that commits one batch and then fetches for ever; `ended` tells that it was stopped in order."""

    def __init__(self) -> None:
        self.fetching = asyncio.Event()
        self.go_on = asyncio.Event()
        self.ended = False

    async def __call__(self, _: Execution) -> AsyncGenerator[Batch, None]:
        yield batch(1)
        try:
            self.fetching.set()
            await self.go_on.wait()
        finally:
            await asyncio.sleep(0)  # closing a connection takes a moment too
            self.ended = True
        yield batch(2)


async def committed(database: Database, job_id: str, seq: int) -> None:
    await eventually(lambda: database.execution(job_id)["seq"] == seq)


def test_batches_are_committed_in_order_and_the_execution_completes(bench: Bench) -> None:
    job_id = bench.database.start(bench.database.member())

    outcome = asyncio.run(bench.run(three_batches))

    row = bench.database.execution(job_id)
    assert outcome == row["status"] == "completed"
    assert (row["seq"], row["records"], row["checkpoint"]) == (3, 3, {"at": 3})
    assert row["progress"] == {"windows_done": 3, "windows_total": 3}
    assert moves(bench.database, job_id) == ["start", "claim", "complete"]
    stored = bench.database.all("select key, data, resource from app.records order by stored_at")
    assert [(r["key"], r["data"], r["resource"]) for r in stored] == [
        (f"k{n}", {"batch": n}, "flights") for n in (1, 2, 3)
    ]


def test_a_runner_without_batches_completes(bench: Bench) -> None:
    job_id = bench.database.start(bench.database.member())

    async def nothing(_: Execution) -> AsyncGenerator[Batch, None]:
        return
        yield

    assert asyncio.run(bench.run(nothing)) == "completed"
    assert bench.database.execution(job_id)["checkpoint"] is None


def test_the_runner_is_given_what_was_claimed(bench: Bench) -> None:
    user = bench.database.member()
    connection_id = bench.database.connection(user.agency_id, secret={"token": "s"})
    bench.database.start(user, connection_id)
    seen: list[Execution] = []

    async def runner(execution: Execution) -> AsyncGenerator[Batch, None]:
        seen.append(execution)
        yield batch(1)

    asyncio.run(bench.run(runner))
    [execution] = seen
    assert execution.spec == {"date_from": "2013-01-01", "date_to": "2013-01-31", "resources": ["flights", "weather"]}
    assert (execution.checkpoint, execution.seq, execution.agency_id) == (None, 0, user.agency_id)
    assert execution.connection is not None
    assert execution.connection["secret"] == {"token": "s"}


def test_the_next_page_is_fetched_while_one_is_committed(bench: Bench) -> None:
    bench.database.start(bench.database.member())
    row = bench.database

    async def scenario() -> None:
        fetched_again = asyncio.Event()

        async def runner(_: Execution) -> AsyncGenerator[Batch, None]:
            yield batch(1)
            fetched_again.set()
            yield batch(2)

        with row.connect() as blocker:
            running = asyncio.create_task(bench.run(runner))
            await eventually(lambda: row.all("select from app.executions where status = 'running'"))
            with blocker.transaction():
                blocker.execute("lock app.records")  # no commit gets through
                await asyncio.wait_for(fetched_again.wait(), 10)
        assert await running == "completed"

    asyncio.run(scenario())


@pytest.mark.parametrize("hinted", [True, False], ids=["hint", "heartbeat"])
def test_a_cancel_stops_a_slow_fetch_where_it_stands(bench: Bench, *, hinted: bool) -> None:
    user = bench.database.member()
    job_id = bench.database.start(user)

    async def scenario() -> str:
        slow, signals = Slow(), Signals()
        running = asyncio.create_task(bench.run(slow, signals=signals, heartbeat_seconds=NEVER if hinted else SOON))
        await committed(bench.database, job_id, 1)
        await slow.fetching.wait()
        with bench.database.session(user.claims) as session:
            session.call("cancel_sync_job", job_id=job_id)
        if hinted:
            signals.hint.set()
        outcome = await running
        assert slow.ended
        return outcome

    assert asyncio.run(scenario()) == "lost"
    row = bench.database.execution(job_id)
    assert (row["status"], row["seq"], row["checkpoint"], row["records"]) == ("cancelled", 1, {"at": 1}, 1)
    assert bench.records() == ["k1"]
    assert moves(bench.database, job_id) == ["start", "claim", "cancel"]


def test_a_hint_without_a_cancel_changes_nothing(bench: Bench) -> None:
    job_id = bench.database.start(bench.database.member())

    async def scenario() -> str:
        slow, signals = Slow(), Signals()
        running = asyncio.create_task(bench.run(slow, signals=signals))
        await committed(bench.database, job_id, 1)
        leased = bench.database.execution(job_id)["lease_expires_at"]
        for _ in range(3):
            signals.hint.set()
            await eventually(lambda: not signals.hint.is_set())
        await eventually(lambda: bench.database.execution(job_id)["lease_expires_at"] > leased)
        slow.go_on.set()
        return await running

    assert asyncio.run(scenario()) == "completed"
    assert bench.records() == ["k1", "k2"]


def test_a_cancel_between_two_pages_is_heard_by_the_commit(bench: Bench) -> None:
    user = bench.database.member()
    job_id = bench.database.start(user)

    async def runner(_: Execution) -> AsyncGenerator[Batch, None]:
        yield batch(1)
        await committed(bench.database, job_id, 1)
        with bench.database.session(user.claims) as session:
            session.call("cancel_sync_job", job_id=job_id)
        yield batch(2)
        await asyncio.Event().wait()

    assert asyncio.run(bench.run(runner)) == "lost"
    assert bench.records() == ["k1"]
    assert bench.database.execution(job_id)["seq"] == 1


def test_a_cancel_after_the_last_page_wins_over_the_outcome(bench: Bench) -> None:
    user = bench.database.member()
    job_id = bench.database.start(user)

    async def runner(_: Execution) -> AsyncGenerator[Batch, None]:
        yield batch(1)
        await committed(bench.database, job_id, 1)
        with bench.database.session(user.claims) as session:
            session.call("cancel_sync_job", job_id=job_id)

    assert asyncio.run(bench.run(runner)) == "lost"
    assert bench.database.execution(job_id)["status"] == "cancelled"
    assert moves(bench.database, job_id) == ["start", "claim", "cancel"]


@pytest.mark.parametrize("error", [SourceUnavailable("source_unavailable", "Later."), ValueError("a bug")])
def test_a_failure_after_a_cancel_is_not_written_down(bench: Bench, error: Exception) -> None:
    user = bench.database.member()
    job_id = bench.database.start(user)

    async def runner(_: Execution) -> AsyncGenerator[Batch, None]:
        yield batch(1)
        await committed(bench.database, job_id, 1)
        with bench.database.session(user.claims) as session:
            session.call("cancel_sync_job", job_id=job_id)
        raise error

    assert asyncio.run(bench.run(runner)) == "lost"
    row = bench.database.execution(job_id)
    assert (row["status"], row["error"], row["attempts"]) == ("cancelled", None, 0)


def test_a_worker_that_was_overtaken_stores_nothing(bench: Bench) -> None:
    """Its lease ran out and another one took over: the first commit is answered `lost`."""
    job_id = bench.database.start(bench.database.member())

    async def runner(execution: Execution) -> AsyncGenerator[Batch, None]:
        if execution.lease_token > 1:
            yield batch(1, "of the second")
            return
        await bench.protocol.release(execution, "as the reaper would")
        assert await bench.run(runner) == "completed"
        yield batch(1, "of the first")

    assert asyncio.run(bench.run(runner)) == "lost"
    assert bench.records() == ["of the second"]
    assert moves(bench.database, job_id) == ["start", "claim", "release", "claim", "complete"]


@pytest.mark.parametrize("hinted", [True, False], ids=["hint", "heartbeat"])
def test_a_two_step_cancel_is_acknowledged_in_the_middle_of_a_fetch(bench: Bench, *, hinted: bool) -> None:
    job_id = bench.two_step(connection_id=None)

    async def scenario() -> str:
        slow, signals = Slow(), Signals()

        async def runner(execution: Execution) -> AsyncGenerator[Batch, None]:
            async for one in slow(execution):
                yield Batch("flights", [], one.checkpoint, one.progress)

        running = asyncio.create_task(bench.run(runner, signals=signals, heartbeat_seconds=NEVER if hinted else SOON))
        await committed(bench.database, job_id, 1)
        bench.request_cancel(job_id)
        if hinted:
            signals.hint.set()
        return await running

    assert asyncio.run(scenario()) == "cancelled"
    row = bench.database.execution(job_id)
    assert (row["status"], row["seq"], row["cancel_reason"]) == ("cancelled", 1, "enough")
    assert moves(bench.database, job_id) == ["start", "claim", "request_cancel", "acknowledge"]


def test_a_two_step_cancel_between_pages_stores_the_page_under_way_and_no_other(bench: Bench) -> None:
    job_id = bench.two_step()

    async def runner(_: Execution) -> AsyncGenerator[Batch, None]:
        yield Batch("flights", [], {"at": 1}, {})
        await committed(bench.database, job_id, 1)
        bench.request_cancel(job_id)
        yield Batch("flights", [], {"at": 2}, {})
        yield Batch("flights", [], {"at": 3}, {})

    assert asyncio.run(bench.run(runner)) == "cancelled"
    row = bench.database.execution(job_id)
    assert (row["seq"], row["checkpoint"]) == (2, {"at": 2})
    assert moves(bench.database, job_id)[-1] == "acknowledge"


def test_a_failure_while_cancelling_is_no_new_attempt(bench: Bench) -> None:
    job_id = bench.two_step()

    async def runner(_: Execution) -> AsyncGenerator[Batch, None]:
        yield Batch("flights", [], {"at": 1}, {})
        await committed(bench.database, job_id, 1)
        bench.request_cancel(job_id)
        raise SourceUnavailable("source_unavailable", "Later.")

    assert asyncio.run(bench.run(runner)) == "cancelled"
    assert moves(bench.database, job_id)[-1] == "acknowledge"


def test_shut_down_or_out_of_time_it_is_released_and_goes_on_from_its_checkpoint(bench: Bench) -> None:
    job_id = bench.database.start(bench.database.member())

    async def scenario(slow: Slow, signals: Signals) -> None:
        running = asyncio.create_task(bench.run(slow, signals=signals))
        await committed(bench.database, job_id, 1)
        signals.stop.set()
        assert await running == "queued"
        assert slow.ended

    async def fetches_for_ever(execution: Execution) -> AsyncGenerator[Batch, None]:
        assert (execution.checkpoint, execution.seq) == ({"at": 1}, 1)
        await asyncio.Event().wait()
        yield batch(2)

    async def rest(execution: Execution) -> AsyncGenerator[Batch, None]:
        assert (execution.checkpoint, execution.seq) == ({"at": 1}, 1)
        yield batch(2)

    def released(reason: str) -> None:
        row = bench.database.execution(job_id)
        assert (row["status"], row["checkpoint"], row["attempts"], row["error"]) == ("queued", {"at": 1}, 0, None)
        event = bench.database.events(job_id)[-1]
        assert (event["event"], event["reason"], event["actor"]) == ("release", reason, "worker:w")

    asyncio.run(scenario(Slow(), Signals()))
    released("shutdown")
    assert asyncio.run(bench.run(fetches_for_ever, time_budget_seconds=SOON)) == "queued"
    released("out_of_time")
    assert asyncio.run(bench.run(rest)) == "completed"
    assert bench.records() == ["k1", "k2"]
    assert bench.database.execution(job_id)["records"] == 2


def test_a_worker_that_shuts_down_at_once_leaves_everything_as_it_was(bench: Bench) -> None:
    job_id = bench.database.start(bench.database.member())

    async def scenario() -> str:
        signals = Signals()
        signals.stop.set()
        return await bench.run(Slow(), signals=signals)

    assert asyncio.run(scenario()) == "queued"
    assert bench.database.execution(job_id)["attempts"] == 0


def test_an_unavailable_source_is_tried_again_later_until_the_attempts_are_used_up(bench: Bench) -> None:
    job_id = bench.two_step(max_attempts=2)

    async def runner(_: Execution) -> AsyncGenerator[Batch, None]:
        raise SourceUnavailable("source_unavailable", 'The source answered 503 for "flights". Try again later.')
        yield

    assert asyncio.run(bench.run(runner)) == "queued"
    row = bench.database.execution(job_id)
    assert (row["attempts"], row["run_at"] > bench.database.one("select now()")["now"]) == (1, True)
    assert row["error"] == {
        "code": "source_unavailable",
        "message": 'The source answered 503 for "flights". Try again later.',
    }
    assert asyncio.run(bench.protocol.claim("w", FAMILIES, 1, 30)) == []

    bench.due(job_id)
    assert asyncio.run(bench.run(runner)) == "failed"
    assert bench.database.execution(job_id)["error"]["code"] == "source_unavailable"
    assert moves(bench.database, job_id) == ["start", "claim", "release", "claim", "fail"]


def test_progress_between_two_failures_gives_all_attempts_back(bench: Bench) -> None:
    job_id = bench.two_step(max_attempts=2)

    async def runner(execution: Execution) -> AsyncGenerator[Batch, None]:
        yield Batch("flights", [], {"at": execution.seq + 1}, {})
        raise SourceUnavailable("source_unavailable", "Later.")

    for nth in (1, 2, 3):
        assert asyncio.run(bench.run(runner)) == "queued"
        row = bench.database.execution(job_id)
        assert (row["attempts"], row["checkpoint"]) == (1, {"at": nth})
        bench.due(job_id)


def test_the_page_before_a_failed_fetch_is_stored(bench: Bench) -> None:
    job_id = bench.database.start(bench.database.member())

    async def runner(_: Execution) -> AsyncGenerator[Batch, None]:
        yield batch(1)
        raise SourceUnavailable("source_unavailable", "Later.")

    assert asyncio.run(bench.run(runner)) == "queued"
    assert bench.records() == ["k1"]
    assert bench.database.execution(job_id)["checkpoint"] == {"at": 1}


def test_a_source_that_refuses_fails_the_execution_at_once(bench: Bench) -> None:
    job_id = bench.database.start(bench.database.member())

    async def runner(_: Execution) -> AsyncGenerator[Batch, None]:
        raise SourceRefused("source_unauthorized", "Check the secret.")
        yield

    assert asyncio.run(bench.run(runner)) == "failed"
    row = bench.database.execution(job_id)
    assert row["error"] == {"code": "source_unauthorized", "message": "Check the secret."}
    assert moves(bench.database, job_id) == ["start", "claim", "fail"]


def test_a_bug_is_tried_again_logged_in_full_and_shown_to_nobody(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = bench.database.start(bench.database.member())

    async def runner(_: Execution) -> AsyncGenerator[Batch, None]:
        raise KeyError("internals")
        yield

    with caplog.at_level(logging.ERROR):
        assert asyncio.run(bench.run(runner)) == "queued"
    row = bench.database.execution(job_id)
    assert (row["error"]["code"], row["attempts"]) == ("internal_error", 1)
    assert "internals" not in str(row["error"])
    [record] = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)
    assert vars(record)["execution_id"] == job_id


def test_a_batch_that_is_too_large_fails_for_good(bench: Bench) -> None:
    job_id = bench.database.start(bench.database.member())

    async def runner(_: Execution) -> AsyncGenerator[Batch, None]:
        yield batch(1, *[f"k{n}" for n in range(5001)])

    assert asyncio.run(bench.run(runner)) == "failed"
    assert bench.database.execution(job_id)["error"]["code"] == "batch_too_large"
    assert bench.records() == []


def test_a_value_that_the_database_cannot_hold_fails_for_good(bench: Bench) -> None:
    job_id = bench.database.start(bench.database.member())

    async def runner(_: Execution) -> AsyncGenerator[Batch, None]:
        yield Batch("flights", [{"key": "k", "data": {"text": "a\0b"}}], {}, {})

    assert asyncio.run(bench.run(runner)) == "failed"
    assert bench.database.execution(job_id)["error"]["code"] == "invalid_value"


def test_heartbeats_keep_the_lease_during_a_slow_page(bench: Bench) -> None:
    job_id = bench.database.start(bench.database.member())
    database = bench.database

    async def scenario() -> str:
        slow = Slow()
        running = asyncio.create_task(bench.run(slow, heartbeat_seconds=SOON, lease_seconds=1))
        await committed(database, job_id, 1)
        expiry = database.execution(job_id)["lease_expires_at"]
        await eventually(lambda: database.one("select clock_timestamp() > %s as past", (expiry,))["past"])
        with database.worker() as session:
            assert session.call("worker_reap") == {"released": 0, "failed": 0, "cancelled": 0}
        slow.go_on.set()
        return await running

    assert asyncio.run(scenario()) == "completed"
    assert moves(database, job_id) == ["start", "claim", "complete"]


def test_a_lost_lease_ends_the_runner_by_heartbeat(bench: Bench) -> None:
    job_id = bench.database.start(bench.database.member())

    async def scenario() -> str:
        slow = Slow()
        running = asyncio.create_task(bench.run(slow, heartbeat_seconds=NEVER, lease_seconds=1, signals=signals))
        await committed(bench.database, job_id, 1)
        with bench.database.worker() as session:
            await eventually(lambda: session.call("worker_reap")["released"] == 1)
        signals.hint.set()
        outcome = await running
        assert slow.ended
        return outcome

    signals = Signals()
    assert asyncio.run(scenario()) == "lost"
    row = bench.database.execution(job_id)
    assert (row["status"], row["attempts"]) == ("queued", 1)


@pytest.mark.fresh_database
def test_a_watch_that_fails_stops_the_runner_before_anything_else_is_said(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """The heartbeat breaks in a way nobody foresaw: the execution is handed back, and nobody works on it meanwhile."""
    job_id = bench.database.start(bench.database.member())
    bench.database.admin.execute("alter function public.worker_heartbeat rename to no_heartbeat")

    async def scenario() -> str:
        slow, signals = Slow(), Signals()
        running = asyncio.create_task(bench.run(slow, signals=signals))
        await committed(bench.database, job_id, 1)
        with bench.database.connect() as blocker, blocker.transaction():
            blocker.execute("select from app.executions where id = %s for update", (job_id,))
            signals.hint.set()
            await eventually(lambda: slow.ended)  # `fail` still waits for the lock
            assert not running.done()
        return await running

    with caplog.at_level(logging.ERROR):
        assert asyncio.run(scenario()) == "queued"
    assert bench.database.execution(job_id)["error"]["code"] == "internal_error"
