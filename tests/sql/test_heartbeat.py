"""public.worker_heartbeat extends the lease and returns whether to continue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.database import TRANSITIONS_TO

if TYPE_CHECKING:
    from tests.support.database import Database

pytestmark = pytest.mark.sql


def heartbeat(database: Database, job_id: Any, lease_token: Any) -> Any:
    with database.worker() as worker:
        return worker.call("worker_heartbeat", execution_id=job_id, lease_token=lease_token)


def test_heartbeat__extends_the_lease_only(database: Database) -> None:
    job_id = database.put("running", database.agency())
    before = database.execution(job_id)
    assert heartbeat(database, job_id, 1) == {"result": "continue"}
    after = database.execution(job_id)
    assert after["lease_expires_at"] > before["lease_expires_at"]
    assert after | {"lease_expires_at": before["lease_expires_at"]} == before
    assert len(database.events(job_id)) == 2


def test_heartbeat__lease_seconds_of_the_claim(database: Database) -> None:
    database.start(database.member())
    with database.worker() as worker:
        execution = worker.claim(lease_seconds=3600)
        worker.call("worker_heartbeat", execution_id=execution["id"], lease_token=execution["lease_token"])
    left = database.one("select lease_expires_at - now() > interval '59 minutes' as long from app.executions")
    assert left["long"]


def test_heartbeat__expired_lease(database: Database) -> None:
    job_id = database.put("running", database.agency())
    database.expire_lease(job_id)
    assert heartbeat(database, job_id, 1) == {"result": "continue"}
    with database.worker() as worker:
        assert worker.call("worker_reap") == {"released": 0, "failed": 0, "cancelled": 0}


def test_heartbeat__while_cancelling(database: Database) -> None:
    job_id = database.put("cancelling", database.agency())
    response = heartbeat(database, job_id, 1)
    assert response["result"] == "cancel"
    deadline = database.execution(job_id)["cancel_deadline"]
    assert database.one("select %s::timestamptz = %s as same", (response["deadline"], deadline))["same"]


def test_heartbeat__wrong_lease_token(database: Database) -> None:
    agency = database.agency()
    jobs = {status: database.put(status, agency) for status in TRANSITIONS_TO}
    before = database.fingerprint()
    for status, job_id in jobs.items():
        for lease_token in (-1, 0, 1, 2, 3, 2**62, None):
            if lease_token != 1 or status not in {"running", "cancelling"}:
                assert heartbeat(database, job_id, lease_token)["result"] == "lost", (status, lease_token)
    assert database.fingerprint() == before


def test_heartbeat__unknown_execution(database: Database) -> None:
    for job_id in (None, "00000000-0000-0000-0000-000000000000"):
        assert heartbeat(database, job_id, 0) == {"result": "lost"}
