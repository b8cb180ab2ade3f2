"""public.cancel_sync_job and app.cancel_execution."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.database import TRANSITIONS_TO, SqlError

if TYPE_CHECKING:
    from tests.support.database import Database, User

pytestmark = pytest.mark.sql


def test_cancel_sync_job__running_fences_the_worker(database: Database) -> None:
    user = database.member()
    job_id = database.start(user)
    with database.worker() as worker, database.session(user.claims) as session:
        execution = worker.claim()
        assert worker.commit_batch(execution, 1, "a", "b") == "continue"

        assert session.call("cancel_sync_job", job_id=job_id, reason="wrong range") == {
            "job_id": job_id,
            "status": "cancelled",
        }

        assert worker.commit_batch(execution, 2, "c") == "lost"
        for call in ("worker_heartbeat", "worker_complete", "worker_release"):
            assert worker.call(call, execution_id=job_id, lease_token=execution["lease_token"]) == {"result": "lost"}
    row = database.execution(job_id)
    assert (row["status"], row["cancelled_by"], row["cancel_reason"]) == ("cancelled", f"user:{user.id}", "wrong range")
    assert [event["event"] for event in database.events(job_id)] == ["start", "claim", "cancel"]
    assert database.one("select count(*) from app.records")["count"] == 2


def cancel(database: Database, user: User, job_id: str | None, **arguments: Any) -> Any:
    with database.session(user.claims) as session:
        return session.call("cancel_sync_job", job_id=job_id, **arguments)


def error_of(database: Database, user: User, job_id: str | None, **arguments: Any) -> SqlError:
    """The error of a cancel. Nothing must have changed."""
    before = database.fingerprint()
    with database.session(user.claims) as session:
        error = session.error("cancel_sync_job", job_id=job_id, **arguments)
    assert database.fingerprint() == before
    return error


@pytest.mark.parametrize("status", ["queued", "requeued", "running"])
def test_cancel_sync_job__active_statuses(database: Database, status: str) -> None:
    user = database.member()
    job_id = database.start(user)
    database.transition(job_id, *TRANSITIONS_TO[status])
    before = database.execution(job_id)
    assert cancel(database, user, job_id) == {"job_id": job_id, "status": "cancelled"}
    row = database.execution(job_id)
    assert (row["cancelled_by"], row["cancel_reason"], row["lease_token"]) == (
        f"user:{user.id}",
        None,
        before["lease_token"] + 1,
    )
    assert row["cancel_requested_at"] == row["finished_at"]
    event = database.events(job_id)[-1]
    assert (event["event"], event["from_status"], event["actor"], event["request_id"]) == (
        "cancel", before["status"], f"user:{user.id}", "test",
    )  # fmt: skip


def test_cancel_sync_job__by_colleague(database: Database) -> None:
    user = database.member()
    job_id = database.start(user)
    colleague = database.user(user.agency_id)
    cancel(database, colleague, job_id)
    assert database.execution(job_id)["cancelled_by"] == f"user:{colleague.id}"


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_cancel_sync_job__already_finished(database: Database, status: str) -> None:
    user = database.member()
    error = error_of(database, user, database.put(status, user.agency_id))
    assert (error.sqlstate, error.code, error.details) == ("PT400", "not_cancellable", {"current_status": status})


def test_cancel_sync_job__job_of_another_agency(database: Database) -> None:
    user, stranger = database.member(), database.member()
    theirs = error_of(database, user, database.start(stranger))
    assert (theirs.sqlstate, theirs.code, theirs.details) == ("PT403", "job_of_another_agency", {})
    for job_id in (str(uuid.uuid4()), None):
        none = error_of(database, user, job_id)
        assert (none.sqlstate, none.code) == ("PT404", "job_not_found")


def test_cancel_sync_job__job_of_another_family(database: Database) -> None:
    user = database.member()
    for family in ("bulk_sync", "sync_job_run"):
        assert error_of(database, user, database.insert(user.agency_id, family)).code == "job_not_found"


def test_cancel_sync_job__reason_length(database: Database) -> None:
    user = database.member()
    job_id = database.start(user)
    assert error_of(database, user, job_id, reason="☃" * 501).code == "reason_too_long"
    cancel(database, user, job_id, reason="☃" * 500)
    assert database.events(job_id)[-1]["reason"] == "☃" * 500


def test_cancel_sync_job__reason_is_stored_verbatim(database: Database) -> None:
    user = database.member()
    for reason in ("", "'; drop table app.executions; --", "\\n", "{}", "☃"):
        job_id = database.start(user)
        cancel(database, user, job_id, reason=reason)
        assert database.execution(job_id)["cancel_reason"] == reason


def test_cancel_sync_job__notifies_for_running_only(database: Database) -> None:
    user = database.member()
    waiting, running = database.start(user), database.put("running", user.agency_id)
    with database.connect() as listener:
        listener.execute("listen execution_cancelled")
        cancel(database, user, waiting)
        cancel(database, user, running)
        notified = [notice.payload for notice in listener.notifies(timeout=5, stop_after=1)]
    assert notified == [running]


@pytest.mark.fresh_database
def test_cancel_sync_job__lock_timeout(database: Database) -> None:
    user = database.member()
    job_id = database.start(user)
    with database.owner() as owner:
        owner.execute("alter function app.cancel_execution set lock_timeout = '50ms'")
    with database.worker() as holder, holder.connection.transaction():
        holder.execute("select from app.executions where id = %s for update", (job_id,))
        assert error_of(database, user, job_id).sqlstate == "55P03"
    assert cancel(database, user, job_id)["status"] == "cancelled"


def test_cancel_sync_job__rolled_back(database: Database) -> None:
    user = database.member()
    job_id = database.start(user)
    before = database.fingerprint()
    with database.session(user.claims) as session, session.connection.transaction(force_rollback=True):
        session.call("cancel_sync_job", job_id=job_id)
    assert database.fingerprint() == before
