"""public.worker_claim hands out the oldest claimable executions, each to one worker with a new lease token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.claims import INVALID_CLAIMS

if TYPE_CHECKING:
    from tests.support.database import Database, Session

pytestmark = pytest.mark.sql

TWO_FAMILIES = ["historical_sync", "bulk_sync"]


def claim(
    worker: Session, families: list[str] | None = None, limit: int = 100, name: str = "w"
) -> list[dict[str, Any]]:
    return list(
        worker.call(
            "worker_claim", worker=name, families=families or TWO_FAMILIES, max_executions=limit, lease_seconds=30
        )
    )


def test_claim__result(database: Database) -> None:
    user = database.member()
    connection_id = database.connection(user.agency_id, secret={"api_key": "s"})
    job_id = database.start(user, connection_id)
    with database.worker() as worker:
        [execution] = claim(worker)
    assert execution == {
        "id": job_id,
        "agency_id": user.agency_id,
        "family": "historical_sync",
        "lease_token": 1,
        "seq": 0,
        "spec": {"date_from": "2013-01-01", "date_to": "2013-01-31", "resources": ["flights", "weather"]},
        "checkpoint": None,
        "progress": {},
        "connection_id": connection_id,
        "definition_id": None,
        "connection": {"kind": "http", "config": execution["connection"]["config"], "secret": {"api_key": "s"}},
        "destination": None,
    }
    row = database.execution(job_id)
    assert (row["status"], row["leased_by"], row["lease_seconds"], row["lease_token"]) == ("running", "w", 30, 1)
    assert (row["lease_expires_at"] - row["started_at"]).total_seconds() == 30
    assert database.events(job_id)[-1]["actor"] == "worker:w"


def test_claim__definition_and_destination(database: Database) -> None:
    user = database.member()
    sync_id = database.bulk_sync(user)
    job_id = database.execute(user, sync_id)
    with database.worker() as worker:
        [execution] = claim(worker)
    row = database.execution(job_id)
    assert (execution["definition_id"], execution["connection_id"]) == (sync_id, str(row["connection_id"]))
    assert execution["spec"]["write"] == {"mode": "replicate"}
    destination = {"id": str(row["destination_id"]), "kind": "records", "config": {}, "secret": {}}
    assert execution["destination"] == destination


def test_claim__execution_without_connection(database: Database) -> None:
    database.insert(database.agency())
    with database.worker() as worker:
        assert claim(worker)[0]["connection"] is None


def test_claim__oldest_first_up_to_max(database: Database) -> None:
    agency = database.agency()
    late, soon, first = (database.insert(agency, run_at=f"2013-01-0{day}") for day in (3, 2, 1))
    with database.worker() as worker:
        assert [e["id"] for e in claim(worker, limit=1)] == [first]
        assert [e["id"] for e in claim(worker, limit=1)] == [soon]
        assert [e["id"] for e in claim(worker, limit=1)] == [late]
        assert claim(worker, limit=1) == []


def test_claim__equal_run_at_by_id(database: Database) -> None:
    agency = database.agency()
    jobs = [database.insert(agency, run_at="2013-01-01") for _ in range(5)]
    with database.worker() as worker:
        assert [claim(worker, limit=1)[0]["id"] for _ in jobs] == sorted(jobs)


def test_claim__other_families_are_left(database: Database) -> None:
    agency = database.agency()
    database.insert(agency, "model_sync")
    bulk = database.insert(agency, "bulk_sync")
    with database.worker() as worker:
        assert claim(worker, ["historical_sync", "nonsense"]) == []
        assert worker.call("worker_claim", worker="w", families=[]) == []
        assert [e["id"] for e in claim(worker)] == [bulk]


def test_claim__run_at_in_the_future(database: Database) -> None:
    database.insert(database.agency(), run_at="2999-01-01")
    with database.worker() as worker:
        assert claim(worker) == []


def test_claim__only_queued(database: Database) -> None:
    agency = database.agency()
    for status in ("running", "cancelling", "completed", "failed", "cancelled"):
        database.put(status, agency)
    with database.worker() as worker:
        assert claim(worker) == []


def test_claim__new_lease_token_and_checkpoint(database: Database) -> None:
    job_id = database.start(database.member())
    with database.worker() as worker:
        first = worker.claim()
        worker.commit_batch(first, 1, "a")
        worker.call("worker_release", execution_id=job_id, lease_token=first["lease_token"])
        second = worker.claim()
    assert (first["lease_token"], second["lease_token"]) == (1, 3)
    assert (second["seq"], second["checkpoint"], second["progress"]) == (
        1, {"seq": 1}, {"windows_done": 1, "windows_total": 10},
    )  # fmt: skip


def test_claim__reaps_dead_workers(database: Database) -> None:
    job_id = database.put("running", database.agency())
    database.expire_lease(job_id)
    with database.worker() as worker:
        [execution] = claim(worker, name="other")
    assert (execution["id"], execution["lease_token"]) == (job_id, 3)
    events = [(e["event"], e["actor"]) for e in database.events(job_id)]
    assert events[-2:] == [("release", "reaper"), ("claim", "worker:other")]


def test_claim__skips_locked(database: Database) -> None:
    agency = database.agency()
    first, second = database.insert(agency), database.insert(agency)
    with database.worker() as holder, database.worker() as worker, holder.connection.transaction():
        holder.execute("select from app.executions where id = %s for update", (first,))
        assert [e["id"] for e in claim(worker)] == [second]


def test_claim__invalid_arguments(database: Database) -> None:
    job_id = database.put("running", database.agency())
    database.expire_lease(job_id)
    database.start(database.member())
    before = database.fingerprint()
    valid = {"worker": "w", "families": TWO_FAMILIES, "max_executions": 1, "lease_seconds": 30}
    with database.worker() as worker:
        for arguments in INVALID_CLAIMS:
            error = worker.error("worker_claim", **valid | arguments)
            assert (error.sqlstate, error.code) == ("PT400", "invalid_claim"), arguments
            assert database.fingerprint() == before, arguments


@pytest.mark.parametrize("protocol", [0, 2, -1, None])
def test_claim__unsupported_protocol(database: Database, protocol: int | None) -> None:
    """A worker of another version fails before it has changed anything."""
    job_id = database.put("running", database.agency())
    database.start(database.member())
    before = database.fingerprint()
    wanted = {"worker": "w", "families": TWO_FAMILIES, "protocol": protocol}
    with database.worker() as worker:
        for name, arguments in (("worker_claim", {}), ("worker_complete_and_claim", {"leases": {job_id: 1}})):
            error = worker.error(name, **wanted, **arguments)
            assert (error.sqlstate, error.code) == ("PT400", "unsupported_protocol")
            assert error.details == {"supported": [1]}
        assert database.fingerprint() == before
        assert len(worker.call("worker_claim", **wanted | {"protocol": 1})) == 1


@pytest.mark.fresh_database  # autovacuum may have analyzed the shared, emptied table
def test_claim__unaffected_by_history(database: Database) -> None:
    """The claim's query reads the partial index in its order, without a sort and without finished rows."""
    with database.worker() as worker:
        plan = worker.execute(
            "explain (costs off) select id from app.executions where status = 'queued' and run_at <= now()"
            " and family = any('{historical_sync}') order by run_at, id limit 1 for update skip locked"
        )
    text = "\n".join(line["QUERY PLAN"] for line in plan)
    assert "executions_claimable" in text
    assert "Sort" not in text
