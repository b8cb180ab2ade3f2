"""functions/worker/loop.py in this process: the real database, scripted runners.

What must come by a hint is tested with ticks and heartbeats that never come.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

from functions._shared.transports.postgres import PostgresTransport
from functions.worker.client import Batch, Protocol, service_caller
from functions.worker.loop import Options, Worker
from tests.support.proxy import Proxy
from tests.support.wait import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping

    from functions._shared.caller import Caller
    from functions.worker.client import Execution, Runner
    from tests.support.database import Database

SOON = 0.02
NEVER = 3600.0


@pytest.fixture
def url(database: Database) -> str:
    return database.login("authenticator")


@contextlib.contextmanager
def opened(url: str) -> Iterator[Protocol]:
    protocol = Protocol(PostgresTransport(url), service_caller(""))
    try:
        yield protocol
    finally:
        asyncio.run(protocol.aclose())


@contextlib.asynccontextmanager
async def working(protocol: Protocol, runner: Runner, **options: Any) -> AsyncIterator[asyncio.Event]:
    """A worker that runs inside the block; the event stops it."""
    stop = asyncio.Event()
    values = {"heartbeat_seconds": NEVER, "tick_seconds": SOON} | options
    worker = Worker(protocol, {"historical_sync": runner}, Options("w", **values))
    running = asyncio.create_task(worker.run(stop))
    try:
        yield stop
    finally:
        stop.set()
        await running


class Script:
    """A runner: one batch, then a fetch that takes until `go_on`. It keeps a diary of what it did, by execution."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.most_at_once = 0
        self.go_on = asyncio.Event()

    async def __call__(self, execution: Execution) -> AsyncGenerator[Batch, None]:
        self.begun.append(execution.id)
        try:
            self.most_at_once = max(self.most_at_once, len(self.begun) - len(self.ended))
            yield Batch("flights", [{"key": execution.id, "data": {}}], {"at": execution.seq + 1}, {})
            await self.go_on.wait()
        finally:
            self.ended.append(execution.id)


def count(database: Database, status: str) -> int:
    return int(database.one("select count(*) from app.executions where status = %s", (status,))["count"])


def status(database: Database, job_id: str) -> str:
    return str(database.execution(job_id)["status"])


def moves(database: Database, job_id: str) -> list[str]:
    return [event["event"] for event in database.events(job_id)]


def listeners(database: Database) -> list[int]:
    rows = database.all(
        "select pid from pg_stat_activity where datname = current_database() and query like 'listen %%'"
        " and state = 'idle'"
    )
    return [row["pid"] for row in rows]


async def cancel(database: Database, job_id: str) -> None:
    with database.worker() as session:
        session.call("cancel_sync_job", job_id=job_id)


def test_never_more_than_the_concurrency_and_all_in_the_end(database: Database, url: str) -> None:
    user = database.member()
    jobs = [database.start(user) for _ in range(7)]

    async def scenario(protocol: Protocol) -> int:
        script = Script()
        async with working(protocol, script, concurrency=3):
            await eventually(lambda: len(script.begun) == 3)
            await eventually(lambda: database.one("select sum(seq) from app.executions")["sum"] == 3)
            assert (count(database, "running"), count(database, "queued")) == (3, 4)
            script.go_on.set()
            await eventually(lambda: count(database, "completed") == 7)
        return script.most_at_once

    with opened(url) as protocol:
        assert asyncio.run(scenario(protocol)) == 3
    assert all(moves(database, job) == ["start", "claim", "complete"] for job in jobs)


def test_an_end_makes_room_at_once(database: Database, url: str) -> None:
    """No tick comes: each of the three is claimed because the one before it has ended."""
    user = database.member()
    for _ in range(3):
        database.start(user)

    async def scenario(protocol: Protocol) -> None:
        script = Script()
        script.go_on.set()
        async with working(protocol, script, concurrency=1, tick_seconds=NEVER):
            await eventually(lambda: count(database, "completed") == 3)

    with opened(url) as protocol:
        asyncio.run(scenario(protocol))


def test_from_one_to_the_next_in_one_call(database: Database, url: str) -> None:
    """The end of one, and the claim of what takes its place, are one commit: the two events carry one request's id."""
    user = database.member()
    jobs = [database.start(user) for _ in range(3)]

    async def scenario(protocol: Protocol) -> None:
        script = Script()
        script.go_on.set()
        async with working(protocol, script, concurrency=1, tick_seconds=NEVER):
            await eventually(lambda: count(database, "completed") == 3)

    with opened(url) as protocol:
        asyncio.run(scenario(protocol))
    ended = [database.events(job)[-1]["request_id"] for job in jobs[:2]]
    assert ended == [database.events(job)[1]["request_id"] for job in jobs[1:]]


def test_a_start_wakes_and_a_cancel_is_heard_without_tick_or_heartbeat(database: Database, url: str) -> None:
    user = database.member()

    async def scenario(protocol: Protocol) -> None:
        script = Script()
        jobs: list[str] = []
        async with working(protocol, script, tick_seconds=NEVER, listen_url=url, concurrency=9):
            await eventually(lambda: listeners(database))
            for nth in range(1, 5):  # more than once: connecting wakes it too
                jobs.append(database.start(user))
                await eventually(lambda: set(script.begun) == set(jobs))
                await eventually(lambda: database.one("select sum(seq) from app.executions")["sum"] == nth)  # noqa: B023
            await cancel(database, jobs[1])
            await eventually(lambda: script.ended)
            assert script.ended == [jobs[1]]  # a hint is for one
            assert count(database, "running") == 3

    with opened(url) as protocol:
        asyncio.run(scenario(protocol))


def test_what_was_said_before_anybody_listened_is_heard(database: Database, url: str) -> None:
    """The listener connects late; the cancel came before."""
    job_id = database.start(database.member())

    async def scenario(protocol: Protocol) -> None:
        script = Script()
        with Proxy(database.server.port) as proxy:
            proxy.freeze()
            late = url.replace(f":{database.server.port}/", f":{proxy.port}/")
            async with working(protocol, script, tick_seconds=NEVER, listen_url=late):
                await eventually(lambda: database.execution(job_id)["seq"] == 1)
                await cancel(database, job_id)
                assert not listeners(database)
                proxy.thaw()
                await eventually(lambda: script.ended)

    with opened(url) as protocol:
        asyncio.run(scenario(protocol))


def test_without_a_session_connection_ticks_and_heartbeats_are_enough(database: Database, url: str) -> None:
    user = database.member()

    async def scenario(protocol: Protocol) -> None:
        script = Script()
        async with working(protocol, script, heartbeat_seconds=SOON):
            job_id = database.start(user)
            await eventually(lambda: script.begun == [job_id])
            await cancel(database, job_id)
            await eventually(lambda: script.ended == [job_id])
        assert not listeners(database)

    with opened(url) as protocol:
        asyncio.run(scenario(protocol))


def test_a_listener_that_lost_its_connection_listens_again(database: Database, url: str) -> None:
    user = database.member()

    async def scenario(protocol: Protocol) -> None:
        script = Script()
        async with working(protocol, script, listen_url=url):
            job_id = database.start(user)
            await eventually(lambda: database.execution(job_id)["seq"] == 1)
            [first] = await eventually(lambda: listeners(database))
            database.one("select pg_terminate_backend(%s)", (first,))
            await eventually(lambda: [pid for pid in listeners(database) if pid != first])
            await cancel(database, job_id)
            await eventually(lambda: script.ended == [job_id])

    with opened(url) as protocol:
        asyncio.run(scenario(protocol))


def test_a_listener_that_cannot_connect_ends_nothing(database: Database, url: str) -> None:
    nowhere = url.replace(f":{database.server.port}/", ":9/")

    async def scenario(protocol: Protocol) -> None:
        script = Script()
        script.go_on.set()
        async with working(protocol, script, listen_url=nowhere):
            database.start(user)
            await eventually(lambda: count(database, "completed") == 1)

    user = database.member()
    with opened(url) as protocol:
        asyncio.run(scenario(protocol))


def test_stopping_releases_what_runs_with_its_checkpoint(database: Database, url: str) -> None:
    user = database.member()
    jobs = [database.start(user) for _ in range(3)]

    async def scenario(protocol: Protocol) -> None:
        script = Script()
        async with working(protocol, script):
            await eventually(lambda: database.one("select sum(seq) from app.executions")["sum"] == 3)
        assert sorted(script.ended) == sorted(jobs)

    with opened(url) as protocol:
        asyncio.run(scenario(protocol))
    for job_id in jobs:
        row = database.execution(job_id)
        assert (row["status"], row["checkpoint"], row["attempts"]) == ("queued", {"at": 1}, 0)
        event = database.events(job_id)[-1]
        assert (event["event"], event["reason"]) == ("release", "shutdown")


class HeldBack:
    """The direct door; while held back, the answer of a call of that name has been made and does not arrive."""

    def __init__(self, url: str, name: str) -> None:
        self._rpc = PostgresTransport(url)
        self._name = name
        self.hold = threading.Event()
        self.go_on = threading.Event()
        self.waiting = threading.Event()

    async def call_async(self, name: str, arguments: Mapping[str, Any], caller: Caller, *rest: Any) -> bytes:
        response = await self._rpc.call_async(name, arguments, caller, *rest)
        if name == self._name and self.hold.is_set():
            self.waiting.set()
            assert await asyncio.to_thread(self.go_on.wait, 30)
        return response

    async def aclose(self) -> None:
        await self._rpc.aclose()


def test_what_is_claimed_while_stopping_is_released_too(database: Database, url: str) -> None:
    job_id = database.start(database.member())

    async def scenario(protocol: Protocol) -> None:
        async with working(protocol, Script()) as stop:
            await eventually(rpc.waiting.is_set)
            stop.set()
            asyncio.get_running_loop().call_later(0.2, rpc.go_on.set)

    rpc = HeldBack(url, "worker_claim")
    rpc.hold.set()
    protocol = Protocol(rpc, service_caller(""))
    asyncio.run(scenario(protocol))
    asyncio.run(protocol.aclose())
    assert moves(database, job_id) == ["start", "claim", "release"]
    assert database.execution(job_id)["attempts"] == 0


def test_an_execution_that_comes_back_to_the_same_worker_is_a_new_one(database: Database, url: str) -> None:
    """Its lease ran out unnoticed (a stopped process) and this very worker claims it again before it knows."""
    job_id = database.start(database.member())

    async def scenario(protocol: Protocol) -> None:
        script = Script()
        async with working(protocol, script, heartbeat_seconds=SOON, lease_seconds=1, concurrency=2):
            await eventually(lambda: database.execution(job_id)["seq"] == 1)
            rpc.hold.set()
            await eventually(rpc.waiting.is_set)  # the heartbeat's answer is on its way for ever: the lease runs out
            await eventually(lambda: script.begun == [job_id, job_id])
            await eventually(lambda: database.execution(job_id)["seq"] == 2)
            rpc.hold.clear()
            rpc.go_on.set()
            await eventually(lambda: script.ended)
            await eventually(lambda: database.execution(job_id)["lease_token"] == 3)
            assert status(database, job_id) == "running"
        # The second one is still known: stopping released it.
        assert script.ended == [job_id, job_id]

    rpc = HeldBack(url, "worker_heartbeat")
    protocol = Protocol(rpc, service_caller(""))
    asyncio.run(scenario(protocol))
    asyncio.run(protocol.aclose())
    assert moves(database, job_id) == ["start", "claim", "release", "claim", "release"]
    assert database.events(job_id)[-1]["reason"] == "shutdown"


def test_an_idle_worker_forgets_answers_of_yesterday(database: Database, url: str) -> None:
    key = "insert into app.idempotency_keys (actor, function, key, request, response, created_at)"
    database.admin.execute(f"{key} values ('user:a', 'f', 'k', '{{}}', '{{}}', now() - interval '25 hours')")

    async def scenario(protocol: Protocol) -> None:
        async with working(protocol, Script()):
            await eventually(lambda: database.all("select from app.idempotency_keys") == [])

    with opened(url) as protocol:
        asyncio.run(scenario(protocol))


def test_a_full_worker_still_reaps(database: Database, url: str) -> None:
    user = database.member()
    lost = database.start(user)
    with database.worker() as session:
        session.claim(lease_seconds=1)  # by a worker that is never heard of again

    async def scenario(protocol: Protocol) -> None:
        script = Script()
        database.start(user)
        async with working(protocol, script, concurrency=1):
            await eventually(lambda: script.begun)
            await eventually(lambda: status(database, lost) == "queued")
            assert len(script.begun) == 1

    with opened(url) as protocol:
        asyncio.run(scenario(protocol))
    events = database.events(lost)
    assert [(event["event"], event["actor"]) for event in events[2:]] == [("release", "reaper")]


def test_a_worker_that_never_comes_to_the_end_of_the_queue_still_reaps(database: Database, url: str) -> None:
    user = database.member()
    lost = database.start(user)
    with database.worker() as session:
        session.claim()  # by a worker that is never heard of again
    for _ in range(120):
        database.start(user)
    queued: list[bool] = []

    async def short(execution: Execution) -> AsyncGenerator[Batch, None]:
        if not queued:
            database.expire_lease(lost)
        queued.append(status(database, lost) == "queued")
        yield Batch("flights", [{"key": execution.id, "data": {}}], {}, {}, done=True)

    async def scenario(protocol: Protocol) -> None:
        async with working(protocol, short, concurrency=1, tick_seconds=0.1):
            await eventually(lambda: count(database, "completed") == 121)

    with opened(url) as protocol:
        asyncio.run(scenario(protocol))
    assert queued[0] is False
    assert any(queued), "it was taken back when nothing else was left"


@pytest.mark.fresh_database
def test_an_execution_that_cannot_even_be_failed_ends_no_worker(
    database: Database, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    user = database.member()
    database.admin.execute("alter function public.worker_fail rename to no_fail")
    broken = database.start(user)

    async def scenario(protocol: Protocol) -> None:
        script = Script()
        script.go_on.set()

        async def runner(execution: Execution) -> AsyncGenerator[Batch, None]:
            if execution.id == broken and execution.lease_token == 1:
                raise KeyError("a bug")
            async for batch in script(execution):
                yield batch

        async with working(protocol, runner, lease_seconds=1):
            await eventually(lambda: "given up" in caplog.text)
            other = database.start(user)
            await eventually(lambda: status(database, other) == "completed")
            await eventually(lambda: status(database, broken) == "completed")

    with caplog.at_level(logging.ERROR), opened(url) as protocol:
        asyncio.run(scenario(protocol))
    assert moves(database, broken) == ["start", "claim", "release", "claim", "complete"]


@pytest.mark.fresh_database
def test_a_claim_that_fails_ends_no_worker(database: Database, url: str, caplog: pytest.LogCaptureFixture) -> None:
    """In the middle of a migration, say: what runs goes on, and so does the worker once claims work again."""
    user = database.member()
    running = database.start(user)

    async def scenario(protocol: Protocol) -> None:
        script = Script()
        async with working(protocol, script):
            await eventually(lambda: database.execution(running)["seq"] == 1)
            database.admin.execute("alter function public.worker_claim rename to no_claim")
            await eventually(lambda: "no claim" in caplog.text)
            database.admin.execute("alter function public.no_claim rename to claim")
            database.start(user)
            await eventually(lambda: len(script.begun) == 2)
            assert status(database, running) == "running"

    with caplog.at_level(logging.ERROR), opened(url) as protocol:
        asyncio.run(scenario(protocol))
    assert moves(database, running) == ["start", "claim", "release"]


def test_a_database_that_is_away_does_not_hold_up_the_stop(mortal_database: Database) -> None:
    database = mortal_database
    job_id = database.start(database.member())

    async def scenario(protocol: Protocol) -> None:
        script = Script()
        async with working(protocol, script, shutdown_seconds=SOON):
            await eventually(lambda: database.execution(job_id)["seq"] == 1)
            database.server.stop()
        assert script.ended == [job_id]

    try:
        with opened(database.login("authenticator")) as protocol:
            asyncio.run(scenario(protocol))
    finally:
        database.server.restart()
        database.reconnect()
    assert status(database, job_id) == "running"  # until its lease runs out
