"""POST retry-historical-sync: a new job that starts at the old job's checkpoint."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Literal

import pytest

from functions.historical_sync.retry_historical_sync import HistoricalSyncRetried
from tests.support.project import JANUARY, both_transports, expect_error, one_transport

if TYPE_CHECKING:
    import httpx

    from tests.support.database import Database, User
    from tests.support.project import Project, Status

UNKNOWN = "00000000-0000-4000-8000-000000000000"
RETRYABLE: list[Literal["failed", "cancelled"]] = ["failed", "cancelled"]
CHECKPOINT = {"resource": "flights", "date": "2013-01-08", "page": "a secret of the source", "skip": 150}
PROGRESS = {"windows_before": 0, "windows_done": 7, "windows_total": 62}


def accepted(response: httpx.Response) -> str:
    """The new job's id."""
    assert response.status_code == 201, response.text
    HistoricalSyncRetried.model_validate_json(response.content, strict=True, extra="forbid")
    return str(response.json()["job_id"])


def commit_and_end(project: Project, user: User, job_id: str, status: str, seq: int = 1) -> None:
    """Claim this job, commit a batch with CHECKPOINT, and end the job in this status."""
    execution = project.claim(job_id)
    with project.database.worker() as worker, project.database.session(user.claims) as session:
        lease = {"execution_id": job_id, "lease_token": execution["lease_token"]}
        batch = {"resource": "flights", "records": [{"key": "a", "data": {}}], "checkpoint": CHECKPOINT}
        assert worker.call("worker_commit_batch", **lease, seq=seq, **batch, progress=PROGRESS) == {
            "result": "continue"
        }
        if status == "cancelled":
            session.call("cancel_sync_job", job_id=job_id, reason="enough")
        else:
            worker.call("worker_fail", **lease, error={"code": "gone", "message": "The source is gone."}, retry=False)


def ended_job(project: Project, user: User, status: str = "failed") -> str:
    """A job that committed a batch and then ended in this status."""
    job_id = project.database.start(user)
    commit_and_end(project, user, job_id, status)
    return job_id


def row_and_events(database: Database, job_id: str) -> Any:
    return database.execution(job_id), database.events(job_id)


@both_transports
@pytest.mark.parametrize("status", RETRYABLE)
def test_retry_historical_sync__new_job_from_the_same_checkpoint(project: Project, status: str) -> None:
    user = project.database.member()
    token = project.token(user)
    ended = ended_job(project, user, status)
    before = row_and_events(project.database, ended)

    response = project.retry(token, {"job_id": ended})

    job_id = accepted(response)
    assert job_id != ended
    assert response.json() == {"job_id": job_id, "status": "pending", "retry_of": ended}
    assert row_and_events(project.database, ended) == before  # a terminal execution never changes
    old, new = before[0], project.database.execution(job_id)
    copied = ("agency_id", "family", "connection_id", "concurrency_key", "spec", "checkpoint", "max_attempts")
    assert {name: new[name] for name in copied} == {name: old[name] for name in copied}
    assert new["progress"] == PROGRESS | {"windows_before": 7}
    assert (str(new["retry_of"]), new["created_by"]) == (ended, f"user:{user.id}")
    fresh = {"status": "queued", "lease_token": 0, "seq": 0, "records": 0, "attempts": 0} | dict.fromkeys(
        ("leased_by", "error", "reason", "started_at", "finished_at", "deleted_at"), None
    )
    fresh |= dict.fromkeys(("cancel_requested_at", "cancel_deadline", "cancelled_by", "cancel_reason"), None)
    assert {name: new[name] for name in fresh} == fresh
    [event] = project.database.events(job_id)
    assert (event["event"], event["from_status"], event["actor"]) == ("start", None, f"user:{user.id}")
    assert event["request_id"] == response.headers["x-request-id"]


@both_transports
@pytest.mark.parametrize("status", RETRYABLE)
def test_retry_historical_sync__position_is_visible_at_once(project: Project, status: str) -> None:
    user = project.database.member()
    token = project.token(user)
    ended = ended_job(project, user, status)
    response = project.get(token, accepted(project.retry(token, {"job_id": ended})))
    job = response.json()
    assert job["position"] == {"resource": "flights", "date": "2013-01-08"}
    assert job["progress"] == {
        "records": 0, "windows_done": 7, "windows_total": 62, "percent": 11, "eta_seconds": None,
    }  # fmt: skip
    assert (job["status"], job["retry_of"], job["error"], job["cancelled_by"]) == ("pending", ended, None, None)
    assert (job["resources"], job["date_from"], job["date_to"]) == (["flights", "weather"], *JANUARY.values())
    assert "secret" not in response.text


@both_transports
@pytest.mark.parametrize("status", RETRYABLE)
def test_retry_historical_sync__worker_resumes_at_the_checkpoint(project: Project, status: str) -> None:
    user = project.database.member()
    job_id = accepted(project.retry(project.token(user), {"job_id": ended_job(project, user, status)}))
    execution = project.claim(job_id)
    assert (execution["checkpoint"], execution["seq"], execution["lease_token"]) == (CHECKPOINT, 0, 1)
    assert execution["progress"]["windows_before"] == 7
    with project.database.worker() as worker:
        assert worker.commit_batch(execution, 1, "b") == "continue"
        assert worker.call("worker_complete", execution_id=job_id, lease_token=1) == {"result": "completed"}
    keys = project.database.all("select key from app.records where execution_id = %s", (job_id,))
    assert keys == [{"key": "b"}]


@both_transports
@pytest.mark.parametrize("status", RETRYABLE)
def test_retry_historical_sync__worker_of_the_old_job_stays_fenced(project: Project, status: str) -> None:
    user = project.database.member()
    ended = ended_job(project, user, status)
    old_lease = {"id": ended, "lease_token": 1}
    job_id = accepted(project.retry(project.token(user), {"job_id": ended}))
    with project.unchanged(), project.database.worker() as worker:
        assert worker.commit_batch(old_lease, 2, "late") == "lost"
        assert worker.commit_batch({"id": job_id, "lease_token": 1}, 1, "late") == "lost"


@both_transports
def test_retry_historical_sync__job_that_never_started(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    job_id = accepted(project.retry(token, {"job_id": project.job(user, "cancelled")}))
    execution = project.claim(job_id)
    assert (execution["checkpoint"], execution["progress"], execution["seq"]) == (None, {}, 0)
    assert project.get(token, job_id).json()["position"] is None


@both_transports
def test_retry_historical_sync__keeps_the_spec_after_a_connection_change(project: Project) -> None:
    user = project.database.member()
    ended = project.job(user, "failed")
    row = project.database.execution(ended)
    project.database.admin.execute("update app.connections set config = '{}' where id = %s", (row["connection_id"],))
    job_id = accepted(project.retry(project.token(user), {"job_id": ended}))
    assert project.database.execution(job_id)["spec"] == row["spec"]


@one_transport
def test_retry_historical_sync__by_a_colleague(project: Project) -> None:
    user = project.database.member()
    colleague = project.database.user(user.agency_id)
    job_id = accepted(project.retry(project.token(colleague), {"job_id": project.job(user, "failed")}))
    assert project.database.execution(job_id)["created_by"] == f"user:{colleague.id}"


@both_transports
def test_retry_historical_sync__of_a_retry(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    first = ended_job(project, user)
    second = accepted(project.retry(token, {"job_id": first}))
    assert project.cancel(token, {"job_id": second}).json()["status"] == "cancelled"
    third = accepted(project.retry(token, {"job_id": second}))
    commit_and_end(project, user, third, "failed")
    fourth = accepted(project.retry(token, {"job_id": third}))
    chain = [project.database.execution(job_id)["retry_of"] for job_id in (first, second, third, fourth)]
    assert [str(retry_of) for retry_of in chain] == ["None", first, second, third]
    assert project.claim(fourth)["checkpoint"] == CHECKPOINT


@both_transports
def test_retry_historical_sync__again_after_the_retry_ended(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    ended = ended_job(project, user)
    first = accepted(project.retry(token, {"job_id": ended}))
    with project.unchanged():
        assert expect_error(project.retry(token, {"job_id": ended}), 409, "already_active") == {"job_id": first}
    project.cancel(token, {"job_id": first})
    again = accepted(project.retry(token, {"job_id": ended}))
    assert again != first
    assert str(project.database.execution(again)["retry_of"]) == ended


# Rejected retries


@both_transports
@pytest.mark.parametrize(
    ("status", "public_status"),
    [
        ("pending", "pending"),
        ("in_progress", "in_progress"),
        ("released", "in_progress"),
        ("completed", "completed"),
    ],
)
def test_retry_historical_sync__not_retryable(project: Project, status: Status, public_status: str) -> None:
    user = project.database.member()
    token, job_id = project.token(user), project.job(user, status)
    with project.unchanged():
        response = project.retry(token, {"job_id": job_id})
    assert expect_error(response, 400, "not_retryable") == {"current_status": public_status}


@both_transports
@pytest.mark.parametrize("status", ["pending", "in_progress", "released"])
def test_retry_historical_sync__connection_already_active(project: Project, status: Status) -> None:
    user = project.database.member()
    token = project.token(user)
    ended = project.job(user, "failed")
    active = project.database.start(user, str(project.database.execution(ended)["connection_id"]))
    if status != "pending":
        lease_token = project.claim(active)["lease_token"]
        with project.database.worker() as worker:
            name = "worker_release" if status == "released" else "worker_heartbeat"
            worker.call(name, execution_id=active, lease_token=lease_token)
    with project.unchanged():
        response = project.retry(token, {"job_id": ended})
    assert expect_error(response, 409, "already_active") == {"job_id": active}


@both_transports
@pytest.mark.parametrize("status", ["failed", "completed", "pending"])
def test_retry_historical_sync__other_agency(project: Project, status: Status) -> None:
    job_id = project.job(project.database.member(), status)
    stranger = project.token(project.database.member())
    with project.unchanged():
        assert expect_error(project.retry(stranger, {"job_id": job_id}), 403, "job_of_another_agency") == {}


@both_transports
def test_retry_historical_sync__unknown_job(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    deleted = project.job(user, "failed")
    project.database.update(deleted, deleted_at="2020-01-01")
    for job_id in (UNKNOWN, deleted, project.database.put("failed", user.agency_id, "bulk_sync")):
        with project.unchanged():
            assert expect_error(project.retry(token, {"job_id": job_id}), 404, "job_not_found") == {}


@one_transport
def test_retry_historical_sync__user_without_agency(project: Project) -> None:
    job_id = project.job(project.database.member(), "failed")
    token = project.token(project.database.user(None))
    with project.unchanged():
        expect_error(project.retry(token, {"job_id": job_id}), 403, "no_agency")
        expect_error(project.retry(token, {"job_id": UNKNOWN}), 403, "no_agency")


@one_transport
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (None, "missing_field"),
        ({}, "missing_field"),
        ({"jobId": UNKNOWN}, "missing_field"),
        ({"job_id": None}, "invalid_field"),
        ({"job_id": 1}, "invalid_field"),
        ({"job_id": [UNKNOWN]}, "invalid_field"),
        ({"job_id": UNKNOWN + "'"}, "invalid_field"),
        ([UNKNOWN], "invalid_request"),
        (b"null", "invalid_request"),
        (b'{"job_id": "', "invalid_json"),
    ],
    ids=["no body", "empty", "other name", "null", "number", "list", "suffix", "array", "null body", "cut off"],
)
def test_retry_historical_sync__body_without_a_job_id(project: Project, body: object, code: str) -> None:
    token = project.token(project.database.user(None))
    with project.unchanged():
        response = project.retry(token, body)
    assert expect_error(response, 400, code) == ({"field": "job_id"} if code.endswith("_field") else {})


@both_transports
def test_retry_historical_sync__other_members_are_ignored(project: Project) -> None:
    user = project.database.member()
    ended = project.job(user, "failed")
    body = {"job_id": ended, "date_to": "2014-01-01", "checkpoint": {}, "agency_id": project.database.agency()}
    job_id = accepted(project.retry(project.token(user), body, params={"job_id": UNKNOWN}))
    old, new = project.database.execution(ended), project.database.execution(job_id)
    assert (new["spec"], new["agency_id"], new["checkpoint"]) == (old["spec"], old["agency_id"], None)


# Concurrent calls


@both_transports
@pytest.mark.parametrize("status", RETRYABLE)
def test_retry_historical_sync__concurrent_calls_retry_once(project: Project, status: str) -> None:
    user = project.database.member()
    ended, token = ended_job(project, user, status), project.token(user)

    responses = project.concurrently(lambda: project.retry(token, {"job_id": ended}))

    [job_id] = [accepted(response) for response in responses if response.status_code == 201]
    for response in responses:
        if response.status_code != 201:
            assert expect_error(response, 409, "already_active") == {"job_id": job_id}
    assert [str(row["id"]) for row in retries(project.database, ended)] == [job_id]


def retries(database: Database, job_id: str) -> list[dict[str, Any]]:
    return database.all("select id, status from app.executions where retry_of = %s order by id", (job_id,))


@both_transports
def test_retry_historical_sync__concurrent_with_cancels(project: Project) -> None:
    user = project.database.member()
    ended, token = ended_job(project, user), project.token(user)
    before = row_and_events(project.database, ended)

    def retry_and_cancel() -> httpx.Response:
        return project.cancel(token, {"job_id": project.retry(token, {"job_id": ended}).json()["job_id"]})

    responses = project.concurrently(retry_and_cancel)

    cancelled = [response.json()["job_id"] for response in responses if response.status_code == 200]
    assert len(set(cancelled)) == len(cancelled)
    rows = retries(project.database, ended)
    assert {str(row["id"]) for row in rows if row["status"] == "cancelled"} == set(cancelled)
    assert len(rows) - len(cancelled) in {0, 1}
    assert row_and_events(project.database, ended) == before


@both_transports
def test_retry_historical_sync__concurrent_with_starts(project: Project) -> None:
    user = project.database.member()
    ended, token = ended_job(project, user), project.token(user)
    body = {"connection_id": str(project.database.execution(ended)["connection_id"]), **JANUARY}
    numbers = itertools.count()

    def start_or_retry() -> httpx.Response:
        return project.start(token, body) if next(numbers) % 2 else project.retry(token, {"job_id": ended})

    responses = project.concurrently(start_or_retry)

    [job_id] = [response.json()["job_id"] for response in responses if response.status_code == 201]
    for response in responses:
        if response.status_code != 201:
            assert expect_error(response, 409, "already_active") == {"job_id": job_id}


# The SQL function itself


@pytest.mark.sql
def test_retry_historical_sync_sql__service_role(database: Database) -> None:
    agency_id = database.agency()
    ended = database.put("failed", agency_id, spec="{}")
    with database.worker() as service:
        retried = service.call("retry_historical_sync", job_id=ended)
    row = database.execution(retried["job_id"])
    assert (str(row["agency_id"]), row["created_by"], str(row["retry_of"])) == (agency_id, "service_role", ended)


@pytest.mark.sql
def test_retry_historical_sync_sql__rollback_leaves_nothing(database: Database) -> None:
    user = database.member()
    ended = database.put("failed", user.agency_id)
    before = database.fingerprint()
    with database.session(user.claims) as session, session.connection.transaction(force_rollback=True):
        session.call("retry_historical_sync", job_id=ended)
    assert database.fingerprint() == before


@pytest.mark.sql
def test_retry_historical_sync_sql__notifies_workers(database: Database) -> None:
    user = database.member()
    ended = database.put("cancelled", user.agency_id)
    with database.connect() as listener, database.session(user.claims) as session:
        listener.execute("listen execution_queued")
        session.call("retry_historical_sync", job_id=ended)
        assert [notice.payload for notice in listener.notifies(timeout=5, stop_after=1)] == ["historical_sync"]


@pytest.mark.sql
def test_retry_historical_sync_sql__retention_may_drop_the_old_job(database: Database) -> None:
    user = database.member()
    ended = database.put("failed", user.agency_id)
    with database.session(user.claims) as session, database.owner() as owner:
        job_id = session.call("retry_historical_sync", job_id=ended)["job_id"]
        assert owner.execute("select app.purge_executions('0')") == [{"purge_executions": 1}]
        shown = session.call("get_historical_sync", job_id=job_id)
    assert shown["retry_of"] is None
    assert [event["event"] for event in database.events(job_id)] == ["start"]
