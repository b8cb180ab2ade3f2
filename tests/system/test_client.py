"""functions/worker/client.py over a real Postgres, and over a network that loses answers."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from functions._shared.errors import ApiError
from functions._shared.transports.postgres import PostgresTransport
from functions.worker.client import MAX_COMPLETIONS_WITH_CLAIM, Batch, Execution, Protocol, service_caller
from tests.support.proxy import Proxy
from tests.support.wait import eventually, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from functions._shared.caller import Caller
    from tests.support.database import Database

FAMILIES = ["historical_sync"]


class Counting:
    """The direct door; `calls` counts what was said through it."""

    def __init__(self, url: str) -> None:
        self._rpc = PostgresTransport(url)
        self.calls = 0

    async def call_async(self, name: str, arguments: Mapping[str, Any], caller: Caller, *rest: Any) -> bytes:
        self.calls += 1
        return await self._rpc.call_async(name, arguments, caller, *rest)

    async def aclose(self) -> None:
        await self._rpc.aclose()


@contextlib.contextmanager
def opened(url: str) -> Iterator[tuple[Protocol, Counting]]:
    rpc = Counting(url)
    protocol = Protocol(rpc, service_caller(""))
    try:
        yield protocol, rpc
    finally:
        asyncio.run(protocol.aclose())


@contextlib.contextmanager
def behind_a_proxy(database: Database) -> Iterator[tuple[Protocol, Counting, Proxy]]:
    port = database.server.port
    with Proxy(port) as proxy:
        url = database.login("authenticator").replace(f":{port}/", f":{proxy.port}/")
        with opened(url) as (protocol, rpc):
            yield protocol, rpc, proxy


def claimed(database: Database, protocol: Protocol) -> Execution:
    database.start(database.member())
    [execution] = asyncio.run(protocol.claim("w", FAMILIES, 1, 30))
    return execution


def batch(number: int, *keys: str) -> Batch:
    return Batch("flights", [{"key": key, "data": {}} for key in keys], {"at": number}, {"windows_done": number})


def test_what_was_claimed_shows_no_secret(database: Database) -> None:
    user = database.member()
    config = {"base_url": "https://api.example.com", "resources": {"flights": {}}}
    database.start(user, database.connection(user.agency_id, config=config, secret={"token": "tell-nobody"}))
    with opened(database.login("authenticator")) as (protocol, _):
        [execution] = asyncio.run(protocol.claim("w", FAMILIES, 1, 30))
    assert execution.connection == {"kind": "http", "config": config, "secret": {"token": "tell-nobody"}}
    assert "tell-nobody" not in f"{execution!r} {execution}"
    assert execution.id in repr(execution)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["stopped", "crashed"])
def test_a_database_that_is_away_is_waited_for(
    mortal_database: Database, how: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    database = mortal_database

    async def scenario(protocol: Protocol, rpc: Counting, execution: Execution) -> str:
        caplog.clear()
        database.server.stop(how)
        before = rpc.calls
        committing = asyncio.create_task(protocol.commit_batch(execution, 1, batch(1, "a")))
        await eventually(lambda: rpc.calls >= before + 3)
        assert not committing.done()
        database.server.start()
        return await committing

    with opened(database.login("authenticator")) as (protocol, rpc):
        execution = claimed(database, protocol)
        try:
            assert asyncio.run(scenario(protocol, rpc, execution)) == "continue"
        finally:
            database.server.restart()
            database.reconnect()
        assert asyncio.run(protocol.finish(execution)) == "completed"
    assert [record.getMessage() for record in caplog.records] == ["waiting for the database"]  # once, not each time
    assert database.server.password not in caplog.text
    assert (database.execution(execution.id)["seq"], database.execution(execution.id)["records"]) == (1, 1)


def test_a_commit_whose_answer_was_lost_is_said_again_and_stored_once(database: Database) -> None:
    with behind_a_proxy(database) as (protocol, rpc, proxy):
        execution = claimed(database, protocol)
        proxy.lose_answer(b"worker_commit_batch")
        before = rpc.calls
        assert asyncio.run(protocol.commit_batch(execution, 1, batch(1, "a", "b"))) == "continue"
        assert (proxy.lost, rpc.calls - before) == (1, 2)
        assert asyncio.run(protocol.commit_batch(execution, 2, batch(2, "c"))) == "continue"
    row = database.execution(execution.id)
    assert (row["seq"], row["records"], row["checkpoint"]) == (2, 3, {"at": 2})
    assert database.one("select count(*) from app.records")["count"] == 3


def test_a_commit_that_was_stored_before_a_cancel_is_told_of_the_cancel_when_said_again(database: Database) -> None:
    async def scenario(protocol: Protocol, proxy: Proxy, execution: Execution) -> str:
        with database.worker() as session:
            proxy.lose_answer(b"worker_commit_batch")
            committing = asyncio.create_task(protocol.commit_batch(execution, 1, batch(1, "a")))
            await eventually(lambda: database.execution(execution.id)["seq"] == 1)
            session.call("cancel_sync_job", job_id=execution.id)
            return await committing

    with behind_a_proxy(database) as (protocol, _, proxy):
        execution = claimed(database, protocol)
        # The first answer is lost for certain; whether the second try comes before the cancel is left open.
        response = asyncio.run(scenario(protocol, proxy, execution))
        assert response in {"continue", "lost"}
        assert asyncio.run(protocol.commit_batch(execution, 1, batch(1, "a"))) == "lost"
    row = database.execution(execution.id)
    assert (row["status"], row["seq"], row["records"]) == ("cancelled", 1, 1)


@pytest.mark.parametrize(
    ("name", "arguments", "status"),
    [
        ("finish", (), "completed"),
        ("release", ("shutdown",), "queued"),
        ("fail", ("source_unavailable", "Later."), "queued"),
    ],
)
def test_an_end_whose_answer_was_lost_is_said_again_and_written_once(
    database: Database, name: str, arguments: tuple[str, ...], status: str
) -> None:
    options = {"retry": True} if name == "fail" else {}
    with behind_a_proxy(database) as (protocol, _, proxy):
        execution = claimed(database, protocol)
        proxy.lose_answer(f'"{name}"'.encode())
        # Its lease ended with the first try.
        assert asyncio.run(getattr(protocol, name)(execution, *arguments, **options)) == "lost"
        assert proxy.lost == 1
    row = database.execution(execution.id)
    assert (row["status"], row["attempts"]) == (status, 1 if name == "fail" else 0)
    assert len(database.events(execution.id)) == 3


def several(database: Database, protocol: Protocol, count: int) -> list[Execution]:
    user = database.member()
    for _ in range(count):
        database.start(user, database.connection(user.agency_id))
    return asyncio.run(protocol.claim("w", FAMILIES, count, 30))


async def finish(protocol: Protocol, *executions: Execution) -> list[str]:
    return await asyncio.gather(*map(protocol.finish, executions))


def test_those_that_end_at_once_end_in_one_call(database: Database) -> None:
    with opened(database.login("authenticator")) as (protocol, rpc):
        executions = several(database, protocol, 5)
        before = rpc.calls
        assert asyncio.run(finish(protocol, *executions)) == ["completed"] * 5
        assert rpc.calls - before == 1
        assert asyncio.run(finish(protocol, *executions)) == ["lost"] * 5


def test_of_those_that_end_at_once_each_is_told_of_its_own_lease(database: Database) -> None:
    with opened(database.login("authenticator")) as (protocol, _):
        held, lost = several(database, protocol, 2)
        stale = replace(held, lease_token=held.lease_token - 1)
        with database.worker() as session:
            session.call("cancel_sync_job", job_id=lost.id)
        assert asyncio.run(finish(protocol, stale, held, lost)) == ["lost", "completed", "lost"]
        assert asyncio.run(finish(protocol, held, stale)) == ["lost", "lost"]


def test_a_claim_goes_with_what_ends_at_its_moment(database: Database) -> None:
    async def scenario(protocol: Protocol, *ending: Execution) -> tuple[list[str], list[Execution]]:
        finishing = asyncio.gather(*map(protocol.finish, ending))
        claiming = asyncio.create_task(protocol.claim("w", FAMILIES, 1, 30))
        return await finishing, await claiming

    with opened(database.login("authenticator")) as (protocol, rpc):
        executions = several(database, protocol, 2)
        jobs = [database.start(database.member()) for _ in range(2)]
        before = rpc.calls
        for ending, job_id in ((executions, jobs[0]), (executions[:1], jobs[1])):
            answers, [claimed] = asyncio.run(scenario(protocol, *ending))
            assert claimed.id == job_id
            assert answers == (["completed"] * 2 if ending == executions else ["lost"])
        assert rpc.calls - before == 3  # one that was lost asks what became of it


def test_a_claim_does_not_wait_for_many_to_end(database: Database) -> None:
    async def scenario(protocol: Protocol, *ending: Execution) -> None:
        with database.connect() as blocker, blocker.transaction():
            blocker.execute("lock app.execution_events in exclusive mode")
            finishing = [asyncio.create_task(protocol.finish(execution)) for execution in ending]
            claiming = asyncio.create_task(protocol.claim("w", FAMILIES, 1, 30))
            await asyncio.wait([claiming], timeout=4)
            assert claiming.done()
            assert not any(end.done() for end in finishing)
        assert set(await asyncio.gather(*finishing)) == {"completed"}

    with opened(database.login("authenticator")) as (protocol, _):
        asyncio.run(scenario(protocol, *several(database, protocol, MAX_COMPLETIONS_WITH_CLAIM + 1)))


def test_a_claim_that_is_refused_keeps_nothing_from_ending(database: Database) -> None:
    async def scenario(protocol: Protocol, execution: Execution) -> str:
        finishing = asyncio.create_task(protocol.finish(execution))
        with pytest.raises(ApiError, match="invalid_claim"):
            await asyncio.gather(asyncio.sleep(0), protocol.claim("w", FAMILIES, 101, 30))
        return await finishing

    with opened(database.login("authenticator")) as (protocol, _):
        assert asyncio.run(scenario(protocol, claimed(database, protocol))) == "completed"


def test_an_end_with_a_claim_whose_answer_was_lost_is_written_once(database: Database) -> None:
    async def scenario(protocol: Protocol, execution: Execution) -> tuple[str, list[Execution]]:
        finishing = asyncio.create_task(protocol.finish(execution))
        claiming = asyncio.create_task(protocol.claim("w", FAMILIES, 1, 1))
        return await finishing, await claiming

    with behind_a_proxy(database) as (protocol, _, proxy):
        execution = claimed(database, protocol)
        following = database.start(database.member())
        proxy.lose_answer(b"worker_complete_and_claim")
        assert asyncio.run(scenario(protocol, execution)) == ("lost", [])
        assert proxy.lost == 1
        assert [event["event"] for event in database.events(execution.id)] == ["start", "claim", "complete"]
        # What was handed out unheard comes back when its lease ends, as after any claim.
        [again] = until(lambda: asyncio.run(protocol.claim("w", FAMILIES, 1, 30)))
        assert (again.id, again.lease_token) == (following, 3)


def test_those_that_somebody_holds_for_a_moment_end_together_all_the_same(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(database.login("authenticator")) as (protocol, rpc), database.worker() as another:
        executions = several(database, protocol, 3)
        another.execute("begin")
        for execution in executions:
            another.call("worker_heartbeat", execution_id=execution.id, lease_token=execution.lease_token)
        before, call = rpc.calls, rpc.call_async

        async def and_lets_go(*arguments: Any) -> bytes:
            response = await call(*arguments)
            if rpc.calls - before == 1:
                assert response == b"[]"
                another.execute("commit")
            return response

        monkeypatch.setattr(rpc, "call_async", and_lets_go)
        assert asyncio.run(finish(protocol, *executions)) == ["completed"] * 3
        assert rpc.calls - before == 2


def test_one_that_is_locked_waits_alone(database: Database) -> None:
    async def scenario(protocol: Protocol, free: Execution, locked: Execution) -> list[str]:
        with database.worker() as another:
            another.execute("begin")
            another.call("worker_heartbeat", execution_id=locked.id, lease_token=locked.lease_token)
            finishing = [asyncio.create_task(protocol.finish(execution)) for execution in (free, locked)]
            assert await finishing[0] == "completed"
            assert not finishing[1].done()
            another.execute("commit")
        return await asyncio.gather(*finishing)

    with opened(database.login("authenticator")) as (protocol, _):
        assert asyncio.run(scenario(protocol, *several(database, protocol, 2))) == ["completed", "completed"]


def test_one_that_no_longer_waits_does_not_keep_the_others(database: Database) -> None:
    async def scenario(protocol: Protocol, first: Execution, second: Execution) -> str:
        finishing = [asyncio.create_task(protocol.finish(execution)) for execution in (first, second)]
        await asyncio.sleep(0)
        finishing[0].cancel()
        return await finishing[1]

    with opened(database.login("authenticator")) as (protocol, _):
        executions = several(database, protocol, 2)
        assert asyncio.run(scenario(protocol, *executions)) == "completed"
        assert database.execution(executions[0].id)["status"] == "completed"


def test_an_end_together_whose_answer_was_lost_is_written_once(database: Database) -> None:
    with behind_a_proxy(database) as (protocol, _, proxy):
        executions = several(database, protocol, 3)
        proxy.lose_answer(b"worker_complete_all")
        assert asyncio.run(finish(protocol, *executions)) == ["lost"] * 3
        assert proxy.lost == 1
    for execution in executions:
        assert database.execution(execution.id)["status"] == "completed"
        assert len(database.events(execution.id)) == 3


def test_a_claim_whose_answer_was_lost_is_taken_back_when_its_lease_ends(database: Database) -> None:
    job_id = database.start(database.member())
    with behind_a_proxy(database) as (protocol, _, proxy):
        proxy.lose_answer(b'"worker_claim"')
        assert asyncio.run(protocol.claim("w", FAMILIES, 1, 1)) == []
        assert database.execution(job_id)["status"] == "running"

        [execution] = until(lambda: asyncio.run(protocol.claim("w", FAMILIES, 1, 30)))
    assert (execution.id, execution.lease_token) == (job_id, 3)
    assert database.execution(job_id)["attempts"] == 1


def test_a_refusal_is_raised_at_once(database: Database) -> None:
    with opened(database.login("authenticator")) as (protocol, rpc):
        execution = claimed(database, protocol)
        before = rpc.calls
        with pytest.raises(ApiError) as refused:
            asyncio.run(protocol.commit_batch(execution, 3, batch(3, "a")))
        assert (refused.value.status, refused.value.code) == (409, "unexpected_seq")
        assert rpc.calls == before + 1


def test_the_call_says_who_it_is_for_the_audit(database: Database) -> None:
    with opened(database.login("authenticator")) as (protocol, _):
        execution = claimed(database, protocol)
        asyncio.run(protocol.release(execution, "shutdown"))
    ids = [event["request_id"] for event in database.events(execution.id)[1:]]
    assert all(ids)
    assert len(set(ids)) == 2


def test_a_slow_call_holds_up_no_other(database: Database) -> None:
    async def scenario(protocol: Protocol, rpc: Counting, execution: Execution) -> None:
        with database.connect() as blocker, blocker.transaction():
            blocker.execute("lock app.records")
            before = rpc.calls
            committing = asyncio.create_task(protocol.commit_batch(execution, 1, batch(1, "a")))
            await eventually(lambda: database.all("select from pg_locks where not granted"))
            await protocol.reap()
            assert database.all("select from pg_locks where not granted")  # the commit is still at its first try
            assert rpc.calls == before + 2
        assert await committing == "continue"

    with opened(database.login("authenticator")) as (protocol, rpc):
        asyncio.run(scenario(protocol, rpc, claimed(database, protocol)))


@pytest.mark.fresh_database
def test_reap__logs_violated_tenant_isolation(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    database.admin.execute("grant update (agency_id) on public.users to authenticated")
    with opened(database.login("authenticator")) as (protocol, _):
        asyncio.run(protocol.reap())
    [record] = [record for record in caplog.records if record.message == "tenant isolation check failed"]
    assert vars(record)["problem"] == "authenticated may update public.users.agency_id."
