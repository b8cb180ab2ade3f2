"""public.worker_complete_and_claim does what worker_complete_all and worker_claim do, in one commit."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.claims import INVALID_CLAIMS

if TYPE_CHECKING:
    from tests.support.database import Database

pytestmark = pytest.mark.sql

NEXT = {"worker": "w", "families": ["historical_sync"], "max_executions": 5, "lease_seconds": 30}


def complete_and_claim(database: Database, leases: Any, **wanted: Any) -> dict[str, Any]:
    with database.worker() as worker:
        response: dict[str, Any] = worker.call("worker_complete_and_claim", leases=leases, **NEXT | wanted)
    return response


def ids(claimed: list[dict[str, Any]]) -> set[str]:
    return {execution["id"] for execution in claimed}


def test_complete_and_claim__both(database: Database) -> None:
    agency = database.agency()
    done = [database.put("running", agency) for _ in range(2)]
    following = [database.put("queued", agency) for _ in range(3)]
    response = complete_and_claim(database, dict.fromkeys(done, 1), max_executions=2)
    assert response.keys() == {"completed", "claimed"}
    assert set(response["completed"]) == set(done)
    assert ids(response["claimed"]) == set(following[:2])
    assert {execution["lease_token"] for execution in response["claimed"]} == {1}
    assert [database.execution(job_id)["status"] for job_id in (*done, *following)] == [
        "completed", "completed", "running", "running", "queued",
    ]  # fmt: skip
    for job_id, event, actor in ((done[0], "complete", "worker:w"), (following[0], "claim", "worker:w")):
        last = database.events(job_id)[-1]
        assert (last["event"], last["actor"], last["reason"]) == (event, actor, None)


def test_complete_and_claim__keeps_checkpoint(database: Database) -> None:
    """The two transitions share a statement, and each sets its own columns only."""
    error = '{"code": "source_unavailable", "message": "Later."}'
    left = database.put("running", database.agency())
    database.update(left, status="queued", event="release", error=error, progress='{"windows_done": 1}')
    [claimed] = complete_and_claim(database, {})["claimed"]
    row = database.execution(left)
    assert (claimed["id"], claimed["progress"]) == (left, {"windows_done": 1})
    assert (row["error"]["code"], row["leased_by"], row["lease_seconds"]) == ("source_unavailable", "w", 30)


def test_complete_and_claim__lost_lease(database: Database) -> None:
    agency = database.agency()
    lost, following = database.put("running", agency), database.put("queued", agency)
    response = complete_and_claim(database, {lost: 0})
    assert (response["completed"], ids(response["claimed"])) == ([], {following})
    assert database.execution(lost)["status"] == "running"


def test_complete_and_claim__reaps_dead_workers(database: Database) -> None:
    agency = database.agency()
    done, dead = database.put("running", agency), database.put("running", agency)
    database.expire_lease(done)
    database.expire_lease(dead)
    response = complete_and_claim(database, {done: 1})
    assert response["completed"] == [done]
    assert ids(response["claimed"]) == {dead}
    assert [event["event"] for event in database.events(dead)] == ["start", "claim", "release", "claim"]


def test_complete_and_claim__invalid_arguments(database: Database) -> None:
    agency = database.agency()
    running = database.put("running", agency)
    database.put("queued", agency)
    before = database.fingerprint()
    with database.worker() as worker:
        for wrong in INVALID_CLAIMS:
            error = worker.error("worker_complete_and_claim", leases={running: 1}, **NEXT | wrong)
            assert (error.sqlstate, error.code) == ("PT400", "invalid_claim"), wrong
        too_many = {str(uuid.UUID(int=n)): 1 for n in range(101)}
        malformed: list[Any] = [None, [], too_many, {"x": 1}]
        for leases in malformed:
            assert worker.error("worker_complete_and_claim", leases=leases, **NEXT).sqlstate in {"PT400", "22P02"}, (
                leases
            )
    assert database.fingerprint() == before
