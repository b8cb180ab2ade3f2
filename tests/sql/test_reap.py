"""public.worker_reap queues, fails or cancels the executions of dead workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.database import FAMILIES, TRANSITIONS_TO, TWO_STEPS

if TYPE_CHECKING:
    from tests.support.database import Database

pytestmark = pytest.mark.sql

NOTHING = {"released": 0, "failed": 0, "cancelled": 0}


def reap(database: Database, **arguments: Any) -> Any:
    with database.worker() as worker:
        return worker.call("worker_reap", **arguments)


def cancel_in_two_steps(database: Database) -> tuple[str, str]:
    """A bulk sync in `cancelling` whose worker has not acknowledged: (job, member)."""
    user = database.member()
    job_id = database.put("running", user.agency_id, "bulk_sync")
    with database.session(user.claims) as session:
        session.execute("select app.cancel_execution('bulk_sync', %s, 'mine')", (job_id,))
    return job_id, f"user:{user.id}"


def pass_deadline(database: Database, job_id: str) -> None:
    """Sets the deadline to the past, without the trigger, because no role may change it."""
    with database.admin.transaction():
        database.admin.execute("set local session_replication_role = replica")
        database.admin.execute("update app.executions set cancel_deadline = '2001-01-01' where id = %s", (job_id,))


def test_reap__alive_and_finished_are_left(database: Database) -> None:
    agency = database.agency()
    for status in TRANSITIONS_TO:
        database.put(status, agency)
    before = database.fingerprint()
    assert reap(database) == NOTHING
    assert database.fingerprint() == before


def test_reap__lost_lease_is_requeued(database: Database) -> None:
    job_id = database.put("running", database.agency())
    database.update(job_id, seq=1, checkpoint='{"at": 1}')
    database.expire_lease(job_id)
    assert reap(database) == NOTHING | {"released": 1}
    row = database.execution(job_id)
    assert (row["status"], row["lease_token"], row["attempts"], row["checkpoint"]) == ("queued", 2, 1, {"at": 1})
    event = database.events(job_id)[-1]
    assert (event["event"], event["actor"], event["reason"]) == ("release", "reaper", "lease_expired")
    with database.worker() as worker:
        assert worker.claim()["lease_token"] == 3


def test_reap__last_attempt_fails(database: Database) -> None:
    job_id = database.put("running", database.agency(), max_attempts=1)
    database.expire_lease(job_id)
    assert reap(database) == NOTHING | {"failed": 1}
    row = database.execution(job_id)
    assert (row["status"], row["error"]["code"]) == ("failed", "worker_lost")
    assert database.events(job_id)[-1]["event"] == "fail"


def test_reap__cancel_before_its_deadline(database: Database) -> None:
    job_id, user = cancel_in_two_steps(database)
    row = database.execution(job_id)
    assert (row["status"], row["cancelled_by"], row["lease_token"]) == ("cancelling", user, 1)
    assert (row["cancel_deadline"] - row["cancel_requested_at"]).total_seconds() == 30
    assert reap(database) == NOTHING


def test_reap__cancel_forced_at_its_deadline(database: Database) -> None:
    job_id, user = cancel_in_two_steps(database)
    pass_deadline(database, job_id)
    assert reap(database) == NOTHING | {"cancelled": 1}
    row = database.execution(job_id)
    assert (row["status"], row["cancelled_by"], row["cancel_reason"], row["lease_token"]) == (
        "cancelled",
        user,
        "mine",
        2,
    )
    event = database.events(job_id)[-1]
    assert (event["event"], event["actor"], event["reason"]) == ("expire", "reaper", "cancel_deadline")
    with database.worker() as worker:
        for call in ("worker_heartbeat", "worker_complete", "worker_release"):
            assert worker.call(call, execution_id=job_id, lease_token=1) == {"result": "lost"}


def test_reap__cancel_of_a_dead_worker(database: Database) -> None:
    job_id, _ = cancel_in_two_steps(database)
    database.expire_lease(job_id)
    assert reap(database) == NOTHING | {"cancelled": 1}
    assert database.events(job_id)[-1]["reason"] == "lease_expired"


def test_reap__heartbeat_keeps_the_deadline(database: Database) -> None:
    job_id, _ = cancel_in_two_steps(database)
    pass_deadline(database, job_id)
    with database.worker() as worker:
        assert worker.call("worker_heartbeat", execution_id=job_id, lease_token=1)["result"] == "cancel"
    assert reap(database) == NOTHING | {"cancelled": 1}


@pytest.mark.parametrize("family", FAMILIES)
def test_cancel_execution__queued_ends_at_once(database: Database, family: str) -> None:
    user = database.member()
    job_id = database.insert(user.agency_id, family)
    with database.session(user.claims) as session:
        [row] = session.execute("select (app.cancel_execution(%s, %s, null)).status", (family, job_id))
    assert row["status"] == "cancelled"
    assert [event["event"] for event in database.events(job_id)] == ["start", FAMILIES[family]]


@pytest.mark.parametrize("family", TWO_STEPS)
def test_cancel_execution__repeated_keeps_the_deadline(database: Database, family: str) -> None:
    user = database.member()
    job_id = database.put("running", user.agency_id, family)
    query = "select to_jsonb(app.cancel_execution(%s, %s, %s)) as row"
    with database.session(user.claims) as session, database.worker() as server:
        [first] = session.execute(query, (family, job_id, "first"))
        before = database.fingerprint()
        for again in (session, server):
            assert again.execute(query, (family, job_id, "another")) == [first]
    assert database.fingerprint() == before
    assert (first["row"]["status"], first["row"]["cancel_reason"]) == ("cancelling", "first")
    assert [event["event"] for event in database.events(job_id)] == ["start", "claim", "request_cancel"]


def delete_silently(database: Database, connection_id: str, age: str | None) -> None:
    """As a connection under test, which is deleted from the start, so no trigger runs."""
    with database.admin.transaction():
        database.admin.execute("set local session_replication_role = replica")
        change = "update app.connections set deleted_at = now() - %s::interval where id = %s"
        database.admin.execute(change, (age, connection_id))


def test_reap__secret_of_a_tested_connection(database: Database) -> None:
    agency = database.agency()
    secrets = {
        "alive": (None, True),
        "tested just now": ("1 minute", True),
        "tested before": ("6 minutes", False),
        "deleted long ago": ("3 days", False),
    }
    ids = {name: database.connection(agency, secret={"token": name}) for name in secrets}
    for name, (age, _) in secrets.items():
        delete_silently(database, ids[name], age)
    assert reap(database) == NOTHING
    for name, (_, kept) in secrets.items():
        assert database.secret(ids[name]) == ({"token": name} if kept else {})
    left = [row["value"] for row in database.all("select value from app.secrets order by id")]
    assert left == [{"token": name} for name, (_, kept) in secrets.items() if kept]
    before = database.fingerprint()
    assert reap(database) == NOTHING
    assert database.fingerprint() == before


def test_reap__skips_locked_connection(database: Database) -> None:
    connection_id = database.connection(database.agency(), secret={"token": "t"})
    delete_silently(database, connection_id, "1 hour")
    with database.worker() as holder, holder.connection.transaction():
        holder.execute("select from app.connections where id = %s for share", (connection_id,))
        assert reap(database) == NOTHING
    assert database.secret(connection_id) == {"token": "t"}
    reap(database)
    assert database.secret(connection_id) == {}
    assert database.all("select from app.secrets") == []


def test_reap__oldest_first_up_to_limit(database: Database) -> None:
    agency = database.agency()
    jobs = [database.put("running", agency) for _ in range(5)]
    for job_id in jobs:
        database.expire_lease(job_id)
    assert reap(database, limit=2)["released"] == 2
    assert [database.execution(job_id)["status"] for job_id in jobs] == ["queued", "queued", *["running"] * 3]
    assert reap(database)["released"] == 3


def test_reap__skips_locked(database: Database) -> None:
    job_id = database.put("running", database.agency())
    database.expire_lease(job_id)
    with database.worker() as holder, holder.connection.transaction():
        holder.execute("select from app.executions where id = %s for update", (job_id,))
        assert reap(database) == NOTHING
    assert reap(database)["released"] == 1


def test_reap__invalid_limit(database: Database) -> None:
    job_id = database.put("running", database.agency())
    database.expire_lease(job_id)
    before = database.fingerprint()
    with database.worker() as worker:
        for limit in (0, -1, 1001, None):
            error = worker.error("worker_reap", limit=limit)
            assert (error.sqlstate, error.code) == ("PT400", "invalid_limit"), limit
    assert database.fingerprint() == before


def test_reap__later_actors_keep_their_name(database: Database) -> None:
    """A later statement without an actor must not keep the reaper's name from the row."""
    job_id = database.put("running", database.agency())
    database.expire_lease(job_id)
    assert reap(database)["released"] == 1
    database.transition(job_id, ("claim", "running"))
    assert database.events(job_id)[-1]["actor"] == "worker:w"
