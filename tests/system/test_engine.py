"""functions/worker/engine.py with scripted runners and a real database."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

from functions._connections.errors import SourceRefused, SourceUnavailable
from functions._shared.transports.postgres import PostgresTransport
from functions.worker.client import Batch, WorkerClient, service_caller
from functions.worker.engine import Engine, Signals
from tests.support.wait import eventually
from tests.support.worker_clients import client_behind_proxy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from functions.worker.client import Execution
    from tests.support.database import Database
    from tests.support.proxy import Proxy

FAMILIES = ["historical_sync", "bulk_sync"]
SOON = 0.02
NEVER = 3600.0


class EngineFixture:
    """Engines with one database. By default no heartbeat and no time budget interrupts an execution."""

    def __init__(self, database: Database, client: WorkerClient) -> None:
        self.database = database
        self.client = client

    async def claim(self, lease_seconds: int = 30) -> Execution:
        [execution] = await self.client.claim("w", FAMILIES, 1, lease_seconds)
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
        """Claim and run the queued execution. Return how it ended; none of its tasks may be left."""
        made = Engine(self.client, heartbeat_seconds, time_budget_seconds)
        claimed, before = await self.claim(lease_seconds), asyncio.all_tasks()
        ended = await made.run(claimed, runner, signals or Signals())
        assert asyncio.all_tasks() <= before
        return ended

    def end_retry_wait(self, job_id: str) -> None:
        """End the wait of an execution that will be retried."""
        with self.database.connect() as connection:
            connection.execute("set session_replication_role = replica")  # no guard
            connection.execute("update app.executions set run_at = now() where id = %s", (job_id,))

    def start_bulk_sync(self, **columns: Any) -> str:
        """Insert an execution of a family that cancels in two steps."""
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
def engine(database: Database) -> Iterator[EngineFixture]:
    client = WorkerClient(PostgresTransport(database.login("authenticator")), service_caller(""))
    yield EngineFixture(database, client)
    asyncio.run(client.aclose())


def make_batch(number: int, *keys: str, resource: str = "flights") -> Batch:
    records = [{"key": key, "data": {"batch": number}} for key in keys or (f"k{number}",)]
    return Batch(resource, records, {"at": number}, {"windows_done": number, "windows_total": 3})


def events(database: Database, job_id: str) -> list[str]:
    return [event["event"] for event in database.events(job_id)]


async def three_batches(_: Execution) -> AsyncGenerator[Batch, None]:
    for number in (1, 2, 3):
        yield make_batch(number)


class SlowRunner:
    """Commits one batch, then fetches until `resume`. `ended` is set when it is stopped in order."""

    def __init__(self) -> None:
        self.fetching = asyncio.Event()
        self.resume = asyncio.Event()
        self.ended = False

    async def __call__(self, _: Execution) -> AsyncGenerator[Batch, None]:
        yield make_batch(1)
        try:
            self.fetching.set()
            await self.resume.wait()
        finally:
            await asyncio.sleep(0)  # closing a connection takes a moment
            self.ended = True
        yield make_batch(2)


async def wait_for_seq(database: Database, job_id: str, seq: int) -> None:
    await eventually(lambda: database.execution(job_id)["seq"] == seq)


def test_run__commits_batches_in_order_and_completes(engine: EngineFixture) -> None:
    job_id = engine.database.start(engine.database.member())

    outcome = asyncio.run(engine.run(three_batches))

    row = engine.database.execution(job_id)
    assert outcome == row["status"] == "completed"
    assert (row["seq"], row["records"], row["checkpoint"]) == (3, 3, {"at": 3})
    assert row["progress"] == {"windows_done": 3, "windows_total": 3}
    assert events(engine.database, job_id) == ["start", "claim", "complete"]
    stored = engine.database.all("select key, data, resource from app.records order by stored_at")
    assert [(r["key"], r["data"], r["resource"]) for r in stored] == [
        (f"k{n}", {"batch": n}, "flights") for n in (1, 2, 3)
    ]


def test_run__no_batches__completes(engine: EngineFixture) -> None:
    job_id = engine.database.start(engine.database.member())

    async def nothing(_: Execution) -> AsyncGenerator[Batch, None]:
        return
        yield

    assert asyncio.run(engine.run(nothing)) == "completed"
    assert engine.database.execution(job_id)["checkpoint"] is None


def test_run__runner_receives_the_claimed_execution(engine: EngineFixture) -> None:
    user = engine.database.member()
    connection_id = engine.database.connection(user.agency_id, secret={"token": "s"})
    engine.database.start(user, connection_id)
    seen: list[Execution] = []

    async def runner(execution: Execution) -> AsyncGenerator[Batch, None]:
        seen.append(execution)
        yield make_batch(1)

    asyncio.run(engine.run(runner))
    [execution] = seen
    assert execution.spec == {"date_from": "2013-01-01", "date_to": "2013-01-31", "resources": ["flights", "weather"]}
    assert (execution.checkpoint, execution.seq, execution.agency_id) == (None, 0, user.agency_id)
    assert execution.connection is not None
    assert execution.connection["secret"] == {"token": "s"}


def test_run__fetches_the_next_batch_during_a_commit(engine: EngineFixture) -> None:
    engine.database.start(engine.database.member())
    database = engine.database

    async def scenario() -> None:
        fetched_again = asyncio.Event()

        async def runner(_: Execution) -> AsyncGenerator[Batch, None]:
            yield make_batch(1)
            fetched_again.set()
            yield make_batch(2)

        with database.connect() as blocker:
            running = asyncio.create_task(engine.run(runner))
            await eventually(lambda: database.all("select from app.executions where status = 'running'"))
            with blocker.transaction():
                blocker.execute("lock app.records")  # no commit gets through
                await asyncio.wait_for(fetched_again.wait(), 10)
        assert await running == "completed"

    asyncio.run(scenario())


@pytest.mark.parametrize("check_now", [True, False], ids=["check_now", "heartbeat"])
def test_cancel__during_a_slow_fetch__stops_the_runner(engine: EngineFixture, *, check_now: bool) -> None:
    user = engine.database.member()
    job_id = engine.database.start(user)

    async def scenario() -> str:
        slow, signals = SlowRunner(), Signals()
        running = asyncio.create_task(engine.run(slow, signals=signals, heartbeat_seconds=NEVER if check_now else SOON))
        await wait_for_seq(engine.database, job_id, 1)
        await slow.fetching.wait()
        with engine.database.session(user.claims) as session:
            session.call("cancel_sync_job", job_id=job_id)
        if check_now:
            signals.check_now.set()
        outcome = await running
        assert slow.ended
        return outcome

    assert asyncio.run(scenario()) == "lost"
    row = engine.database.execution(job_id)
    assert (row["status"], row["seq"], row["checkpoint"], row["records"]) == ("cancelled", 1, {"at": 1}, 1)
    assert engine.records() == ["k1"]
    assert events(engine.database, job_id) == ["start", "claim", "cancel"]


def test_check_now__without_cancel__continues(engine: EngineFixture) -> None:
    job_id = engine.database.start(engine.database.member())

    async def scenario() -> str:
        slow, signals = SlowRunner(), Signals()
        running = asyncio.create_task(engine.run(slow, signals=signals))
        await wait_for_seq(engine.database, job_id, 1)
        leased = engine.database.execution(job_id)["lease_expires_at"]
        for _ in range(3):
            signals.check_now.set()
            await eventually(lambda: not signals.check_now.is_set())
        await eventually(lambda: engine.database.execution(job_id)["lease_expires_at"] > leased)
        slow.resume.set()
        return await running

    assert asyncio.run(scenario()) == "completed"
    assert engine.records() == ["k1", "k2"]


def test_cancel__between_batches__noticed_by_the_commit(engine: EngineFixture) -> None:
    user = engine.database.member()
    job_id = engine.database.start(user)

    async def runner(_: Execution) -> AsyncGenerator[Batch, None]:
        yield make_batch(1)
        await wait_for_seq(engine.database, job_id, 1)
        with engine.database.session(user.claims) as session:
            session.call("cancel_sync_job", job_id=job_id)
        yield make_batch(2)
        await asyncio.Event().wait()

    assert asyncio.run(engine.run(runner)) == "lost"
    assert engine.records() == ["k1"]
    assert engine.database.execution(job_id)["seq"] == 1


def test_cancel__after_the_last_batch__execution_stays_cancelled(engine: EngineFixture) -> None:
    user = engine.database.member()
    job_id = engine.database.start(user)

    async def runner(_: Execution) -> AsyncGenerator[Batch, None]:
        yield make_batch(1)
        await wait_for_seq(engine.database, job_id, 1)
        with engine.database.session(user.claims) as session:
            session.call("cancel_sync_job", job_id=job_id)

    assert asyncio.run(engine.run(runner)) == "lost"
    assert engine.database.execution(job_id)["status"] == "cancelled"
    assert events(engine.database, job_id) == ["start", "claim", "cancel"]


@pytest.mark.parametrize("error", [SourceUnavailable("source_unavailable", "Later."), ValueError("a bug")])
def test_cancel__before_a_failure__failure_is_not_recorded(engine: EngineFixture, error: Exception) -> None:
    user = engine.database.member()
    job_id = engine.database.start(user)

    async def runner(_: Execution) -> AsyncGenerator[Batch, None]:
        yield make_batch(1)
        await wait_for_seq(engine.database, job_id, 1)
        with engine.database.session(user.claims) as session:
            session.call("cancel_sync_job", job_id=job_id)
        raise error

    assert asyncio.run(engine.run(runner)) == "lost"
    row = engine.database.execution(job_id)
    assert (row["status"], row["error"], row["attempts"]) == ("cancelled", None, 0)


def test_lease__taken_over_by_another_worker__commit_stores_nothing(engine: EngineFixture) -> None:
    """Its lease expired and another worker claimed the execution: the first commit returns `lost`."""
    job_id = engine.database.start(engine.database.member())

    async def runner(execution: Execution) -> AsyncGenerator[Batch, None]:
        if execution.lease_token > 1:
            yield make_batch(1, "of the second worker")
            return
        await engine.client.release(execution, "as the reaper would")
        assert await engine.run(runner) == "completed"
        yield make_batch(1, "of the first worker")

    assert asyncio.run(engine.run(runner)) == "lost"
    assert engine.records() == ["of the second worker"]
    assert events(engine.database, job_id) == ["start", "claim", "release", "claim", "complete"]


@pytest.mark.parametrize("check_now", [True, False], ids=["check_now", "heartbeat"])
def test_cancel_in_two_steps__during_a_fetch__acknowledged(engine: EngineFixture, *, check_now: bool) -> None:
    job_id = engine.start_bulk_sync(connection_id=None)

    async def scenario() -> str:
        slow, signals = SlowRunner(), Signals()

        async def runner(execution: Execution) -> AsyncGenerator[Batch, None]:
            async for batch in slow(execution):
                yield Batch("flights", [], batch.checkpoint, batch.progress)

        running = asyncio.create_task(
            engine.run(runner, signals=signals, heartbeat_seconds=NEVER if check_now else SOON)
        )
        await wait_for_seq(engine.database, job_id, 1)
        engine.request_cancel(job_id)
        if check_now:
            signals.check_now.set()
        return await running

    assert asyncio.run(scenario()) == "cancelled"
    row = engine.database.execution(job_id)
    assert (row["status"], row["seq"], row["cancel_reason"]) == ("cancelled", 1, "enough")
    assert events(engine.database, job_id) == ["start", "claim", "request_cancel", "acknowledge"]


def test_cancel_in_two_steps__between_batches__stores_the_current_batch_only(engine: EngineFixture) -> None:
    job_id = engine.start_bulk_sync()

    async def runner(_: Execution) -> AsyncGenerator[Batch, None]:
        yield Batch("flights", [], {"at": 1}, {})
        await wait_for_seq(engine.database, job_id, 1)
        engine.request_cancel(job_id)
        yield Batch("flights", [], {"at": 2}, {})
        yield Batch("flights", [], {"at": 3}, {})

    assert asyncio.run(engine.run(runner)) == "cancelled"
    row = engine.database.execution(job_id)
    assert (row["seq"], row["checkpoint"]) == (2, {"at": 2})
    assert events(engine.database, job_id)[-1] == "acknowledge"


def test_cancel_in_two_steps__before_a_failure__acknowledged(engine: EngineFixture) -> None:
    job_id = engine.start_bulk_sync()

    async def runner(_: Execution) -> AsyncGenerator[Batch, None]:
        yield Batch("flights", [], {"at": 1}, {})
        await wait_for_seq(engine.database, job_id, 1)
        engine.request_cancel(job_id)
        raise SourceUnavailable("source_unavailable", "Later.")

    assert asyncio.run(engine.run(runner)) == "cancelled"
    assert events(engine.database, job_id)[-1] == "acknowledge"


def test_release__shutdown_and_out_of_time__resumes_from_checkpoint(engine: EngineFixture) -> None:
    job_id = engine.database.start(engine.database.member())

    async def scenario(slow: SlowRunner, signals: Signals) -> None:
        running = asyncio.create_task(engine.run(slow, signals=signals))
        await wait_for_seq(engine.database, job_id, 1)
        signals.shutdown.set()
        assert await running == "queued"
        assert slow.ended

    async def fetches_for_ever(execution: Execution) -> AsyncGenerator[Batch, None]:
        assert (execution.checkpoint, execution.seq) == ({"at": 1}, 1)
        await asyncio.Event().wait()
        yield make_batch(2)

    async def rest(execution: Execution) -> AsyncGenerator[Batch, None]:
        assert (execution.checkpoint, execution.seq) == ({"at": 1}, 1)
        yield make_batch(2)

    def released(reason: str) -> None:
        row = engine.database.execution(job_id)
        assert (row["status"], row["checkpoint"], row["attempts"], row["error"]) == ("queued", {"at": 1}, 0, None)
        event = engine.database.events(job_id)[-1]
        assert (event["event"], event["reason"], event["actor"]) == ("release", reason, "worker:w")

    asyncio.run(scenario(SlowRunner(), Signals()))
    released("shutdown")
    assert asyncio.run(engine.run(fetches_for_ever, time_budget_seconds=SOON)) == "queued"
    released("out_of_time")
    assert asyncio.run(engine.run(rest)) == "completed"
    assert engine.records() == ["k1", "k2"]
    assert engine.database.execution(job_id)["records"] == 2


def test_shutdown__before_the_first_batch__queued_without_an_attempt(engine: EngineFixture) -> None:
    job_id = engine.database.start(engine.database.member())

    async def scenario() -> str:
        signals = Signals()
        signals.shutdown.set()
        return await engine.run(SlowRunner(), signals=signals)

    assert asyncio.run(scenario()) == "queued"
    assert engine.database.execution(job_id)["attempts"] == 0


def test_source_unavailable__retried_until_the_last_attempt(engine: EngineFixture) -> None:
    job_id = engine.start_bulk_sync(max_attempts=2)

    async def runner(_: Execution) -> AsyncGenerator[Batch, None]:
        raise SourceUnavailable("source_unavailable", 'The source returned 503 for "flights". Try again later.')
        yield

    assert asyncio.run(engine.run(runner)) == "queued"
    row = engine.database.execution(job_id)
    assert (row["attempts"], row["run_at"] > engine.database.one("select now()")["now"]) == (1, True)
    assert row["error"] == {
        "code": "source_unavailable",
        "message": 'The source returned 503 for "flights". Try again later.',
    }
    assert asyncio.run(engine.client.claim("w", FAMILIES, 1, 30)) == []

    engine.end_retry_wait(job_id)
    assert asyncio.run(engine.run(runner)) == "failed"
    assert engine.database.execution(job_id)["error"]["code"] == "source_unavailable"
    assert events(engine.database, job_id) == ["start", "claim", "release", "claim", "fail"]


def test_source_unavailable__after_progress__attempts_start_again(engine: EngineFixture) -> None:
    job_id = engine.start_bulk_sync(max_attempts=2)

    async def runner(execution: Execution) -> AsyncGenerator[Batch, None]:
        yield Batch("flights", [], {"at": execution.seq + 1}, {})
        raise SourceUnavailable("source_unavailable", "Later.")

    for nth in (1, 2, 3):
        assert asyncio.run(engine.run(runner)) == "queued"
        row = engine.database.execution(job_id)
        assert (row["attempts"], row["checkpoint"]) == (1, {"at": nth})
        engine.end_retry_wait(job_id)


def test_source_unavailable__batch_before_it_is_stored(engine: EngineFixture) -> None:
    job_id = engine.database.start(engine.database.member())

    async def runner(_: Execution) -> AsyncGenerator[Batch, None]:
        yield make_batch(1)
        raise SourceUnavailable("source_unavailable", "Later.")

    assert asyncio.run(engine.run(runner)) == "queued"
    assert engine.records() == ["k1"]
    assert engine.database.execution(job_id)["checkpoint"] == {"at": 1}


def test_source_refused__fails_without_retry(engine: EngineFixture) -> None:
    job_id = engine.database.start(engine.database.member())

    async def runner(_: Execution) -> AsyncGenerator[Batch, None]:
        raise SourceRefused("source_unauthorized", "Check the secret.")
        yield

    assert asyncio.run(engine.run(runner)) == "failed"
    row = engine.database.execution(job_id)
    assert row["error"] == {"code": "source_unauthorized", "message": "Check the secret."}
    assert events(engine.database, job_id) == ["start", "claim", "fail"]


def test_runner_bug__retried_and_logged_and_not_published(
    engine: EngineFixture, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = engine.database.start(engine.database.member())

    async def runner(_: Execution) -> AsyncGenerator[Batch, None]:
        raise KeyError("internals")
        yield

    with caplog.at_level(logging.ERROR):
        assert asyncio.run(engine.run(runner)) == "queued"
    row = engine.database.execution(job_id)
    assert (row["error"]["code"], row["attempts"]) == ("internal_error", 1)
    assert "internals" not in str(row["error"])
    [record] = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)
    assert vars(record)["execution_id"] == job_id


def test_commit__batch_too_large__fails_without_retry(engine: EngineFixture) -> None:
    job_id = engine.database.start(engine.database.member())

    async def runner(_: Execution) -> AsyncGenerator[Batch, None]:
        yield make_batch(1, *[f"k{n}" for n in range(5001)])

    assert asyncio.run(engine.run(runner)) == "failed"
    assert engine.database.execution(job_id)["error"]["code"] == "batch_too_large"
    assert engine.records() == []


def test_commit__value_not_storable__fails_without_retry(engine: EngineFixture) -> None:
    job_id = engine.database.start(engine.database.member())

    async def runner(_: Execution) -> AsyncGenerator[Batch, None]:
        yield Batch("flights", [{"key": "k", "data": {"text": "a\0b"}}], {}, {})

    assert asyncio.run(engine.run(runner)) == "failed"
    assert engine.database.execution(job_id)["error"]["code"] == "invalid_value"


def test_heartbeat__slow_fetch__lease_survives(engine: EngineFixture) -> None:
    job_id = engine.database.start(engine.database.member())

    async def scenario() -> str:
        slow = SlowRunner()
        running = asyncio.create_task(engine.run(slow, heartbeat_seconds=SOON, lease_seconds=1))
        await wait_for_seq(engine.database, job_id, 1)
        await reap_after_expiry(engine.database, job_id)
        slow.resume.set()
        return await running

    assert asyncio.run(scenario()) == "completed"
    assert events(engine.database, job_id) == ["start", "claim", "complete"]


def test_heartbeat__lease_lost__stops_the_runner(engine: EngineFixture) -> None:
    job_id = engine.database.start(engine.database.member())

    async def scenario() -> str:
        slow = SlowRunner()
        running = asyncio.create_task(engine.run(slow, heartbeat_seconds=NEVER, lease_seconds=1, signals=signals))
        await wait_for_seq(engine.database, job_id, 1)
        with engine.database.worker() as session:
            await eventually(lambda: session.call("worker_reap")["released"] == 1)
        signals.check_now.set()
        outcome = await running
        assert slow.ended
        return outcome

    signals = Signals()
    assert asyncio.run(scenario()) == "lost"
    row = engine.database.execution(job_id)
    assert (row["status"], row["attempts"]) == ("queued", 1)


@pytest.mark.fresh_database
def test_heartbeat__unexpected_error__runner_stops_before_the_failure_is_recorded(
    engine: EngineFixture, caplog: pytest.LogCaptureFixture
) -> None:
    """When the execution is queued again, no task works on it any more."""
    job_id = engine.database.start(engine.database.member())
    engine.database.admin.execute("alter function public.worker_heartbeat rename to no_heartbeat")

    async def scenario() -> str:
        slow, signals = SlowRunner(), Signals()
        running = asyncio.create_task(engine.run(slow, signals=signals))
        await wait_for_seq(engine.database, job_id, 1)
        with engine.database.connect() as blocker, blocker.transaction():
            blocker.execute("select from app.executions where id = %s for update", (job_id,))
            signals.check_now.set()
            await eventually(lambda: slow.ended)  # `fail` waits for the lock
            assert not running.done()
        return await running

    with caplog.at_level(logging.ERROR):
        assert asyncio.run(scenario()) == "queued"
    assert engine.database.execution(job_id)["error"]["code"] == "internal_error"


@pytest.mark.parametrize("reason", ["shutdown", "out_of_time"])
def test_watch__database_frozen__stops_the_runner(database: Database, reason: str) -> None:
    """A heartbeat waits for the database. Shutdown and time budget do not wait for the heartbeat."""
    job_id = database.start(database.member())
    budget = 2.0 if reason == "out_of_time" else None

    async def scenario(engine: EngineFixture, proxy: Proxy) -> str:
        slow, signals = SlowRunner(), Signals()
        running = asyncio.create_task(
            engine.run(slow, signals=signals, heartbeat_seconds=SOON, time_budget_seconds=budget)
        )
        await wait_for_seq(database, job_id, 1)
        await slow.fetching.wait()
        proxy.freeze()
        await asyncio.sleep(10 * SOON)  # a heartbeat is under way
        if reason == "shutdown":
            signals.shutdown.set()
        await eventually(lambda: slow.ended, seconds=5)
        proxy.thaw()
        return await running

    with client_behind_proxy(database) as (client, _, proxy):
        assert asyncio.run(scenario(EngineFixture(database, client), proxy)) == "queued"
    event = database.events(job_id)[-1]
    assert (event["event"], event["reason"]) == ("release", reason)


class HeldCalls:
    """The direct transport. Calls of one function are held back until `resume`; the others are not."""

    def __init__(self, url: str, name: str) -> None:
        self._transport = PostgresTransport(url)
        self._name = name
        self.held = asyncio.Event()
        self.resume = asyncio.Event()

    async def call_async(self, name: str, *rest: Any) -> bytes:
        if name == self._name:
            self.held.set()
            await self.resume.wait()
        return await self._transport.call_async(name, *rest)

    async def aclose(self) -> None:
        await self._transport.aclose()


def test_heartbeat__commit_longer_than_the_lease__lease_survives(database: Database) -> None:
    job_id = database.start(database.member())
    transport = HeldCalls(database.login("authenticator"), "worker_commit_batch")
    client = WorkerClient(transport, service_caller(""))

    async def scenario() -> str:
        engine = EngineFixture(database, client)
        running = asyncio.create_task(engine.run(three_batches, heartbeat_seconds=SOON, lease_seconds=1))
        await transport.held.wait()
        await reap_after_expiry(database, job_id)
        transport.resume.set()
        return await running

    assert asyncio.run(scenario()) == "completed"
    asyncio.run(client.aclose())
    assert events(database, job_id) == ["start", "claim", "complete"]


async def reap_after_expiry(database: Database, job_id: str) -> None:
    """Reap when the lease would have expired without heartbeats."""
    expiry = database.execution(job_id)["lease_expires_at"]
    await eventually(lambda: database.one("select clock_timestamp() > %s as past", (expiry,))["past"])
    with database.worker() as session:
        session.call("worker_reap")
