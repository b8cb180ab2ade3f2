"""public.worker_queue_stats counts the claimable executions and returns for how long the oldest has been one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.database import FAMILIES, TRANSITIONS_TO, SqlError

if TYPE_CHECKING:
    from tests.support.database import Database

pytestmark = pytest.mark.sql

NOTHING = {"executions": 0, "oldest_seconds": 0}


def waiting(database: Database, *families: str, **arguments: Any) -> Any:
    with database.worker() as worker:
        return worker.call("worker_queue_stats", families=list(families), **arguments)


def test_queue_stats__queued_and_due_only(database: Database) -> None:
    agency = database.agency()
    for status in TRANSITIONS_TO:
        database.put(status, agency)
    database.insert(agency, "historical_sync", run_at=database.one("select now() + interval '1 minute' as at")["at"])
    assert waiting(database, "historical_sync", "bulk_sync")["executions"] == len(["queued", "requeued"])


def test_queue_stats__given_families_only(database: Database) -> None:
    agency = database.agency()
    for family in FAMILIES:
        database.insert(agency, family)
    for family in FAMILIES:
        assert waiting(database, family)["executions"] == 1
    assert waiting(database, *FAMILIES)["executions"] == len(FAMILIES)
    assert waiting(database) == waiting(database, "unknown") == NOTHING


def test_queue_stats__oldest_seconds(database: Database) -> None:
    agency = database.agency()
    database.insert(agency, run_at=database.one("select now() - interval '1 hour' as at")["at"])
    database.insert(agency)
    found = waiting(database, "bulk_sync")
    assert found["executions"] == 2
    assert 3600 <= found["oldest_seconds"] < 3700


def test_queue_stats__counts_up_to_limit(database: Database) -> None:
    agency = database.agency()
    for _ in range(3):
        database.insert(agency)
    assert waiting(database, "bulk_sync", limit=2)["executions"] == 2


def test_queue_stats__all_agencies(database: Database) -> None:
    for _ in range(2):
        database.insert(database.agency())
    before = database.fingerprint()
    assert waiting(database, "bulk_sync")["executions"] == 2
    assert database.fingerprint() == before


@pytest.mark.parametrize("limit", [0, 101, None])
def test_queue_stats__invalid_limit(database: Database, limit: int | None) -> None:
    with database.worker() as worker:
        error = worker.error("worker_queue_stats", families=[], limit=limit)
    assert error == SqlError("PT400", "invalid_limit", {})


@pytest.mark.parametrize("families", [None, "bulk_sync", {"a": 1}])
def test_queue_stats__invalid_families(database: Database, families: Any) -> None:
    with database.worker() as worker:
        assert isinstance(worker.error("worker_queue_stats", families=families), SqlError)
