"""public.heartbeat: keeps the lease, and tells its holder whether to go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.house import PATHS

if TYPE_CHECKING:
    from tests.house import Database

pytestmark = pytest.mark.sql


def heartbeat(database: Database, job_id: Any, lease: Any) -> Any:
    with database.worker() as worker:
        return worker.call("heartbeat", execution_id=job_id, lease=lease)


def test_a_heartbeat_renews_the_lease_and_changes_nothing_else(database: Database) -> None:
    job_id = database.put("running", database.agency())
    before = database.execution(job_id)
    assert heartbeat(database, job_id, 1) == {"answer": "continue"}
    after = database.execution(job_id)
    assert after["lease_expires_at"] > before["lease_expires_at"]
    assert after | {"lease_expires_at": before["lease_expires_at"]} == before
    assert len(database.events(job_id)) == 2


def test_the_lease_is_renewed_for_as_long_as_it_was_claimed(database: Database) -> None:
    database.start(database.member())
    with database.worker() as worker:
        execution = worker.claim(lease_seconds=3600)
        worker.call("heartbeat", execution_id=execution["id"], lease=execution["lease"])
    left = database.one("select lease_expires_at - now() > interval '59 minutes' as long from app.executions")
    assert left["long"]


def test_an_expired_lease_that_nobody_took_back_is_still_good(database: Database) -> None:
    job_id = database.put("running", database.agency())
    database.expire_lease(job_id)
    assert heartbeat(database, job_id, 1) == {"answer": "continue"}
    with database.worker() as worker:
        assert worker.call("reap") == {"released": 0, "failed": 0, "cancelled": 0}


def test_while_it_is_being_cancelled_the_worker_is_told_so_with_the_deadline(database: Database) -> None:
    job_id = database.put("cancelling", database.agency())
    answer = heartbeat(database, job_id, 1)
    assert answer["answer"] == "cancel"
    deadline = database.execution(job_id)["cancel_deadline"]
    assert database.one("select %s::timestamptz = %s as same", (answer["deadline"], deadline))["same"]


def test_with_any_other_lease_it_is_lost(database: Database) -> None:
    agency = database.agency()
    jobs = {status: database.put(status, agency) for status in PATHS}
    before = database.fingerprint()
    for status, job_id in jobs.items():
        for lease in (-1, 0, 1, 2, 3, 2**62, None):
            if lease != 1 or status not in {"running", "cancelling"}:
                assert heartbeat(database, job_id, lease)["answer"] == "lost", (status, lease)
    assert database.fingerprint() == before


def test_what_does_not_exist_is_lost(database: Database) -> None:
    for job_id in (None, "00000000-0000-0000-0000-000000000000"):
        assert heartbeat(database, job_id, 0) == {"answer": "lost"}
