"""public.worker_complete completes an execution once, for the worker that holds the lease."""

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
def test_complete__running_and_cancelling(database: Database, status: str) -> None:
    job_id = database.put(status, database.agency())
    assert finish(database, job_id) == "completed"
    row = database.execution(job_id)
    assert (row["status"], row["leased_by"], row["lease_expires_at"], row["error"]) == ("completed", None, None, None)
    assert row["finished_at"] >= row["started_at"]
    event = database.events(job_id)[-1]
    assert (event["event"], event["from_status"], event["actor"]) == ("complete", status, "worker:w")


def test_complete__late_cancel_is_recorded(database: Database) -> None:
    job_id = database.put("cancelling", database.agency())
    finish(database, job_id)
    row = database.execution(job_id)
    assert (row["status"], row["cancelled_by"]) == ("completed", "service_role")
    assert row["cancel_requested_at"] < row["finished_at"]


def test_complete__progress(database: Database) -> None:
    agency = database.agency()
    kept, given = (database.put("running", agency, progress='{"windows_done": 1}') for _ in range(2))
    finish(database, kept)
    finish(database, given, progress={"windows_done": 2})
    assert database.execution(kept)["progress"] == {"windows_done": 1}
    assert database.execution(given)["progress"] == {"windows_done": 2}


def test_complete__clears_an_earlier_error(database: Database) -> None:
    job_id = database.put("running", database.agency())
    with database.worker() as worker:
        worker.call("worker_fail", execution_id=job_id, lease_token=1, error={"code": "x", "message": "y"})
        assert database.execution(job_id)["error"] == {"code": "x", "message": "y"}
        database.transition(job_id, ("claim", "running"))
        assert worker.call("worker_complete", execution_id=job_id, lease_token=3) == {"result": "completed"}
    assert database.execution(job_id)["error"] is None


def test_complete__wrong_lease_token(database: Database) -> None:
    agency = database.agency()
    jobs = {status: database.put(status, agency) for status in TRANSITIONS_TO}
    before = database.fingerprint()
    for status, job_id in jobs.items():
        for lease_token in (-1, 0, 1, 2, 3, 2**62, None):
            if lease_token != 1 or status not in {"running", "cancelling"}:
                assert finish(database, job_id, lease_token) == "lost", (status, lease_token)
    assert database.fingerprint() == before


def test_complete__expired_lease(database: Database) -> None:
    agency = database.agency()
    early, late = database.put("running", agency), database.put("running", agency)
    for job_id in (early, late):
        database.expire_lease(job_id)
    assert finish(database, early) == "completed"
    with database.worker() as worker:
        assert worker.call("worker_reap")["released"] == 1
    assert finish(database, late) == "lost"


def test_complete__unknown_execution(database: Database) -> None:
    for job_id in (None, "00000000-0000-0000-0000-000000000000"):
        assert finish(database, job_id) == "lost"
