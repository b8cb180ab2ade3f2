"""GET get-historical-sync: the job's status, progress and position in the vocabulary of its family."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest

from functions.historical_sync.get_historical_sync import HistoricalSync
from tests.support.project import JANUARY, both_transports, expect_error, one_transport

if TYPE_CHECKING:
    import httpx

    from tests.support.database import User
    from tests.support.project import Project, Status

UNKNOWN = "00000000-0000-4000-8000-000000000000"
NO_PROGRESS = {"records": 0, "windows_done": None, "windows_total": None, "percent": 0, "eta_seconds": None}


def accepted(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    HistoricalSync.model_validate_json(response.content, strict=True, extra="forbid")
    job: dict[str, Any] = response.json()
    return job


def job_without_times(project: Project, user: User, job_id: str) -> dict[str, Any]:
    """The job with each timestamp replaced by whether it has a time zone."""
    job = accepted(project.get(project.token(user), job_id))
    for timestamp in ("created_at", "started_at", "cancel_requested_at", "finished_at"):
        job[timestamp] = job[timestamp] and dt.datetime.fromisoformat(job[timestamp]).tzinfo is not None
    return job


@both_transports
def test_get_historical_sync__pending(project: Project) -> None:
    user = project.database.member()
    job_id = project.job(user)
    assert job_without_times(project, user, job_id) == {
        "job_id": job_id,
        "status": "pending",
        "connection_id": str(project.database.execution(job_id)["connection_id"]),
        **JANUARY,
        "resources": ["flights", "weather"],
        "progress": NO_PROGRESS,
        "position": None,
        "error": None,
        "cancelled_by": None,
        "cancel_reason": None,
        "retry_of": None,
        "created_by": f"user:{user.id}",
        "created_at": True,
        "started_at": None,
        "cancel_requested_at": None,
        "finished_at": None,
    }


@both_transports
@pytest.mark.parametrize(
    ("status", "changes"),
    [
        ("in_progress", {"status": "in_progress", "started_at": True}),
        ("released", {"status": "in_progress", "started_at": True}),
        ("completed", {"status": "completed", "started_at": True, "finished_at": True, "percent": 100}),
        (
            "failed",
            {
                "status": "failed",
                "started_at": True,
                "finished_at": True,
                "error": {"code": "gone", "message": "The source is gone."},
            },
        ),
        (
            "cancelled",
            {"status": "cancelled", "cancel_requested_at": True, "finished_at": True, "cancel_reason": "earlier"},
        ),
    ],
    ids=["in_progress", "released", "completed", "failed", "cancelled"],
)
def test_get_historical_sync__in_each_status(project: Project, status: Status, changes: dict[str, Any]) -> None:
    user = project.database.member()
    pending = job_without_times(project, user, project.job(user))
    job_id = project.job(user, status)
    expected = pending | changes | {"job_id": job_id}
    expected["progress"] = NO_PROGRESS | {"percent": expected.pop("percent", 0)}
    expected["cancelled_by"] = f"user:{user.id}" if status == "cancelled" else None
    expected["connection_id"] = str(project.database.execution(job_id)["connection_id"])
    assert job_without_times(project, user, job_id) == expected


@both_transports
def test_get_historical_sync__progress_and_position(project: Project) -> None:
    user = project.database.member()
    job_id = project.job(user)
    execution = project.claim(job_id)
    with project.database.worker() as worker:
        worker.call(
            "worker_commit_batch",
            execution_id=job_id,
            lease_token=execution["lease_token"],
            seq=1,
            resource="flights",
            records=[{"key": "a", "data": {}}, {"key": "b", "data": {}}],
            checkpoint={"resource": "flights", "date": "2013-01-08", "page": "a secret of the source"},
            progress={"windows_done": 1, "windows_total": 3, "windows_before": 0},
        )
    response = project.get(project.token(user), job_id)
    job = accepted(response)
    eta = job["progress"].pop("eta_seconds")
    assert isinstance(eta, int)
    assert eta >= 0
    assert job["progress"] == {"records": 2, "windows_done": 1, "windows_total": 3, "percent": 33}
    assert job["position"] == {"resource": "flights", "date": "2013-01-08"}
    assert "secret" not in response.text


@both_transports
def test_get_historical_sync__response_equals_that_of_the_database(project: Project) -> None:
    user = project.database.member()
    job_id = project.job(user, "failed")
    with project.database.session(user.claims) as session:
        direct = session.call("get_historical_sync", job_id=job_id)
    assert accepted(project.get(project.token(user), job_id)) == direct


@both_transports
def test_get_historical_sync__by_a_colleague(project: Project) -> None:
    starter = project.database.member()
    job_id = project.job(starter)
    assert accepted(project.get(project.token(project.database.user(starter.agency_id)), job_id))["job_id"] == job_id


@one_transport
@pytest.mark.parametrize(
    "format_id",
    [str.upper, "{{{}}}".format, "urn:uuid:{}".format, str],
    ids=["upper case", "braces", "urn", "unchanged"],
)
def test_get_historical_sync__id_formats(project: Project, format_id: Any) -> None:
    user = project.database.member()
    job_id = project.job(user)
    assert accepted(project.get(project.token(user), format_id(job_id)))["job_id"] == job_id


@one_transport
@pytest.mark.parametrize(
    "query",
    ["x=1&job_id={}&y", "job_id=nope&job_id={}", "&&job_id={}&=", "forceFunctionRegion=any&job_id={}", "job%5Fid={}"],
)
def test_get_historical_sync__unusual_valid_query(project: Project, query: str) -> None:
    user = project.database.member()
    job_id = project.job(user)
    response = project.request("GET", f"/get-historical-sync?{query.format(job_id)}", project.token(user))
    assert accepted(response)["job_id"] == job_id


@one_transport
def test_get_historical_sync__body_is_ignored(project: Project) -> None:
    user = project.database.member()
    job_id = project.job(user)
    url = f"/get-historical-sync?job_id={job_id}"
    accepted(project.request("GET", url, project.token(user), content=b'{"job_id": 1', headers={"content-type": "x"}))


@one_transport
@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "missing_field"),
        ("?", "missing_field"),
        ("?id=1", "missing_field"),
        ("?JOB_ID=" + UNKNOWN, "missing_field"),
        ("?job_id", "invalid_field"),
        ("?job_id=", "invalid_field"),
        ("?job_id=all", "invalid_field"),
        ("?job_id=null", "invalid_field"),
        ("?job_id=" + UNKNOWN + "'", "invalid_field"),
        ("?job_id=" + UNKNOWN + "%00", "invalid_field"),
        ("?job_id=%FF%FE", "invalid_field"),
        ("?job_id=%ED%A0%80", "invalid_field"),
        ("?job_id=eq." + UNKNOWN, "invalid_field"),
        ("?job_id[]=" + UNKNOWN, "missing_field"),
        ("?job_id=" + UNKNOWN + ";x=1", "invalid_field"),
        ("?job_id=" + "9" * 60_000, "invalid_field"),
    ],
    ids=lambda value: value[:20],
)
def test_get_historical_sync__invalid_query(project: Project, query: str, code: str) -> None:
    token = project.token(project.database.user(None))
    with project.unchanged():
        response = project.request("GET", f"/get-historical-sync{query}", token)
    assert expect_error(response, 400, code) == {"field": "job_id"}
    assert len(response.content) < 1000


@both_transports
def test_get_historical_sync__other_agency(project: Project) -> None:
    job_id = project.job(project.database.member())
    stranger = project.token(project.database.member())
    with project.unchanged():
        assert expect_error(project.get(stranger, job_id), 403, "job_of_another_agency") == {}


@both_transports
def test_get_historical_sync__unknown_job(project: Project) -> None:
    assert expect_error(project.get(project.token(project.database.member()), UNKNOWN), 404, "job_not_found") == {}


@both_transports
def test_get_historical_sync__user_without_agency(project: Project) -> None:
    token = project.token(project.database.user(None))
    expect_error(project.get(token, project.job(project.database.member())), 403, "no_agency")
    expect_error(project.get(token, UNKNOWN), 403, "no_agency")


@both_transports
def test_get_historical_sync__deleted_job(project: Project) -> None:
    user = project.database.member()
    job_id = project.job(user, "cancelled")
    with project.database.session({"role": "service_role"}) as service:
        service.execute("update app.executions set deleted_at = now() where id = %s", (job_id,))
    for reader in (user, project.database.member()):
        expect_error(project.get(project.token(reader), job_id), 404, "job_not_found")


@both_transports
def test_get_historical_sync__writes_nothing(project: Project) -> None:
    user = project.database.member()
    job_id, token = project.job(user, "in_progress"), project.token(user)
    with project.unchanged():
        accepted(project.get(token, job_id))
