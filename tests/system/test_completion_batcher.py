"""functions/worker/completion_batcher.py with a real Postgres, and through a network that loses responses."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from functions._shared.errors import ApiError
from functions.worker.completion_batcher import MAX_COMPLETIONS_WITH_CLAIM, CompletionBatcher
from tests.support.wait import until
from tests.support.worker_clients import FAMILIES, claim_started, client_behind_proxy, worker_client

if TYPE_CHECKING:
    from functions.worker.client import Execution, WorkerClient
    from tests.support.database import Database


async def complete(client: WorkerClient, *executions: Execution) -> list[str]:
    """Complete them in one turn of the event loop."""
    return await asyncio.gather(*map(CompletionBatcher(client).complete, executions))


async def complete_and_claim(
    client: WorkerClient, *executions: Execution, lease_seconds: int = 30
) -> tuple[list[str], list[Execution]]:
    """Complete them and claim one execution in the same turn of the event loop."""
    batcher = CompletionBatcher(client)
    completions = asyncio.gather(*map(batcher.complete, executions))
    claim = asyncio.create_task(batcher.claim("w", FAMILIES, 1, lease_seconds))
    return await completions, await claim


def test_complete__same_turn__one_call(database: Database) -> None:
    with worker_client(database.login("authenticator")) as (client, transport):
        executions = claim_started(database, client, 5)
        before = transport.calls
        assert asyncio.run(complete(client, *executions)) == ["completed"] * 5
        assert transport.calls - before == 1
        assert asyncio.run(complete(client, *executions)) == ["lost"] * 5


def test_complete__same_turn__each_gets_the_result_of_its_own_lease(database: Database) -> None:
    with worker_client(database.login("authenticator")) as (client, _):
        held, cancelled = claim_started(database, client, 2)
        stale = replace(held, lease_token=held.lease_token - 1)
        with database.worker() as session:
            session.call("cancel_sync_job", job_id=cancelled.id)
        assert asyncio.run(complete(client, stale, held, cancelled)) == ["lost", "completed", "lost"]
        assert asyncio.run(complete(client, held, stale)) == ["lost", "lost"]


def test_claim__same_turn_as_completions__one_call(database: Database) -> None:
    with worker_client(database.login("authenticator")) as (client, transport):
        executions = claim_started(database, client, 2)
        jobs = [database.start(database.member()) for _ in range(2)]
        before = transport.calls
        assert asyncio.run(_claimed_id(client, *executions)) == (["completed"] * 2, jobs[0])
        assert transport.calls - before == 1
        assert asyncio.run(_claimed_id(client, executions[0])) == (["lost"], jobs[1])
        assert transport.calls - before == 3  # each execution that was not completed is sent again alone


async def _claimed_id(client: WorkerClient, *executions: Execution) -> tuple[list[str], str]:
    results, [claimed] = await complete_and_claim(client, *executions)
    return results, claimed.id


def test_claim__many_completions__does_not_wait_for_them(database: Database) -> None:
    async def scenario(client: WorkerClient, *executions: Execution) -> None:
        batcher = CompletionBatcher(client)
        with database.connect() as blocker, blocker.transaction():
            blocker.execute("lock app.execution_events in exclusive mode")
            completions = [asyncio.create_task(batcher.complete(execution)) for execution in executions]
            claim = asyncio.create_task(batcher.claim("w", FAMILIES, 1, 30))
            await asyncio.wait([claim], timeout=4)
            assert claim.done()
            assert not any(completion.done() for completion in completions)
        assert set(await asyncio.gather(*completions)) == {"completed"}

    with worker_client(database.login("authenticator")) as (client, _):
        asyncio.run(scenario(client, *claim_started(database, client, MAX_COMPLETIONS_WITH_CLAIM + 1)))


def test_claim__rejected__completion_succeeds(database: Database) -> None:
    async def scenario(client: WorkerClient, execution: Execution) -> str:
        batcher = CompletionBatcher(client)
        completion = asyncio.create_task(batcher.complete(execution))
        with pytest.raises(ApiError, match="invalid_claim"):
            await asyncio.gather(asyncio.sleep(0), batcher.claim("w", FAMILIES, 101, 30))
        return await completion

    with worker_client(database.login("authenticator")) as (client, _):
        [execution] = claim_started(database, client)
        assert asyncio.run(scenario(client, execution)) == "completed"


def test_complete_with_claim__response_lost__written_once(database: Database) -> None:
    with client_behind_proxy(database) as (client, _, proxy):
        [execution] = claim_started(database, client)
        following = database.start(database.member())
        proxy.lose_response(b"worker_complete_and_claim")
        assert asyncio.run(complete_and_claim(client, execution, lease_seconds=1)) == (["lost"], [])
        assert proxy.lost == 1
        assert [event["event"] for event in database.events(execution.id)] == ["start", "claim", "complete"]
        # What was claimed in the lost response is queued again when its lease expires, as after any claim.
        [again] = until(lambda: asyncio.run(client.claim("w", FAMILIES, 1, 30)))
        assert (again.id, again.lease_token) == (following, 3)


def test_complete__all_locked_for_a_moment__second_call_completes_all(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with worker_client(database.login("authenticator")) as (client, transport), database.worker() as another:
        executions = claim_started(database, client, 3)
        another.execute("begin")
        for execution in executions:
            another.call("worker_heartbeat", execution_id=execution.id, lease_token=execution.lease_token)
        before, call = transport.calls, transport.call_async

        async def call_and_unlock(*arguments: Any) -> bytes:
            response = await call(*arguments)
            if transport.calls - before == 1:
                assert response == b"[]"
                another.execute("commit")
            return response

        monkeypatch.setattr(transport, "call_async", call_and_unlock)
        assert asyncio.run(complete(client, *executions)) == ["completed"] * 3
        assert transport.calls - before == 2


def test_complete__one_locked__waits_alone(database: Database) -> None:
    async def scenario(client: WorkerClient, free: Execution, locked: Execution) -> list[str]:
        batcher = CompletionBatcher(client)
        with database.worker() as another:
            another.execute("begin")
            another.call("worker_heartbeat", execution_id=locked.id, lease_token=locked.lease_token)
            completions = [asyncio.create_task(batcher.complete(execution)) for execution in (free, locked)]
            assert await completions[0] == "completed"
            assert not completions[1].done()
            another.execute("commit")
        return await asyncio.gather(*completions)

    with worker_client(database.login("authenticator")) as (client, _):
        free, locked = claim_started(database, client, 2)
        assert asyncio.run(scenario(client, free, locked)) == ["completed", "completed"]


def test_complete__one_task_cancelled__others_complete(database: Database) -> None:
    async def scenario(client: WorkerClient, first: Execution, second: Execution) -> str:
        batcher = CompletionBatcher(client)
        completions = [asyncio.create_task(batcher.complete(execution)) for execution in (first, second)]
        await asyncio.sleep(0)
        completions[0].cancel()
        return await completions[1]

    with worker_client(database.login("authenticator")) as (client, _):
        first, second = claim_started(database, client, 2)
        assert asyncio.run(scenario(client, first, second)) == "completed"
        assert database.execution(first.id)["status"] == "completed"


def test_complete__response_lost__written_once(database: Database) -> None:
    with client_behind_proxy(database) as (client, _, proxy):
        executions = claim_started(database, client, 3)
        proxy.lose_response(b"worker_complete_all")
        assert asyncio.run(complete(client, *executions)) == ["lost"] * 3
        assert proxy.lost == 1
    for execution in executions:
        assert database.execution(execution.id)["status"] == "completed"
        assert len(database.events(execution.id)) == 3
