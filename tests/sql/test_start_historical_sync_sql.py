"""public.start_historical_sync: valid and invalid arguments, and one active job per connection."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.database import TRANSITIONS_TO

if TYPE_CHECKING:
    from tests.support.database import Database, SqlError, User

pytestmark = pytest.mark.sql

JANUARY = {"date_from": "2013-01-01", "date_to": "2013-01-31"}


def error_of(database: Database, user: User, **arguments: Any) -> SqlError:
    """The error of a start. Nothing must have changed."""
    before = database.fingerprint()
    with database.session(user.claims) as session:
        error = session.error("start_historical_sync", **JANUARY | arguments)
    assert database.fingerprint() == before
    return error


def test_start_historical_sync__queued(database: Database) -> None:
    user = database.member()
    connection_id = database.connection(user.agency_id)
    with database.session(user.claims) as session:
        response = session.call(
            "start_historical_sync", connection_id=connection_id, resources=["weather", "weather"], **JANUARY
        )
    assert response == {"job_id": response["job_id"], "status": "pending"}
    row = database.execution(response["job_id"])
    assert row["spec"] == {"date_from": "2013-01-01", "date_to": "2013-01-31", "resources": ["weather"]}
    assert (str(row["agency_id"]), row["created_by"]) == (user.agency_id, f"user:{user.id}")
    [event] = database.events(response["job_id"])
    assert (event["event"], event["from_status"], event["to_status"], event["request_id"]) == (
        "start", None, "queued", "test",
    )  # fmt: skip


def test_start_historical_sync__one_day(database: Database) -> None:
    user = database.member()
    with database.session(user.claims) as session:
        day = {"date_from": "2013-01-01", "date_to": "2013-01-01"}
        assert session.call("start_historical_sync", connection_id=database.connection(user.agency_id), **day)


NO_RANGES = [
    (None, "2013-01-31"), ("2013-01-01", None), (None, None), ("2013-01-02", "2013-01-01"),
    ("-infinity", "infinity"), ("2013-01-01", "infinity"), ("0044-03-15 BC", "2013-01-01"),
    ("2013-01-01", "10000-01-01"),
]  # fmt: skip


def test_start_historical_sync__invalid_dates(database: Database) -> None:
    user = database.member()
    connection_id = database.connection(user.agency_id)
    for first, last in NO_RANGES:
        error = error_of(database, user, connection_id=connection_id, date_from=first, date_to=last)
        assert (error.sqlstate, error.code) == ("PT400", "invalid_dates"), (first, last)


def test_start_historical_sync__resources_not_a_list(database: Database) -> None:
    user = database.member()
    connection_id = database.connection(user.agency_id)
    no_lists: list[Any] = [[], {}, '"flights"', "null", "1"]
    for resources in no_lists:
        error = error_of(database, user, connection_id=connection_id, resources=resources)
        assert (error.sqlstate, error.code) == ("PT400", "invalid_resources"), resources


def test_start_historical_sync__unknown_resources(database: Database) -> None:
    user = database.member()
    connection_id = database.connection(user.agency_id)
    unknown: list[list[Any]] = [
        ["ships"], ["flights", "ships"], [None], ["flights", None], [1], [["flights"]], [{}], [""]
    ]  # fmt: skip
    for resources in unknown:
        error = error_of(database, user, connection_id=connection_id, resources=resources)
        assert (error.sqlstate, error.code) == ("PT400", "unknown_resource"), resources
        assert error.details["available"] == ["flights", "weather"]


def test_start_historical_sync__not_a_source(database: Database) -> None:
    user = database.member()
    error = error_of(database, user, connection_id=database.connection(user.agency_id, "records", {}))
    assert (error.sqlstate, error.code) == ("PT400", "not_a_source")


def test_start_historical_sync__connection_without_resources(database: Database) -> None:
    user = database.member()
    wrong: list[Any] = [{}, [], None, "x"]
    configs: list[dict[str, Any]] = [{}, *({"resources": resources} for resources in wrong)]
    for config in configs:
        connection_id = database.connection(user.agency_id, config=config)
        for resources in (None, ["flights"]):
            assert error_of(database, user, connection_id=connection_id, resources=resources).sqlstate == "PT400", (
                config
            )


def test_start_historical_sync__connection_of_another_agency(database: Database) -> None:
    user, stranger = database.member(), database.member()
    theirs = error_of(database, user, connection_id=database.connection(stranger.agency_id))
    assert (theirs.sqlstate, theirs.code) == ("PT403", "connection_of_another_agency")
    for connection_id in (str(uuid.uuid4()), None):
        none = error_of(database, user, connection_id=connection_id)
        assert (none.sqlstate, none.code) == ("PT404", "connection_not_found")


@pytest.mark.parametrize("status", ["queued", "requeued", "running"])
def test_start_historical_sync__already_active(database: Database, status: str) -> None:
    user = database.member()
    connection_id = database.connection(user.agency_id)
    job_id = database.start(user, connection_id)
    database.transition(job_id, *TRANSITIONS_TO[status])
    error = error_of(database, user, connection_id=connection_id)
    assert (error.sqlstate, error.code, error.details) == ("PT409", "already_active", {"job_id": job_id})


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_start_historical_sync__after_a_finished_job(database: Database, status: str) -> None:
    user = database.member()
    connection_id = database.connection(user.agency_id)
    first = database.start(user, connection_id)
    database.transition(first, *TRANSITIONS_TO[status])
    assert database.start(user, connection_id) != first


def test_start_historical_sync__by_a_trusted_server(database: Database) -> None:
    user = database.member()
    with database.worker() as worker:
        job = worker.call("start_historical_sync", connection_id=database.connection(user.agency_id), **JANUARY)
    row = database.execution(job["job_id"])
    assert (str(row["agency_id"]), row["created_by"]) == (user.agency_id, "service_role")


def test_start_historical_sync__notifies_once(database: Database) -> None:
    with database.connect() as listener:
        listener.execute("listen execution_queued")
        database.start(database.member())
        notified = [notice.payload for notice in listener.notifies(timeout=5, stop_after=1)]
    assert notified == ["historical_sync"]


def test_get_historical_sync__very_long_range(database: Database) -> None:
    """Its remaining seconds are more than an int holds."""
    user = database.member()
    job_id = database.start(user)
    database.transition(job_id, ("claim", "running"))
    database.update(job_id, progress='{"windows_before": 0, "windows_done": 1, "windows_total": 3652059}')
    with database.admin.transaction():
        database.admin.execute("set local session_replication_role = replica")
        database.admin.execute("update app.executions set started_at = now() - interval '1 day'")
    with database.session(user.claims) as session:
        assert session.call("get_historical_sync", job_id=job_id)["progress"]["eta_seconds"] > 2**31
