"""public.worker_fail queues an execution again until its attempts are used up, or fails it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.database import TRANSITIONS_TO

if TYPE_CHECKING:
    from tests.support.database import Database

pytestmark = pytest.mark.sql

ERROR = {"code": "source_gone", "message": "The source is gone."}


def fail(database: Database, job_id: Any, lease_token: Any = 1, **arguments: Any) -> Any:
    with database.worker() as worker:
        return worker.call(
            "worker_fail", **{"execution_id": job_id, "lease_token": lease_token, "error": ERROR} | arguments
        )["result"]


def public_status(database: Database) -> Any:
    return database.one("select app.public_status(e) as status from app.executions as e")["status"]


def test_fail__retried_later(database: Database) -> None:
    job_id = database.put("running", database.agency())
    assert fail(database, job_id) == "queued"
    row = database.execution(job_id)
    assert (row["attempts"], row["error"], row["lease_token"]) == (1, ERROR, 2)
    assert database.one("select run_at > now() as later from app.executions")["later"]
    assert public_status(database) == "in_progress"
    with database.worker() as worker:
        assert worker.call("worker_claim", worker="w", families=["historical_sync"]) == []
    event = database.events(job_id)[-1]
    assert (event["event"], event["actor"], event["reason"]) == ("release", "worker:w", "source_gone")


def test_fail__delay_doubles_up_to_five_minutes(database: Database) -> None:
    waits = database.all("select extract(epoch from app.retry_delay(n))::int as s from generate_series(1, 12) as n")
    assert [row["s"] for row in waits] == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300, 300]


@pytest.mark.parametrize("status", ["running", "cancelling"])
def test_fail__without_retry(database: Database, status: str) -> None:
    job_id = database.put(status, database.agency())
    assert fail(database, job_id, retry=False) == "failed"
    row = database.execution(job_id)
    assert (row["status"], row["error"], row["attempts"], row["leased_by"]) == ("failed", ERROR, 1, None)
    assert database.events(job_id)[-1]["event"] == "fail"


def test_fail__last_attempt(database: Database) -> None:
    job_id = database.insert(database.agency(), "historical_sync", max_attempts=3)
    results = []
    for lease_token in (1, 3, 5):
        database.transition(job_id, ("claim", "running"))
        results.append(fail(database, job_id, lease_token))
    assert results == ["queued", "queued", "failed"]
    assert database.execution(job_id)["attempts"] == 3


def test_fail__lost_leases_count_as_attempts(database: Database) -> None:
    job_id = database.insert(database.agency(), "historical_sync", max_attempts=2)
    database.transition(job_id, ("claim", "running"))
    fail(database, job_id)
    database.transition(job_id, ("claim", "running"))
    database.expire_lease(job_id)
    with database.worker() as worker:
        assert worker.call("worker_reap") == {"released": 0, "failed": 1, "cancelled": 0}
    row = database.execution(job_id)
    assert (row["status"], row["attempts"], row["error"]["code"]) == ("failed", 2, "worker_lost")


def test_fail__attempts_reset_by_a_batch(database: Database) -> None:
    agency = database.agency()
    job_id = database.insert(agency, "historical_sync", max_attempts=2, connection_id=database.connection(agency))
    with database.worker() as worker:
        for n in range(4):
            database.transition(job_id, ("claim", "running"))
            lease_token = database.execution(job_id)["lease_token"]
            assert worker.commit_batch({"id": job_id, "lease_token": lease_token}, n + 1, "a") == "continue"
            assert fail(database, job_id, lease_token) == "queued"
            database.transition(job_id, ("claim", "running"), ("release", "queued"))
            assert database.execution(job_id)["attempts"] == 1


def test_fail__while_cancelling(database: Database) -> None:
    job_id = database.put("cancelling", database.agency())
    assert fail(database, job_id) == "cancelled"
    row = database.execution(job_id)
    assert (row["status"], row["cancelled_by"]) == ("cancelled", "service_role")
    assert database.events(job_id)[-1]["event"] == "acknowledge"


def test_fail__invalid_error(database: Database) -> None:
    agency = database.agency()
    senseless: list[Any] = [None, "null", "1", '"x"', "[]", {}, {"code": None}, {"code": "x" * 1000}]
    for error in senseless:
        assert fail(database, database.put("running", agency), error=error, retry=False) == "failed", error


def test_fail__wrong_lease_token(database: Database) -> None:
    agency = database.agency()
    jobs = {status: database.put(status, agency) for status in TRANSITIONS_TO}
    before = database.fingerprint()
    for status, job_id in jobs.items():
        for lease_token in (-1, 0, 1, 2, 3, 2**62, None):
            if lease_token != 1 or status not in {"running", "cancelling"}:
                assert fail(database, job_id, lease_token) == "lost", (status, lease_token)
    assert database.fingerprint() == before


def test_fail__retry_null(database: Database) -> None:
    job_id = database.put("running", database.agency())
    assert fail(database, job_id, retry=None) == "queued"


def test_fail__unknown_execution(database: Database) -> None:
    for job_id in (None, "00000000-0000-0000-0000-000000000000"):
        assert fail(database, job_id) == "lost"
