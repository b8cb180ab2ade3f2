"""public.worker_release ends a worker's turn. Nothing is lost and no attempt is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.database import TRANSITIONS_TO

if TYPE_CHECKING:
    from tests.support.database import Database

pytestmark = pytest.mark.sql


def release(database: Database, job_id: Any, lease_token: Any = 1, **arguments: Any) -> Any:
    with database.worker() as worker:
        return worker.call("worker_release", execution_id=job_id, lease_token=lease_token, **arguments)["result"]


def test_release__requeued_with_checkpoint(database: Database) -> None:
    job_id = database.put("running", database.agency())
    database.update(job_id, seq=4, records=40, checkpoint='{"at": 4}', progress='{"windows_done": 4}', attempts=2)
    database.admin.execute(  # the planner's statistics for the 40
        "insert into app.execution_resources (agency_id, execution_id, resource, started_at, records)"
        " select agency_id, id, 'flights', now(), records from app.executions where id = %s",
        (job_id,),
    )
    before = database.execution(job_id)
    assert release(database, job_id, reason="out of time") == "queued"
    row = database.execution(job_id)
    for column in ("seq", "records", "checkpoint", "progress", "attempts", "started_at"):
        assert row[column] == before[column], column
    assert (row["leased_by"], row["lease_token"], row["reason"]) == (None, 2, "out of time")
    assert database.events(job_id)[-1]["reason"] == "out of time"


def test_release__claimable_at_once(database: Database) -> None:
    job_id = database.start(database.member())
    with database.worker() as worker:
        for n in range(7):
            execution = worker.claim()
            assert execution["lease_token"] == 2 * n + 1
            assert worker.call("worker_release", execution_id=job_id, lease_token=execution["lease_token"]) == {
                "result": "queued"
            }
    assert database.execution(job_id)["attempts"] == 0


def test_release__while_cancelling(database: Database) -> None:
    user = database.member()
    job_id = database.insert(user.agency_id, "bulk_sync")
    database.transition(job_id, ("claim", "running"))
    with database.session(user.claims) as session:
        session.execute("select app.cancel_execution('bulk_sync', %s, 'mine')", (job_id,))
    assert release(database, job_id, reason="cancelled by a user") == "cancelled"
    row = database.execution(job_id)
    assert (row["status"], row["cancelled_by"], row["cancel_reason"]) == ("cancelled", f"user:{user.id}", "mine")
    event = database.events(job_id)[-1]
    assert (event["event"], event["actor"], event["reason"]) == ("acknowledge", "worker:w", "cancelled by a user")


def test_release__long_reason_is_truncated(database: Database) -> None:
    job_id = database.put("running", database.agency())
    assert release(database, job_id, reason="x" * 1000) == "queued"
    assert database.execution(job_id)["reason"] == "x" * 500


def test_release__wrong_lease_token(database: Database) -> None:
    agency = database.agency()
    jobs = {status: database.put(status, agency) for status in TRANSITIONS_TO}
    before = database.fingerprint()
    for status, job_id in jobs.items():
        for lease_token in (-1, 0, 1, 2, 3, 2**62, None):
            if lease_token != 1 or status not in {"running", "cancelling"}:
                assert release(database, job_id, lease_token) == "lost", (status, lease_token)
    assert database.fingerprint() == before


def test_release__unknown_execution(database: Database) -> None:
    for job_id in (None, "00000000-0000-0000-0000-000000000000"):
        assert release(database, job_id) == "lost"
