"""functions/worker/loop.py in this process, with a real database and scripted runners.

Tests of notifications use ticks and heartbeats that never come.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

from functions._shared.transports.postgres import PostgresTransport
from functions.worker.client import Batch, WorkerClient, service_caller
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
def worker_client(url: str) -> Iterator[WorkerClient]:
    client = WorkerClient(PostgresTransport(url), service_caller(""))
    try:
        yield client
    finally:
        asyncio.run(client.aclose())


@contextlib.asynccontextmanager
async def running_worker(client: WorkerClient, runner: Runner, **options: Any) -> AsyncIterator[asyncio.Event]:
    """Run a worker inside the block. The event shuts it down."""
    shutdown = asyncio.Event()
    values = {"heartbeat_seconds": NEVER, "tick_seconds": SOON} | options
    worker = Worker(client, {"historical_sync": runner}, Options("w", **values))
    running = asyncio.create_task(worker.run(shutdown))
    try:
        yield shutdown
    finally:
        shutdown.set()
        await running


class ScriptedRunner:
    """A runner: one batch, then a fetch that takes until `resume`. Records the ids of executions begun and ended."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.most_at_once = 0
        self.resume = asyncio.Event()

    async def __call__(self, execution: Execution) -> AsyncGenerator[Batch, None]:
        self.begun.append(execution.id)
        try:
            self.most_at_once = max(self.most_at_once, len(self.begun) - len(self.ended))
            yield Batch("flights", [{"key": execution.id, "data": {}}], {"at": execution.seq + 1}, {})
            await self.resume.wait()
        finally:
            self.ended.append(execution.id)


def count(database: Database, status: str) -> int:
    return int(database.one("select count(*) from app.executions where status = %s", (status,))["count"])


def status(database: Database, job_id: str) -> str:
    return str(database.execution(job_id)["status"])


def events(database: Database, job_id: str) -> list[str]:
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


def test_claim__at_most_the_concurrency__all_complete(database: Database, url: str) -> None:
    user = database.member()
    jobs = [database.start(user) for _ in range(7)]

    async def scenario(client: WorkerClient) -> int:
        script = ScriptedRunner()
        async with running_worker(client, script, concurrency=3):
            await eventually(lambda: len(script.begun) == 3)
            await eventually(lambda: database.one("select sum(seq) from app.executions")["sum"] == 3)
            assert (count(database, "running"), count(database, "queued")) == (3, 4)
            script.resume.set()
            await eventually(lambda: count(database, "completed") == 7)
        return script.most_at_once

    with worker_client(url) as client:
        assert asyncio.run(scenario(client)) == 3
    assert all(events(database, job) == ["start", "claim", "complete"] for job in jobs)


def test_claim__follows_a_completion_without_a_tick(database: Database, url: str) -> None:
    """No tick comes: each is claimed because the one before it has ended."""
    user = database.member()
    for _ in range(3):
        database.start(user)

    async def scenario(client: WorkerClient) -> None:
        script = ScriptedRunner()
        script.resume.set()
        async with running_worker(client, script, concurrency=1, tick_seconds=NEVER):
            await eventually(lambda: count(database, "completed") == 3)

    with worker_client(url) as client:
        asyncio.run(scenario(client))


def test_claim__same_commit_as_the_completion(database: Database, url: str) -> None:
    """The audit events of a completion and of the claim that follows have the same request id."""
    user = database.member()
    jobs = [database.start(user) for _ in range(3)]

    async def scenario(client: WorkerClient) -> None:
        script = ScriptedRunner()
        script.resume.set()
        async with running_worker(client, script, concurrency=1, tick_seconds=NEVER):
            await eventually(lambda: count(database, "completed") == 3)

    with worker_client(url) as client:
        asyncio.run(scenario(client))
    ended = [database.events(job)[-1]["request_id"] for job in jobs[:2]]
    assert ended == [database.events(job)[1]["request_id"] for job in jobs[1:]]


def test_notification__start_and_cancel__noticed_without_tick_and_heartbeat(database: Database, url: str) -> None:
    user = database.member()

    async def scenario(client: WorkerClient) -> None:
        script = ScriptedRunner()
        jobs: list[str] = []
        async with running_worker(client, script, tick_seconds=NEVER, listen_url=url, concurrency=9):
            await eventually(lambda: listeners(database))
            for nth in range(1, 5):  # more than once, because connecting makes it claim too
                jobs.append(database.start(user))
                await eventually(lambda: set(script.begun) == set(jobs))
                await eventually(lambda: database.one("select sum(seq) from app.executions")["sum"] == nth)  # noqa: B023
            await cancel(database, jobs[1])
            await eventually(lambda: script.ended)
            assert script.ended == [jobs[1]]  # a notification concerns one execution
            assert count(database, "running") == 3

    with worker_client(url) as client:
        asyncio.run(scenario(client))


def test_notification__before_listening__noticed_on_connecting(database: Database, url: str) -> None:
    """The listener connects late, after the cancel."""
    job_id = database.start(database.member())

    async def scenario(client: WorkerClient) -> None:
        script = ScriptedRunner()
        with Proxy(database.server.port) as proxy:
            proxy.freeze()
            late = url.replace(f":{database.server.port}/", f":{proxy.port}/")
            async with running_worker(client, script, tick_seconds=NEVER, listen_url=late):
                await eventually(lambda: database.execution(job_id)["seq"] == 1)
                await cancel(database, job_id)
                assert not listeners(database)
                proxy.thaw()
                await eventually(lambda: script.ended)

    with worker_client(url) as client:
        asyncio.run(scenario(client))


def test_no_listen_url__start_by_tick_and_cancel_by_heartbeat(database: Database, url: str) -> None:
    user = database.member()

    async def scenario(client: WorkerClient) -> None:
        script = ScriptedRunner()
        async with running_worker(client, script, heartbeat_seconds=SOON):
            job_id = database.start(user)
            await eventually(lambda: script.begun == [job_id])
            await cancel(database, job_id)
            await eventually(lambda: script.ended == [job_id])
        assert not listeners(database)

    with worker_client(url) as client:
        asyncio.run(scenario(client))


def test_listener__connection_lost__listens_again(database: Database, url: str) -> None:
    user = database.member()

    async def scenario(client: WorkerClient) -> None:
        script = ScriptedRunner()
        async with running_worker(client, script, listen_url=url):
            job_id = database.start(user)
            await eventually(lambda: database.execution(job_id)["seq"] == 1)
            [first] = await eventually(lambda: listeners(database))
            database.one("select pg_terminate_backend(%s)", (first,))
            await eventually(lambda: [pid for pid in listeners(database) if pid != first])
            await cancel(database, job_id)
            await eventually(lambda: script.ended == [job_id])

    with worker_client(url) as client:
        asyncio.run(scenario(client))


def test_listener__cannot_connect__worker_continues(database: Database, url: str) -> None:
    nowhere = url.replace(f":{database.server.port}/", ":9/")

    async def scenario(client: WorkerClient) -> None:
        script = ScriptedRunner()
        script.resume.set()
        async with running_worker(client, script, listen_url=nowhere):
            database.start(user)
            await eventually(lambda: count(database, "completed") == 1)

    user = database.member()
    with worker_client(url) as client:
        asyncio.run(scenario(client))


def test_shutdown__releases_with_checkpoint(database: Database, url: str) -> None:
    user = database.member()
    jobs = [database.start(user) for _ in range(3)]

    async def scenario(client: WorkerClient) -> None:
        script = ScriptedRunner()
        async with running_worker(client, script):
            await eventually(lambda: database.one("select sum(seq) from app.executions")["sum"] == 3)
        assert sorted(script.ended) == sorted(jobs)

    with worker_client(url) as client:
        asyncio.run(scenario(client))
    for job_id in jobs:
        row = database.execution(job_id)
        assert (row["status"], row["checkpoint"], row["attempts"]) == ("queued", {"at": 1}, 0)
        event = database.events(job_id)[-1]
        assert (event["event"], event["reason"]) == ("release", "shutdown")


class HeldResponses:
    """The direct transport. While `hold` is set, responses of one function arrive only after `resume`."""

    def __init__(self, url: str, name: str) -> None:
        self._rpc = PostgresTransport(url)
        self._name = name
        self.hold = threading.Event()
        self.resume = threading.Event()
        self.waiting = threading.Event()

    async def call_async(self, name: str, arguments: Mapping[str, Any], caller: Caller, *rest: Any) -> bytes:
        response = await self._rpc.call_async(name, arguments, caller, *rest)
        if name == self._name and self.hold.is_set():
            self.waiting.set()
            assert await asyncio.to_thread(self.resume.wait, 30)
        return response

    async def aclose(self) -> None:
        await self._rpc.aclose()


def test_shutdown__during_a_claim__claimed_execution_is_released(database: Database, url: str) -> None:
    job_id = database.start(database.member())

    async def scenario(client: WorkerClient) -> None:
        async with running_worker(client, ScriptedRunner()) as shutdown:
            await eventually(rpc.waiting.is_set)
            shutdown.set()
            asyncio.get_running_loop().call_later(0.2, rpc.resume.set)

    rpc = HeldResponses(url, "worker_claim")
    rpc.hold.set()
    client = WorkerClient(rpc, service_caller(""))
    asyncio.run(scenario(client))
    asyncio.run(client.aclose())
    assert events(database, job_id) == ["start", "claim", "release"]
    assert database.execution(job_id)["attempts"] == 0


def test_claim__execution_whose_lease_expired_here__runs_beside_the_old_task(database: Database, url: str) -> None:
    """Its lease expired unnoticed, as in a stopped process, and the same worker claims it again."""
    job_id = database.start(database.member())

    async def scenario(client: WorkerClient) -> None:
        script = ScriptedRunner()
        async with running_worker(client, script, heartbeat_seconds=SOON, lease_seconds=1, concurrency=2):
            await eventually(lambda: database.execution(job_id)["seq"] == 1)
            rpc.hold.set()
            await eventually(rpc.waiting.is_set)  # the heartbeat's response does not arrive, and the lease expires
            await eventually(lambda: script.begun == [job_id, job_id])
            await eventually(lambda: database.execution(job_id)["seq"] == 2)
            rpc.hold.clear()
            rpc.resume.set()
            await eventually(lambda: script.ended)
            await eventually(lambda: database.execution(job_id)["lease_token"] == 3)
            assert status(database, job_id) == "running"
        # The worker still knows the second task: shutdown released it.
        assert script.ended == [job_id, job_id]

    rpc = HeldResponses(url, "worker_heartbeat")
    client = WorkerClient(rpc, service_caller(""))
    asyncio.run(scenario(client))
    asyncio.run(client.aclose())
    assert events(database, job_id) == ["start", "claim", "release", "claim", "release"]
    assert database.events(job_id)[-1]["reason"] == "shutdown"


def test_reap__idle_worker__purges_old_idempotency_keys(database: Database, url: str) -> None:
    key = "insert into app.idempotency_keys (actor, function, key, request, response, created_at)"
    database.admin.execute(f"{key} values ('user:a', 'f', 'k', '{{}}', '{{}}', now() - interval '25 hours')")

    async def scenario(client: WorkerClient) -> None:
        async with running_worker(client, ScriptedRunner()):
            await eventually(lambda: database.all("select from app.idempotency_keys") == [])

    with worker_client(url) as client:
        asyncio.run(scenario(client))


def test_reap__worker_at_its_concurrency__still_reaps(database: Database, url: str) -> None:
    user = database.member()
    lost = database.start(user)
    with database.worker() as session:
        session.claim(lease_seconds=1)  # by a worker that dies

    async def scenario(client: WorkerClient) -> None:
        script = ScriptedRunner()
        database.start(user)
        async with running_worker(client, script, concurrency=1):
            await eventually(lambda: script.begun)
            await eventually(lambda: status(database, lost) == "queued")
            assert len(script.begun) == 1

    with worker_client(url) as client:
        asyncio.run(scenario(client))
    events = database.events(lost)
    assert [(event["event"], event["actor"]) for event in events[2:]] == [("release", "reaper")]


def test_reap__queue_never_empty__still_reaps(database: Database, url: str) -> None:
    user = database.member()
    lost = database.start(user)
    with database.worker() as session:
        session.claim()  # by a worker that dies
    for _ in range(120):
        database.start(user)
    queued: list[bool] = []

    async def short(execution: Execution) -> AsyncGenerator[Batch, None]:
        if not queued:
            database.expire_lease(lost)
        queued.append(status(database, lost) == "queued")
        yield Batch("flights", [{"key": execution.id, "data": {}}], {}, {}, done=True)

    async def scenario(client: WorkerClient) -> None:
        async with running_worker(client, short, concurrency=1, tick_seconds=0.1):
            await eventually(lambda: count(database, "completed") == 121)

    with worker_client(url) as client:
        asyncio.run(scenario(client))
    assert queued[0] is False
    assert any(queued), "it was taken back when nothing else was left"


@pytest.mark.fresh_database
def test_run__execution_that_cannot_be_failed(database: Database, url: str, caplog: pytest.LogCaptureFixture) -> None:
    user = database.member()
    database.admin.execute("alter function public.worker_fail rename to no_fail")
    broken = database.start(user)

    async def scenario(client: WorkerClient) -> None:
        script = ScriptedRunner()
        script.resume.set()

        async def runner(execution: Execution) -> AsyncGenerator[Batch, None]:
            if execution.id == broken and execution.lease_token == 1:
                raise KeyError("a bug")
            async for batch in script(execution):
                yield batch

        async with running_worker(client, runner, lease_seconds=1):
            await eventually(lambda: "execution task crashed" in caplog.text)
            other = database.start(user)
            await eventually(lambda: status(database, other) == "completed")
            await eventually(lambda: status(database, broken) == "completed")

    with caplog.at_level(logging.ERROR), worker_client(url) as client:
        asyncio.run(scenario(client))
    assert events(database, broken) == ["start", "claim", "release", "claim", "complete"]


@pytest.mark.fresh_database
def test_claim__fails__worker_continues(database: Database, url: str, caplog: pytest.LogCaptureFixture) -> None:
    """For example during a migration. What runs continues, and the worker claims again once it can."""
    user = database.member()
    running = database.start(user)

    async def scenario(client: WorkerClient) -> None:
        script = ScriptedRunner()
        async with running_worker(client, script):
            await eventually(lambda: database.execution(running)["seq"] == 1)
            database.admin.execute("alter function public.worker_claim rename to no_claim")
            await eventually(lambda: "claim failed" in caplog.text)
            database.admin.execute("alter function public.no_claim rename to worker_claim")
            database.start(user)
            await eventually(lambda: len(script.begun) == 2)
            assert status(database, running) == "running"

    with caplog.at_level(logging.ERROR), worker_client(url) as client:
        asyncio.run(scenario(client))
    assert events(database, running) == ["start", "claim", "release"]


def test_shutdown__database_unavailable__bounded(mortal_database: Database) -> None:
    database = mortal_database
    job_id = database.start(database.member())

    async def scenario(client: WorkerClient) -> None:
        script = ScriptedRunner()
        async with running_worker(client, script, shutdown_seconds=SOON):
            await eventually(lambda: database.execution(job_id)["seq"] == 1)
            database.server.stop()
        assert script.ended == [job_id]

    try:
        with worker_client(database.login("authenticator")) as client:
            asyncio.run(scenario(client))
    finally:
        database.server.restart()
        database.reconnect()
    assert status(database, job_id) == "running"  # until its lease runs out
