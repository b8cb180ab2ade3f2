"""public.worker_complete_all completes several executions at once, each only with its lease token."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.database import TRANSITIONS_TO

if TYPE_CHECKING:
    from tests.support.database import Database

pytestmark = pytest.mark.sql


def complete_all(database: Database, leases: Any) -> Any:
    with database.worker() as worker:
        return worker.call("worker_complete_all", leases=leases)


def test_complete_all__running_and_cancelling(database: Database) -> None:
    agencies = [database.agency(), database.agency()]
    jobs = [database.put(status, agency) for status in ("running", "cancelling") for agency in agencies]
    assert sorted(complete_all(database, dict.fromkeys(jobs, 1))) == sorted(jobs)
    for job_id in jobs:
        row, event = database.execution(job_id), database.events(job_id)[-1]
        assert (row["status"], row["leased_by"], row["lease_expires_at"]) == ("completed", None, None)
        assert (event["event"], event["to_status"], event["actor"]) == ("complete", "completed", "worker:w")


def test_complete_all__one_event_each(database: Database) -> None:
    jobs = [database.put("running", database.agency()) for _ in range(3)]
    before = {job_id: len(database.events(job_id)) for job_id in jobs}
    complete_all(database, dict.fromkeys(jobs, 1))
    assert complete_all(database, dict.fromkeys(jobs, 1)) == []
    assert {job_id: len(database.events(job_id)) - 1 for job_id in jobs} == before


def test_complete_all__clears_error_keeps_progress(database: Database) -> None:
    job_id = database.put("running", database.agency(), progress='{"windows_done": 1}', error='{"code": "x"}')
    complete_all(database, {job_id: 1})
    row = database.execution(job_id)
    assert (row["error"], row["progress"]) == (None, {"windows_done": 1})


@pytest.mark.parametrize("lease_token", [-1, 0, 2, 3, 2**62, None])
def test_complete_all__wrong_lease_token(database: Database, lease_token: int | None) -> None:
    agency = database.agency()
    jobs = [database.put(status, agency) for status in TRANSITIONS_TO]
    before = database.fingerprint()
    wrong = {job_id: lease_token for job_id in jobs if database.execution(job_id)["lease_token"] != lease_token}
    assert complete_all(database, wrong) == []
    assert database.fingerprint() == before


def test_complete_all__lost_ones_do_not_block_others(database: Database) -> None:
    agency = database.agency()
    held, lost, ended = (database.put(status, agency) for status in ("running", "running", "completed"))
    assert complete_all(database, {held: 1, lost: 0, ended: 1, str(uuid.uuid4()): 1}) == [held]
    assert database.execution(lost)["status"] == "running"


def test_complete_all__skips_locked(database: Database) -> None:
    agency = database.agency()
    free, locked = database.put("running", agency), database.put("running", agency)
    with database.worker() as another:
        another.execute("begin")
        assert another.call("worker_heartbeat", execution_id=locked, lease_token=1) == {"result": "continue"}
        assert complete_all(database, {free: 1, locked: 1}) == [free]
        another.execute("rollback")
    assert complete_all(database, {free: 1, locked: 1}) == [locked]


@pytest.mark.parametrize(
    ("leases", "sqlstate"),
    [
        (None, "PT400"),
        ([], "PT400"),
        ({str(uuid.UUID(int=n)): 1 for n in range(101)}, "PT400"),
        ({"x": 1}, "22P02"),
    ],
    ids=["null", "list", "too many", "no id"],
)
def test_complete_all__invalid_leases(database: Database, leases: Any, sqlstate: str) -> None:
    database.put("running", database.agency())
    before = database.fingerprint()
    with database.worker() as worker:
        assert worker.error("worker_complete_all", leases=leases).sqlstate == sqlstate
    assert database.fingerprint() == before
