"""functions/worker/client.py with a real Postgres, and through a network that loses responses."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from functions._shared.errors import ApiError
from tests.support.wait import eventually, until
from tests.support.worker_clients import FAMILIES, claim_started, client_behind_proxy, make_batch, worker_client

if TYPE_CHECKING:
    from functions.worker.client import Execution, WorkerClient
    from tests.support.database import Database
    from tests.support.proxy import Proxy
    from tests.support.worker_clients import CountingTransport


def test_execution__repr_has_no_secret(database: Database) -> None:
    user = database.member()
    config = {"base_url": "https://api.example.com", "resources": {"flights": {}}}
    database.start(user, database.connection(user.agency_id, config=config, secret={"token": "not-in-logs"}))
    with worker_client(database.login("authenticator")) as (client, _):
        [execution] = asyncio.run(client.claim("w", FAMILIES, 1, 30))
    assert execution.connection == {"kind": "http", "config": config, "secret": {"token": "not-in-logs"}}
    assert "not-in-logs" not in f"{execution!r} {execution}"
    assert execution.id in repr(execution)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["stopped", "crashed"])
def test_call__repeated_until_database_is_back(
    mortal_database: Database, how: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    database = mortal_database

    async def scenario(client: WorkerClient, transport: CountingTransport, execution: Execution) -> str:
        caplog.clear()
        database.server.stop(how)
        before = transport.calls
        commit = asyncio.create_task(client.commit_batch(execution, 1, make_batch(1, "a")))
        await eventually(lambda: transport.calls >= before + 3)
        assert not commit.done()
        database.server.start()
        return await commit

    with worker_client(database.login("authenticator")) as (client, transport):
        [execution] = claim_started(database, client)
        try:
            assert asyncio.run(scenario(client, transport, execution)) == "continue"
        finally:
            database.server.restart()
            database.reconnect()
        assert asyncio.run(client.complete(execution)) == "completed"
    assert [record.getMessage() for record in caplog.records] == ["waiting for the database"]  # once, not per attempt
    assert database.server.password not in caplog.text
    assert (database.execution(execution.id)["seq"], database.execution(execution.id)["records"]) == (1, 1)


def test_commit_batch__response_lost__stored_once(database: Database) -> None:
    with client_behind_proxy(database) as (client, transport, proxy):
        [execution] = claim_started(database, client)
        proxy.lose_response(b"worker_commit_batch")
        before = transport.calls
        assert asyncio.run(client.commit_batch(execution, 1, make_batch(1, "a", "b"))) == "continue"
        assert (proxy.lost, transport.calls - before) == (1, 2)
        assert asyncio.run(client.commit_batch(execution, 2, make_batch(2, "c"))) == "continue"
    row = database.execution(execution.id)
    assert (row["seq"], row["records"], row["checkpoint"]) == (2, 3, {"at": 2})
    assert database.one("select count(*) from app.records")["count"] == 3


def test_commit_batch__response_lost_and_cancelled__repetition_returns_lost(database: Database) -> None:
    async def scenario(client: WorkerClient, proxy: Proxy, execution: Execution) -> str:
        with database.worker() as session:
            proxy.lose_response(b"worker_commit_batch")
            commit = asyncio.create_task(client.commit_batch(execution, 1, make_batch(1, "a")))
            await eventually(lambda: database.execution(execution.id)["seq"] == 1)
            session.call("cancel_sync_job", job_id=execution.id)
            return await commit

    with client_behind_proxy(database) as (client, _, proxy):
        [execution] = claim_started(database, client)
        # The first response is lost. The second attempt may run before or after the cancel.
        assert asyncio.run(scenario(client, proxy, execution)) in {"continue", "lost"}
        assert asyncio.run(client.commit_batch(execution, 1, make_batch(1, "a"))) == "lost"
    row = database.execution(execution.id)
    assert (row["status"], row["seq"], row["records"]) == ("cancelled", 1, 1)


@pytest.mark.parametrize(
    ("name", "arguments", "status"),
    [
        ("complete", (), "completed"),
        ("release", ("shutdown",), "queued"),
        ("fail", ("source_unavailable", "Later."), "queued"),
    ],
)
def test_ending_call__response_lost__written_once(
    database: Database, name: str, arguments: tuple[str, ...], status: str
) -> None:
    options = {"retry": True} if name == "fail" else {}
    with client_behind_proxy(database) as (client, _, proxy):
        [execution] = claim_started(database, client)
        proxy.lose_response(f'"worker_{name}"'.encode())
        # The first attempt ended the lease.
        assert asyncio.run(getattr(client, name)(execution, *arguments, **options)) == "lost"
        assert proxy.lost == 1
    row = database.execution(execution.id)
    assert (row["status"], row["attempts"]) == (status, 1 if name == "fail" else 0)
    assert len(database.events(execution.id)) == 3


def test_claim__response_lost__queued_again_when_lease_expires(database: Database) -> None:
    job_id = database.start(database.member())
    with client_behind_proxy(database) as (client, _, proxy):
        proxy.lose_response(b'"worker_claim"')
        assert asyncio.run(client.claim("w", FAMILIES, 1, 1)) == []
        assert database.execution(job_id)["status"] == "running"

        [execution] = until(lambda: asyncio.run(client.claim("w", FAMILIES, 1, 30)))
    assert (execution.id, execution.lease_token) == (job_id, 3)
    assert database.execution(job_id)["attempts"] == 1


def test_call__rejected__raises_without_retry(database: Database) -> None:
    with worker_client(database.login("authenticator")) as (client, transport):
        [execution] = claim_started(database, client)
        before = transport.calls
        with pytest.raises(ApiError) as rejected:
            asyncio.run(client.commit_batch(execution, 3, make_batch(3, "a")))
        assert (rejected.value.status, rejected.value.code) == (409, "unexpected_seq")
        assert transport.calls == before + 1


def test_call__request_id_is_audited(database: Database) -> None:
    with worker_client(database.login("authenticator")) as (client, _):
        [execution] = claim_started(database, client)
        asyncio.run(client.release(execution, "shutdown"))
    ids = [event["request_id"] for event in database.events(execution.id)[1:]]
    assert all(ids)
    assert len(set(ids)) == 2


def test_call__slow__does_not_delay_others(database: Database) -> None:
    async def scenario(client: WorkerClient, transport: CountingTransport, execution: Execution) -> None:
        with database.connect() as blocker, blocker.transaction():
            blocker.execute("lock app.records")
            before = transport.calls
            commit = asyncio.create_task(client.commit_batch(execution, 1, make_batch(1, "a")))
            await eventually(lambda: database.all("select from pg_locks where not granted"))
            await client.reap()
            assert database.all("select from pg_locks where not granted")  # still the commit's first attempt
            assert transport.calls == before + 2
        assert await commit == "continue"

    with worker_client(database.login("authenticator")) as (client, transport):
        [execution] = claim_started(database, client)
        asyncio.run(scenario(client, transport, execution))


@pytest.mark.fresh_database
def test_reap__logs_violated_tenant_isolation(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    database.admin.execute("grant update (agency_id) on public.users to authenticated")
    with worker_client(database.login("authenticator")) as (client, _):
        asyncio.run(client.reap())
    [record] = [record for record in caplog.records if record.message == "tenant isolation check failed"]
    assert vars(record)["problem"] == "authenticated may update public.users.agency_id."
