"""POST start-historical-sync: one active job per connection, and an error changes nothing."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest

from functions.historical_sync.start_historical_sync import HistoricalSyncStarted
from tests.support.project import JANUARY, both_transports, expect_error, one_transport

if TYPE_CHECKING:
    import httpx

    from tests.support.project import Project, Status

UNKNOWN = "00000000-0000-4000-8000-000000000000"


def accepted(response: httpx.Response) -> str:
    """The new job's id."""
    assert response.status_code == 201, response.text
    HistoricalSyncStarted.model_validate_json(response.content, strict=True, extra="forbid")
    assert response.json()["status"] == "pending"
    return str(response.json()["job_id"])


@both_transports
def test_start_historical_sync__queues_a_job(project: Project) -> None:
    user = project.database.member()
    connection_id = project.database.connection(user.agency_id)

    response = project.start(project.token(user), {"connection_id": connection_id, **JANUARY, "resources": ["weather"]})

    job_id = accepted(response)
    row = project.database.execution(job_id)
    assert (row["status"], row["lease_token"], row["created_by"]) == ("queued", 0, f"user:{user.id}")
    assert (str(row["agency_id"]), str(row["connection_id"])) == (user.agency_id, connection_id)
    assert row["spec"] == {**JANUARY, "resources": ["weather"]}
    [event] = project.database.events(job_id)
    assert (event["event"], event["actor"]) == ("start", f"user:{user.id}")
    assert event["request_id"] == response.headers["x-request-id"]


@both_transports
@pytest.mark.parametrize(
    ("resources", "stored"),
    [
        (None, ["flights", "weather"]),
        (["flights"], ["flights"]),
        (["weather", "flights", "weather"], ["flights", "weather"]),
        (["flights"] * 1000, ["flights"]),
    ],
    ids=["null means all", "one", "duplicates", "a thousand"],
)
def test_start_historical_sync__resources(project: Project, resources: list[str] | None, stored: list[str]) -> None:
    user = project.database.member()
    body = {"connection_id": project.database.connection(user.agency_id), **JANUARY, "resources": resources}
    job_id = accepted(project.start(project.token(user), body))
    assert project.database.execution(job_id)["spec"]["resources"] == stored


@both_transports
def test_start_historical_sync__resources_left_out(project: Project) -> None:
    user = project.database.member()
    body = {"connection_id": project.database.connection(user.agency_id), **JANUARY}
    job_id = accepted(project.start(project.token(user), body))
    assert project.database.execution(job_id)["spec"]["resources"] == ["flights", "weather"]


@both_transports
def test_start_historical_sync__unusual_resource_names(project: Project) -> None:
    names = ["a'b\"; drop table x; -- %s $$ \\", "日本語", "🛫", ""]
    user = project.database.member()
    connection_id = project.database.connection(user.agency_id, config={"resources": {name: {} for name in names}})
    body = {"connection_id": connection_id, **JANUARY, "resources": names}
    job_id = accepted(project.start(project.token(user), body))
    assert sorted(project.database.execution(job_id)["spec"]["resources"]) == sorted(names)


@one_transport
@pytest.mark.parametrize(
    ("date_from", "date_to"),
    [("2013-01-01", "2013-01-01"), ("2012-02-29", "2013-01-01"), ("0001-01-01", "9999-12-31")],
    ids=["one day", "leap day", "all days"],
)
def test_start_historical_sync__dates(project: Project, date_from: str, date_to: str) -> None:
    user = project.database.member()
    dates = {"date_from": date_from, "date_to": date_to}
    body = {"connection_id": project.database.connection(user.agency_id), **dates}
    spec = project.database.execution(accepted(project.start(project.token(user), body)))["spec"]
    assert {name: spec[name] for name in dates} == dates


@one_transport
@pytest.mark.parametrize("content_type", [None, "text/plain", "application/octet-stream"])
def test_start_historical_sync__any_content_type(project: Project, content_type: str | None) -> None:
    user = project.database.member()
    connection_id = project.database.connection(user.agency_id)
    body = f'{{"connection_id": "{connection_id}", "date_from": "2013-01-01", "date_to": "2013-01-31", "x": []}}'
    headers = {"content-type": content_type} if content_type else {}
    accepted(project.start(project.token(user), body.encode(), headers=headers, params={"connection_id": UNKNOWN}))


# Invalid requests

GOOD = {"connection_id": UNKNOWN, **JANUARY}
BAD_DATES: dict[str, Any] = {
    "null": None,
    "number": 20130101,
    "Unix time": 1356998400,
    "fraction": 1.5,
    "true": True,
    "empty": "",
    "word": "today",
    "infinity": "infinity",
    "timestamp": "2013-01-01T00:00:00",
    "timestamp with time zone": "2013-01-01T00:00:00Z",
    "timestamp with a space": "2013-01-01 00:00",
    "Unix time as text": "1356998400",
    "no such month": "2013-13-01",
    "no such day": "2013-02-30",
    "February 29 of a common year": "2013-02-29",
    "year 0": "0000-01-01",
    "year 10000": "10000-01-01",
    "before Christ": "0044-03-15 BC",
    "negative": "-2013-01-01",
    "month of one digit": "2013-1-1",
    "day first": "01.01.2013",
    "no hyphens": "20130101",
    "week": "2013-W01-1",
    "Arabic digits": "٢٠١٣-٠١-٠١",
    "white space": " 2013-01-01",
    "suffix": "2013-01-01'",
    "NUL": "2013-01-01\0",
    "list": ["2013-01-01"],
}


@one_transport
@pytest.mark.parametrize("name", BAD_DATES)
@pytest.mark.parametrize("field", ["date_from", "date_to"])
def test_start_historical_sync__invalid_date(project: Project, field: str, name: str) -> None:
    token = project.token(project.database.member())
    response = project.start(token, {**GOOD, field: BAD_DATES[name]})
    assert expect_error(response, 400, "invalid_field") == {"field": field}


@one_transport
def test_start_historical_sync__date_from_after_date_to(project: Project) -> None:
    user = project.database.member()
    body = {"connection_id": project.database.connection(user.agency_id), "date_from": "2013-02-01"}
    token = project.token(user)
    with project.unchanged():
        response = project.start(token, {**body, "date_to": "2013-01-31"})
    assert expect_error(response, 400, "invalid_request") == {}
    assert response.json()["error"] == "date_from must not be after date_to."


BAD_BODIES: dict[str, tuple[Any, str, str | None]] = {
    "no body": (None, "missing_field", "connection_id"),
    "empty": ({}, "missing_field", "connection_id"),
    "array": ([GOOD], "invalid_request", None),
    "null": (b"null", "invalid_request", None),
    "not JSON": (b"connection_id", "invalid_json", None),
    "deeply nested": (b'{"resources":' + b"[" * 100_000, "invalid_json", None),
    "no date_from": ({"connection_id": UNKNOWN, "date_to": "2013-01-01"}, "missing_field", "date_from"),
    "no date_to": ({"connection_id": UNKNOWN, "date_from": "2013-01-01"}, "missing_field", "date_to"),
    "connection null": (GOOD | {"connection_id": None}, "invalid_field", "connection_id"),
    "connection a number": (GOOD | {"connection_id": 1}, "invalid_field", "connection_id"),
    "connection not a UUID": (GOOD | {"connection_id": "mine"}, "invalid_field", "connection_id"),
    "resources a string": (GOOD | {"resources": "flights"}, "invalid_field", "resources"),
    "resources an object": (GOOD | {"resources": {"flights": 1}}, "invalid_field", "resources"),
    "resources empty": (GOOD | {"resources": []}, "invalid_field", "resources"),
    "too many resources": (GOOD | {"resources": ["x"] * 1001}, "invalid_field", "resources"),
    "resource null": (GOOD | {"resources": [None]}, "invalid_field", "resources.0"),
    "resource a number": (GOOD | {"resources": ["x", 1]}, "invalid_field", "resources.1"),
    "resource a list": (GOOD | {"resources": [["x"]]}, "invalid_field", "resources.0"),
    "resource with NUL": (GOOD | {"resources": ["a\0b"]}, "invalid_field", "resources.0"),
    "lone surrogate": (b'{"connection_id": "\\ud800"}', "invalid_json", None),
    "too large": (b" " * (1024 * 1024 + 1), "body_too_large", None),
}


@one_transport
@pytest.mark.parametrize("name", BAD_BODIES)
def test_start_historical_sync__invalid_body(project: Project, name: str) -> None:
    body, code, field = BAD_BODIES[name]
    token = project.token(project.database.user(None))
    with project.unchanged():
        response = project.start(token, body)
    members = expect_error(response, 413 if code == "body_too_large" else 400, code)
    assert members == ({"field": field} if field else {})
    assert len(response.content) < 1000


@both_transports
@pytest.mark.parametrize("unknown", ["Flights", "nope", "", "x'; --", "日本", "x" * 100_000], ids=lambda name: name[:9])
def test_start_historical_sync__unknown_resource(project: Project, unknown: str) -> None:
    user = project.database.member()
    body = {"connection_id": project.database.connection(user.agency_id), **JANUARY, "resources": ["flights", unknown]}
    token = project.token(user)
    with project.unchanged():
        members = expect_error(project.start(token, body), 400, "unknown_resource")
    assert members == {"resource": unknown[:200], "available": ["flights", "weather"]}


@both_transports
def test_start_historical_sync__connection_without_resources(project: Project) -> None:
    user = project.database.member()
    body = {"connection_id": project.database.connection(user.agency_id, config={}), **JANUARY}
    token = project.token(user)
    with project.unchanged():
        expect_error(project.start(token, body), 400, "invalid_resources")
        members = expect_error(project.start(token, body | {"resources": ["flights"]}), 400, "unknown_resource")
    assert members == {"resource": "flights", "available": []}


# Connections and callers


@both_transports
def test_start_historical_sync__connection_is_not_a_source(project: Project) -> None:
    user = project.database.member()
    body = {"connection_id": project.database.connection(user.agency_id, kind="records", config={}), **JANUARY}
    token = project.token(user)
    with project.unchanged():
        expect_error(project.start(token, body), 400, "not_a_source")


@both_transports
def test_start_historical_sync__connection_of_another_agency(project: Project) -> None:
    owner, stranger = project.database.member(), project.database.member()
    body = {"connection_id": project.database.connection(owner.agency_id, secret={"token": "t0p"}), **JANUARY}
    token = project.token(stranger)
    with project.unchanged():
        response = project.start(token, body)
    assert expect_error(response, 403, "connection_of_another_agency") == {}


@both_transports
def test_start_historical_sync__unknown_connection(project: Project) -> None:
    token = project.token(project.database.member())
    with project.unchanged():
        assert expect_error(project.start(token, GOOD), 404, "connection_not_found") == {}


@both_transports
def test_start_historical_sync__user_without_agency(project: Project) -> None:
    connection_id = project.database.connection(project.database.agency())
    token = project.token(project.database.user(None))
    with project.unchanged():
        expect_error(project.start(token, {"connection_id": connection_id, **JANUARY}), 403, "no_agency")
        expect_error(project.start(token, GOOD), 403, "no_agency")


# One active job per connection


@both_transports
@pytest.mark.parametrize("status", ["pending", "in_progress", "released"])
def test_start_historical_sync__already_active(project: Project, status: Status) -> None:
    user = project.database.member()
    active = project.job(user, status)
    body = {"connection_id": str(project.database.execution(active)["connection_id"]), **JANUARY}
    colleague = project.token(project.database.user(user.agency_id))
    with project.unchanged():
        response = project.start(colleague, body)
    assert expect_error(response, 409, "already_active") == {"job_id": active}


@both_transports
@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_start_historical_sync__after_the_previous_job_ended(project: Project, status: Status) -> None:
    user = project.database.member()
    ended = project.job(user, status)
    body = {"connection_id": str(project.database.execution(ended)["connection_id"]), **JANUARY}
    assert accepted(project.start(project.token(user), body)) != ended


@both_transports
def test_start_historical_sync__two_connections_run_side_by_side(project: Project) -> None:
    user = project.database.member()
    connections = [project.database.connection(user.agency_id) for _ in range(2)]
    for connection_id in connections:
        accepted(project.start(project.token(user), {"connection_id": connection_id, **JANUARY}))


@both_transports
def test_start_historical_sync__concurrent_calls_start_once(project: Project) -> None:
    user = project.database.member()
    body, token = {"connection_id": project.database.connection(user.agency_id), **JANUARY}, project.token(user)

    responses = project.concurrently(lambda: project.start(token, body))

    [job_id] = [accepted(response) for response in responses if response.status_code == 201]
    for response in responses:
        if response.status_code != 201:
            assert expect_error(response, 409, "already_active") == {"job_id": job_id}
    count = "select count(*) from app.executions where connection_id = %s"
    assert project.database.one(count, (body["connection_id"],))["count"] == 1


@both_transports
def test_start_historical_sync__concurrent_with_cancels(project: Project) -> None:
    user = project.database.member()
    body, token = {"connection_id": project.database.connection(user.agency_id), **JANUARY}, project.token(user)

    def start_and_cancel() -> httpx.Response:
        response = project.start(token, body)
        return project.cancel(token, {"job_id": response.json()["job_id"]})

    responses = project.concurrently(start_and_cancel)

    cancelled = [response.json()["job_id"] for response in responses if response.status_code == 200]
    assert len(set(cancelled)) == len(cancelled)
    rows = project.database.all(
        "select id::text, status from app.executions where connection_id = %s", (body["connection_id"],)
    )
    assert {row["id"] for row in rows if row["status"] == "cancelled"} == set(cancelled)


@one_transport
def test_start_historical_sync__request_id_in_audit_and_response(project: Project) -> None:
    user = project.database.member()
    body = {"connection_id": project.database.connection(user.agency_id), **JANUARY}
    response = project.start(project.token(user), body, headers={"x-request-id": "req-1"})
    assert response.headers["x-request-id"] == "req-1"
    [event] = project.database.events(accepted(response))
    assert event["request_id"] == "req-1"


@both_transports
def test_start_historical_sync__spec_is_fixed_at_the_start(project: Project) -> None:
    today = dt.datetime.now(dt.UTC).date().isoformat()
    user = project.database.member()
    connection_id = project.database.connection(user.agency_id)
    body = {"connection_id": connection_id, "date_from": today, "date_to": today}
    job_id = accepted(project.start(project.token(user), body))
    project.database.admin.execute("update app.connections set config = '{}' where id = %s", (connection_id,))
    spec = {"date_from": today, "date_to": today, "resources": ["flights", "weather"]}
    assert project.database.execution(job_id)["spec"] == spec
