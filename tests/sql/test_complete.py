"""public.worker_complete: done, once, by the worker that holds the lease."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.database import TRANSITIONS_TO

if TYPE_CHECKING:
    from tests.support.database import Database

pytestmark = pytest.mark.sql


def finish(database: Database, job_id: Any, lease_token: Any = 1, **arguments: Any) -> Any:
    with database.worker() as worker:
        return worker.call("worker_complete", execution_id=job_id, lease_token=lease_token, **arguments)["result"]


@pytest.mark.parametrize("status", ["running", "cancelling"])
def test_what_runs_is_completed_even_while_it_is_being_cancelled(database: Database, status: str) -> None:
    job_id = database.put(status, database.agency())
    assert finish(database, job_id) == "completed"
    row = database.execution(job_id)
    assert (row["status"], row["leased_by"], row["lease_expires_at"], row["error"]) == ("completed", None, None, None)
    assert row["finished_at"] >= row["started_at"]
    event = database.events(job_id)[-1]
    assert (event["event"], event["from_status"], event["actor"]) == ("complete", status, "worker:w")


def test_a_cancel_that_came_too_late_is_still_told(database: Database) -> None:
    job_id = database.put("cancelling", database.agency())
    finish(database, job_id)
    row = database.execution(job_id)
    assert (row["status"], row["cancelled_by"]) == ("completed", "service_role")
    assert row["cancel_requested_at"] < row["finished_at"]


def test_the_last_progress_is_kept_unless_a_new_one_is_given(database: Database) -> None:
    agency = database.agency()
    kept, given = (database.put("running", agency, progress='{"windows_done": 1}') for _ in range(2))
    finish(database, kept)
    finish(database, given, progress={"windows_done": 2})
    assert database.execution(kept)["progress"] == {"windows_done": 1}
    assert database.execution(given)["progress"] == {"windows_done": 2}


def test_an_error_of_an_earlier_attempt_is_forgotten(database: Database) -> None:
    job_id = database.put("running", database.agency())
    with database.worker() as worker:
        worker.call("worker_fail", execution_id=job_id, lease_token=1, error={"code": "x", "message": "y"})
        assert database.execution(job_id)["error"] == {"code": "x", "message": "y"}
        database.move(job_id, ("claim", "running"))
        assert worker.call("worker_complete", execution_id=job_id, lease_token=3) == {"result": "completed"}
    assert database.execution(job_id)["error"] is None


def test_with_any_other_lease_it_is_lost(database: Database) -> None:
    agency = database.agency()
    jobs = {status: database.put(status, agency) for status in TRANSITIONS_TO}
    before = database.fingerprint()
    for status, job_id in jobs.items():
        for lease_token in (-1, 0, 1, 2, 3, 2**62, None):
            if lease_token != 1 or status not in {"running", "cancelling"}:
                assert finish(database, job_id, lease_token) == "lost", (status, lease_token)
    assert database.fingerprint() == before


def test_an_expired_lease_finishes_until_it_is_taken_back(database: Database) -> None:
    agency = database.agency()
    early, late = database.put("running", agency), database.put("running", agency)
    for job_id in (early, late):
        database.expire_lease(job_id)
    assert finish(database, early) == "completed"
    with database.worker() as worker:
        assert worker.call("worker_reap")["released"] == 1
    assert finish(database, late) == "lost"


def test_what_does_not_exist_is_lost(database: Database) -> None:
    for job_id in (None, "00000000-0000-0000-0000-000000000000"):
        assert finish(database, job_id) == "lost"
