"""The endpoints of bulk actions, and a real worker that is interrupted while it runs one."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from functions._local.worker_process import WorkerProcess
from functions._shared.validation import MAX_BODY_BYTES
from functions.bulk_action.get_bulk_action import BulkAction
from functions.bulk_action.preview_bulk_action import BulkActionPreview
from tests.support import bulk_actions
from tests.support.bulk_actions import NOTHING, PATH, PREVIEW, many, put, spec
from tests.support.project import both_transports, expect_error, one_transport
from tests.support.wait import until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    import httpx

    from tests.support.database import Database, User
    from tests.support.project import Project

UNKNOWN = "00000000-0000-4000-8000-000000000000"
METHODS = {
    PATH: {"GET", "POST"},
    PREVIEW: {"POST"},
    f"{PATH}/{UNKNOWN}": {"GET", "DELETE"},
    f"{PATH}/{UNKNOWN}/cancel": {"POST"},
}
PENDING = {"family": "historical_sync", "status": "pending"}
ENDED = ["completed", "failed", "cancelled"]
FAR = "2999-01-01T00:00:00+00:00"


@dataclass(frozen=True)
class Caller:
    project: Project
    user: User
    _token: list[str] = field(default_factory=list)

    @property
    def database(self) -> Database:
        return self.project.database

    @property
    def token(self) -> str:
        if not self._token:
            self._token.append(self.project.token(self.user))
        return self._token[0]

    def request(self, method: str, path: str = "", **options: Any) -> httpx.Response:
        return self.project.request(method, PATH + path, self.token, **options)

    def create(self, action: str = "cancel", criteria: object = PENDING, **members: Any) -> httpx.Response:
        return self.request("POST", json={"action_type": action, "criteria": criteria, **members})

    def created(self, action: str = "cancel", criteria: object = PENDING, **members: Any) -> dict[str, Any]:
        return bulk_action(self.create(action, criteria, **members))

    def preview(self, criteria: object, **members: Any) -> httpx.Response:
        return self.project.request("POST", PREVIEW, self.token, json={"criteria": criteria, **members})

    def preview_with_key(self, key: str) -> httpx.Response:
        return self.project.request(
            "POST", PREVIEW, self.token, json={"criteria": PENDING}, headers={"idempotency-key": key}
        )

    def get(self, job_id: str) -> dict[str, Any]:
        return bulk_action(self.request("GET", f"/{job_id}"))

    def cancel(self, job_id: str, **options: Any) -> httpx.Response:
        return self.request("POST", f"/{job_id}/cancel", **options)

    def put(self, status: str, **columns: Any) -> str:
        """Insert a bulk action in this status."""
        return put(self.database, self.user, "bulk_action", status, spec=spec(), **columns)

    def colleague(self) -> Caller:
        return Caller(self.project, self.database.user(self.user.agency_id))


def caller(project: Project) -> Caller:
    return Caller(project, project.database.member())


def bulk_action(response: httpx.Response) -> dict[str, Any]:
    """Check that the response is a bulk action with exactly the documented members."""
    assert response.status_code == 200, response.text
    BulkAction.model_validate_json(response.content, strict=True, extra="forbid")
    body: dict[str, Any] = response.json()
    return body


def stamps(database: Database, job_id: str) -> dict[str, Any]:
    """The timestamps of an execution, in their JSON format."""
    times = database.one("select to_jsonb(e) as row from app.executions as e where id = %s", (job_id,))["row"]
    return {name: times[name] for name in ("created_at", "started_at", "finished_at")}


# Create, get


@both_transports
def test_bulk_action__from_creation_to_completion(project: Project) -> None:
    me = caller(project)
    ids = many(me.database, me.user, 3)
    job = me.created(action_reason="wrong configuration")
    created_at = stamps(me.database, job["job_id"])["created_at"]
    assert job == {
        "job_id": job["job_id"],
        "criteria_json": job["criteria_json"],
        "action_type": "cancel",
        "action_duration": None,
        "action_reason": "wrong configuration",
        "scheduled_at": None,
        "executed_at": None,
        "completed_at": None,
        "max_limit": 10000,
        "preview_count": 3,
        "affected_count": 0,
        "counts": NOTHING,
        "status": "scheduled",
        "progress_percent": 0,
        "cancelled_by": None,
        "cancel_reason": None,
        "error": None,
        "created_by": f"user:{me.user.id}",
        "created_at": created_at,
        "updated_at": created_at,
    }
    assert json.loads(job["criteria_json"]) == PENDING
    assert me.get(job["job_id"]) == me.colleague().get(job["job_id"]) == job

    with bulk_actions.Worker(me.database, job["job_id"]) as worker:
        running = me.get(job["job_id"])
        assert (running["status"], running["progress_percent"], running["counts"]) == ("running", 0, NOTHING)
        worker.step()
        assert me.get(job["job_id"])["counts"] == {**NOTHING, "matched": 3, "not_started": 3}
        worker.step()
        acted = me.get(job["job_id"])
        assert (acted["status"], acted["progress_percent"], acted["affected_count"]) == ("running", 100, 3)
        worker.rest()
    times, ended = stamps(me.database, job["job_id"]), me.get(job["job_id"])
    assert ended == {
        **job,
        "status": "completed",
        "executed_at": times["started_at"],
        "completed_at": times["finished_at"],
        "updated_at": times["finished_at"],
        "affected_count": 3,
        "progress_percent": 100,
        "counts": {**NOTHING, "matched": 3, "done": 3},
    }
    assert {me.database.execution(item_id)["status"] for item_id in ids} == {"cancelled"}


@both_transports
def test_create_bulk_action__criteria_are_immutable(project: Project) -> None:
    me = caller(project)
    criteria = {
        "family": "bulk_sync",
        "status": "canceling",
        "connection_id": UNKNOWN,
        "created_before": "2026-11-22T13:47:26.293156+02:00",
        "created_after": "2013-01-01T00:00:00Z",
        "ids": [UNKNOWN],
    }
    job = me.created("retry", criteria, max_limit=7)
    assert json.loads(job["criteria_json"]) == criteria
    assert (job["action_type"], job["max_limit"], job["preview_count"]) == ("retry", 7, 0)
    with me.database.worker() as worker:
        error = worker.attempt("update app.executions set spec = '{}' where id = %s", (job["job_id"],))
    assert getattr(error, "code", None) == "not_a_transition"


@both_transports
def test_create_bulk_action__scheduled_then_cancelled_never_starts(project: Project) -> None:
    me = caller(project)
    many(me.database, me.user, 2)
    job = me.created(scheduled_at=FAR)
    assert (job["status"], job["scheduled_at"], job["executed_at"]) == ("scheduled", FAR, None)
    with me.database.worker() as worker:

        def claimed() -> list[str]:
            found = worker.call("worker_claim", worker="w", families=["bulk_action"], max_executions=100)
            return [execution["id"] for execution in found if execution["agency_id"] == me.user.agency_id]

        assert claimed() == []
        assert me.cancel(job["job_id"]).json()["status"] == "cancelled"
        with me.database.admin.transaction():
            me.database.admin.execute("set local session_replication_role = replica")
            me.database.admin.execute("update app.executions set run_at = now() where id = %s", (job["job_id"],))
        assert claimed() == []
        # A bulk action whose time has come and that is not cancelled is claimed.
        due = me.created(scheduled_at=(dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1)).isoformat())
        assert due["status"] == "scheduled"
        assert claimed() == [due["job_id"]]
    assert me.get(job["job_id"])["executed_at"] is None
    assert bulk_actions.counts(me.database, job["job_id"]) == NOTHING
    me.cancel(due["job_id"])


VALID = {"action_type": "cancel", "criteria": PENDING}
WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "empty": ({}, 400, "missing_field"),
    "no criteria": ({"action_type": "cancel"}, 400, "missing_field"),
    "no action_type": ({"criteria": PENDING}, 400, "missing_field"),
    "unknown action_type": ({"action_type": "delete", "criteria": PENDING}, 400, "invalid_field"),
    "action_type null": ({"action_type": None, "criteria": PENDING}, 400, "invalid_field"),
    "criteria null": ({**VALID, "criteria": None}, 400, "invalid_field"),
    "criteria a list": ({**VALID, "criteria": []}, 400, "invalid_field"),
    "criteria a string": ({**VALID, "criteria": "family"}, 400, "invalid_field"),
    "criteria empty": ({**VALID, "criteria": {}}, 400, "no_criteria"),
    "only null criteria": ({**VALID, "criteria": {"family": None}}, 400, "no_criteria"),
    "unknown criterion": ({**VALID, "criteria": {"familiy": "bulk_sync"}}, 422, "unsupported_field"),
    "unknown family": ({**VALID, "criteria": {"family": "nope"}}, 400, "unknown_family"),
    "family empty": ({**VALID, "criteria": {"family": ""}}, 400, "unknown_family"),
    "internal family": ({**VALID, "criteria": {"family": "source_check"}}, 400, "unknown_family"),
    "family with NUL": ({**VALID, "criteria": {"family": "bulk_sync\0"}}, 400, "invalid_field"),
    "family of 10,000 letters": ({**VALID, "criteria": {"family": "x" * 10_000}}, 400, "unknown_family"),
    "status without family": ({**VALID, "criteria": {"status": "running"}}, 400, "family_required"),
    "status of another family": (
        {**VALID, "criteria": {"family": "bulk_sync", "status": "pending"}},
        400,
        "unknown_status",
    ),
    "internal status": ({**VALID, "criteria": {"family": "bulk_sync", "status": "queued"}}, 400, "unknown_status"),
    "connection_id not a UUID": ({**VALID, "criteria": {"connection_id": "x"}}, 400, "invalid_field"),
    "created_before a word": ({**VALID, "criteria": {"created_before": "soon"}}, 400, "invalid_field"),
    "created_before without time zone": (
        {**VALID, "criteria": {"created_before": "2026-11-22T13:47:26"}},
        400,
        "invalid_field",
    ),
    "created_before a number": ({**VALID, "criteria": {"created_before": 1}}, 400, "invalid_field"),
    "created_before with an offset too large": (
        {**VALID, "criteria": {"created_before": "2026-11-22T13:47:26+23:59"}},
        400,
        "invalid_field",
    ),
    "created_after out of range": (
        {**VALID, "criteria": {"created_after": "0001-01-01T00:00:00+14:00"}},
        400,
        "invalid_field",
    ),
    "ids empty": ({**VALID, "criteria": {"ids": []}}, 400, "invalid_field"),
    "ids with null": ({**VALID, "criteria": {"ids": [None]}}, 400, "invalid_field"),
    "too many ids": ({**VALID, "criteria": {"ids": [UNKNOWN] * 10_001}}, 400, "invalid_field"),
    "max_limit zero": ({**VALID, "max_limit": 0}, 400, "invalid_field"),
    "max_limit too large": ({**VALID, "max_limit": 1_000_001}, 400, "invalid_field"),
    "max_limit of 31 digits": ({**VALID, "max_limit": 10**30}, 400, "invalid_field"),
    "max_limit a string": ({**VALID, "max_limit": "5"}, 400, "invalid_field"),
    "max_limit a boolean": ({**VALID, "max_limit": True}, 400, "invalid_field"),
    "action_reason too long": ({**VALID, "action_reason": "x" * 501}, 400, "invalid_field"),
    "action_reason with NUL": ({**VALID, "action_reason": "\0"}, 400, "invalid_field"),
    "action_reason an object": ({**VALID, "action_reason": {}}, 400, "invalid_field"),
    "scheduled_at a date": ({**VALID, "scheduled_at": "2026-11-22"}, 400, "invalid_field"),
    "scheduled_at infinity": ({**VALID, "scheduled_at": "infinity"}, 400, "invalid_field"),
    "scheduled_at with an offset too large": (
        {**VALID, "scheduled_at": "2026-11-22T00:00:00-23:59"},
        400,
        "invalid_field",
    ),
    "scheduled_at out of range": ({**VALID, "scheduled_at": "9999-12-31T23:00:00-02:00"}, 400, "invalid_field"),
    "action_duration": ({**VALID, "action_duration": 5}, 422, "unsupported_field"),
    "unknown member": ({**VALID, "surprise": 1}, 422, "unsupported_field"),
}


@both_transports
@pytest.mark.parametrize(("body", "status", "code"), WRONG.values(), ids=WRONG)
def test_create_bulk_action__invalid_member(project: Project, body: dict[str, Any], status: int, code: str) -> None:
    me = caller(project)
    with project.unchanged():
        details = expect_error(me.request("POST", json=body), status, code)
        if "action_type" in body and set(body) == {"action_type", "criteria"} and body["action_type"] == "cancel":
            response = project.request("POST", PREVIEW, me.token, json={"criteria": body["criteria"]})
            expect_error(response, status, code)
    if code == "unknown_family":
        assert details["known"] == ["historical_sync", "sync_job_run", "bulk_sync", "model_sync", "bulk_action"]
    if code == "unknown_status":
        assert {*details["known"]} == {
            "created", "scheduled", "running", "canceling", "completed", "failed", "canceled",
        }  # fmt: skip


@both_transports
@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"5", b"null", b"\xff\xfe", b'"\xed\xa0\x80"', b"[" * 100_000],
    ids=["cut off", "array", "number", "null", "not UTF-8", "surrogate in UTF-8", "deeply nested"],
)
def test_create_bulk_action__body_is_not_an_object(project: Project, content: bytes) -> None:
    me = caller(project)
    with project.unchanged():
        for path in (PATH, PREVIEW):
            response = project.request("POST", path, me.token, content=content)
            assert response.status_code == 400
            assert response.json()["code"] in {"invalid_json", "invalid_request"}


@both_transports
def test_create_bulk_action__largest_accepted_request(project: Project) -> None:
    me = caller(project)
    ids = [str(uuid.uuid4()) for _ in range(10_000)]
    reason = "日" * 500
    job = me.created("start", {**PENDING, "status": "failed", "ids": ids}, action_reason=reason, max_limit=1_000_000)
    assert (job["action_reason"], job["max_limit"]) == (reason, 1_000_000)
    assert bulk_actions.run(me.database, job["job_id"]) == NOTHING
    too_large = {"criteria": {"ids": ids}, "action_reason": "x" * MAX_BODY_BYTES}
    expect_error(me.request("POST", json=too_large), 413, "body_too_large")


# Preview


@both_transports
def test_preview_bulk_action__counts_without_changes(project: Project) -> None:
    me, stranger = caller(project), caller(project)
    ids = many(me.database, me.user, 12)
    many(me.database, stranger.user, 3)
    running = put(me.database, me.user, "model_sync", "cancelling")
    with project.unchanged():
        response = me.preview(PENDING)
        few, none = me.preview(PENDING, max_limit=12), me.preview({"family": "bulk_action"})
        more, other = me.preview(PENDING, max_limit=11), me.preview({"family": "model_sync"})
    BulkActionPreview.model_validate_json(response.content, strict=True, extra="forbid")
    created = {item_id: stamps(me.database, item_id)["created_at"] for item_id in [*ids, running]}
    common = {"family": "historical_sync", "status": "pending"}
    sample = [{"id": item_id, **common, "created_at": created[item_id]} for item_id in ids]
    assert response.json() == {"total_count": 12, "is_exact": True, "sample": sample[:10]}
    assert few.json() == response.json()
    assert more.json() == {"total_count": 11, "is_exact": False, "sample": sample[:10]}
    assert none.json() == {"total_count": 0, "is_exact": True, "sample": []}
    item = {"id": running, "family": "model_sync", "status": "canceling", "created_at": created[running]}
    assert other.json() == {"total_count": 1, "is_exact": True, "sample": [item]}


@one_transport
@pytest.mark.parametrize("limit", [0, 1_000_001, "1", 1.5, True])
def test_preview_bulk_action__invalid_max_limit(project: Project, limit: object) -> None:
    expect_error(caller(project).preview(PENDING, max_limit=limit), 400, "invalid_field")


# Lists


@both_transports
def test_list_bulk_actions__newest_first_in_pages(project: Project) -> None:
    me = caller(project)
    ids = [me.created(criteria={"family": "model_sync"})["job_id"] for _ in range(5)]
    caller(project).created()
    me.request("POST", f"/{ids[1]}/cancel")
    me.request("DELETE", f"/{ids[1]}")
    listed, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        response = me.request("GET", params={"limit": 2, **({"cursor": cursor} if cursor else {})})
        assert response.status_code == 200, response.text
        jobs, cursor = response.json()["jobs"], response.json()["next_cursor"]
        assert all(job == me.get(job["job_id"]) for job in jobs)
        listed += [job["job_id"] for job in jobs]
        pages += 1
    assert (listed, pages) == ([ids[4], ids[3], ids[2], ids[0]], 2)
    assert me.request("GET", params={"limit": 4}).json()["next_cursor"] is None
    assert me.request("GET", params={"cursor": UNKNOWN}).json() == {"jobs": [], "next_cursor": None}


@both_transports
def test_list_bulk_actions__filter_by_status(project: Project) -> None:
    me = caller(project)
    public = {"queued": "scheduled", "requeued": "running"}
    by_status: dict[str, set[str]] = {"scheduled": {me.put("queued", run_at=FAR)}}
    for status in bulk_actions.statuses("bulk_action"):
        by_status.setdefault(public.get(status, status), set()).add(me.put(status))
    assert {*by_status} == {"scheduled", "running", *ENDED}
    for public_status, ids in by_status.items():
        jobs = me.request("GET", params={"status": public_status}).json()["jobs"]
        assert {job["job_id"] for job in jobs} == ids
        assert {job["status"] for job in jobs} == {public_status}


@both_transports
@pytest.mark.parametrize(
    "query",
    [
        *({"status": value} for value in ("queued", "", "a\0")),
        *({"limit": value} for value in ("0", "101", "x", "9" * 30)),
        *({"cursor": value} for value in ("x", "")),
    ],
    ids=str,
)
def test_list_bulk_actions__invalid_query(project: Project, query: Mapping[str, str]) -> None:
    [name] = query
    assert expect_error(caller(project).request("GET", params=query), 400, "invalid_field") == {"field": name}


# Cancel


@both_transports
@pytest.mark.parametrize("status", bulk_actions.statuses("bulk_action"))
def test_cancel_bulk_action__every_status_then_repeated(project: Project, status: str) -> None:
    me = caller(project)
    job_id = me.put(status)
    if status in ENDED:
        with project.unchanged():
            details = expect_error(me.cancel(job_id, json={"reason": "no"}), 400, "not_cancellable")
        assert details == {"current_status": status}
        return
    response = me.cancel(job_id, json={"reason": "not these"})
    assert (response.status_code, response.json()) == (
        200,
        {"success": True, "job_id": job_id, "status": "cancelled"},
    )
    job = me.get(job_id)
    assert (job["status"], job["cancel_reason"]) == ("cancelled", "not these")
    assert job["cancelled_by"] == f"user:{me.user.id}"
    assert job["completed_at"] == job["updated_at"]
    with project.unchanged():
        assert expect_error(me.cancel(job_id), 400, "not_cancellable") == {"current_status": "cancelled"}


BODIES: dict[str, tuple[bytes, int, str | None]] = {
    "no body": (b"", 200, None),
    "empty object": (b"{}", 200, None),
    "reason": (b'{"reason": "because"}', 200, "because"),
    "reason null": (b'{"reason": null}', 200, None),
    "reason a number": (b'{"reason": 5}', 200, None),
    "reason a list": (b'{"reason": ["x"]}', 200, None),
    "reason an object": (b'{"reason": {"why": 1}}', 200, None),
    "reason a boolean": (b'{"reason": true}', 200, None),
    "reason empty": (b'{"reason": ""}', 200, ""),
    "reason with NUL": (b'{"reason": "a\\u0000b"}', 200, "ab"),
    "reason too long": (('{"reason": "' + "日" * 600 + '"}').encode(), 200, "日" * 500),
    "reason with a surrogate pair": (b'{"reason": "\\ud83d\\ude00"}', 200, "\U0001f600"),
    "other members": (
        b'{"why": "x", "deep": {"a": [1, null, {}]}, "n": 1e400, "big": ' + b"9" * 4000 + b"}",
        200,
        None,
    ),
    "members of the response": (b'{"job_id": "' + UNKNOWN.encode() + b'", "success": false}', 200, None),
    "NaN": (b'{"n": NaN}', 200, None),
    "number of 5,000 digits": (b'{"big": ' + b"9" * 5000 + b"}", 400, None),
    "lone surrogate": (b'{"reason": "\\ud800"}', 400, None),
    "empty array": (b"[]", 400, None),
    "array": (b'["reason"]', 400, None),
    "number": (b"5", 400, None),
    "string": (b'"reason"', 400, None),
    "null": (b"null", 400, None),
    "cut off": (b"{", 400, None),
    "form": (b"reason=because", 400, None),
    "UTF-16": (b"\xff\xfe\x00", 400, None),
    "not UTF-8": (b'{"reason": "\xff"}', 400, None),
    "deeply nested, unclosed": (b'{"a":' * 10_000, 400, None),
    "deeply nested, closed": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400, None),
    "reason of a megabyte": (b'{"reason": "' + b"x" * (MAX_BODY_BYTES - 20) + b'"}', 200, "x" * 500),
    "body too large": (b" " * (MAX_BODY_BYTES + 1), 413, None),
}


@both_transports
@pytest.mark.parametrize(("content", "status", "reason"), BODIES.values(), ids=BODIES)
def test_cancel_bulk_action__body_is_optional_and_free(
    project: Project, content: bytes, status: int, reason: str | None
) -> None:
    me = caller(project)
    job_id = me.put("running")
    response = me.cancel(job_id, content=content, headers={"content-type": "application/json"})
    assert response.status_code == status, response.text
    job = me.get(job_id)
    if status == 200:
        assert response.json() == {"success": True, "job_id": job_id, "status": "cancelled"}
        assert (job["status"], job["cancel_reason"]) == ("cancelled", reason)
    else:
        assert response.json()["code"] in {"invalid_json", "invalid_request", "body_too_large"}
        assert job["status"] == "running"
        me.cancel(job_id)


@one_transport
@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_cancel_bulk_action__empty_body_under_any_content_type(project: Project, content_type: str) -> None:
    me = caller(project)
    assert me.cancel(me.put("running"), content=b"", headers={"content-type": content_type}).status_code == 200


@both_transports
def test_cancel_bulk_action__concurrent_calls_cancel_once(project: Project) -> None:
    me = caller(project)
    job_id = me.put("running")
    statuses = [response.status_code for response in project.concurrently(lambda: me.cancel(job_id))]
    assert sorted(statuses) == [200] + [400] * (len(statuses) - 1)
    assert [event["event"] for event in me.database.events(job_id)] == ["start", "claim", "cancel"]


# Delete


@both_transports
@pytest.mark.parametrize("status", bulk_actions.statuses("bulk_action"))
def test_delete_bulk_action__only_terminal_and_audit_is_kept(project: Project, status: str) -> None:
    me = caller(project)
    job_id = me.put(status)
    history = me.database.events(job_id)
    response = me.request("DELETE", f"/{job_id}")
    if status not in ENDED:
        public_status = "scheduled" if status == "queued" else "running"
        assert expect_error(response, 400, "not_deletable") == {"current_status": public_status}
        assert me.get(job_id)["status"] == public_status
        return
    assert (response.status_code, response.json()) == (200, {"success": True, "job_id": job_id, "status": status})
    with project.unchanged():
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel")):
            expect_error(me.request(method, f"/{job_id}{path}"), 404, "bulk_action_not_found")
        assert me.request("GET").json()["jobs"] == []
    assert me.database.execution(job_id)["deleted_at"] is not None
    assert me.database.events(job_id) == history
    # Another bulk action does not match it either.
    assert me.preview({"family": "bulk_action"}).json()["total_count"] == 0


@both_transports
def test_delete_bulk_action__items_are_kept(project: Project) -> None:
    me = caller(project)
    ids = many(me.database, me.user, 2)
    job_id = me.created()["job_id"]
    bulk_actions.run(me.database, job_id)
    assert me.request("DELETE", f"/{job_id}").json()["status"] == "completed"
    assert bulk_actions.counts(me.database, job_id)["done"] == 2
    assert {me.database.execution(item_id)["cancelled_by"] for item_id in ids} == {f"bulk_action:{job_id}"}


# Callers


def routes(job_id: str) -> list[tuple[str, str, dict[str, Any]]]:
    body = {"action_type": "cancel", "criteria": PENDING}
    return [
        ("GET", PATH, {}),
        ("POST", PATH, {"json": body}),
        ("POST", PREVIEW, {"json": {"criteria": PENDING}}),
        ("GET", f"{PATH}/{job_id}", {}),
        ("DELETE", f"{PATH}/{job_id}", {}),
        ("POST", f"{PATH}/{job_id}/cancel", {}),
    ]


@both_transports
def test_bulk_action_endpoints__rejected_credentials(project: Project) -> None:
    me = caller(project)
    job_id = me.created(scheduled_at=FAR)["job_id"]
    without_agency, revoked = project.token(project.database.user(None)), project.database.api_key(me.user)
    project.database.admin.execute(
        "update app.api_keys set revoked_at = now() where agency_id = %s", (me.user.agency_id,)
    )
    with project.unchanged():
        for method, path, options in routes(job_id):
            expect_error(project.request(method, path, **options), 401, "missing_token")
            expect_error(project.request(method, path, "not.a.token", **options), 401, "invalid_token")
            expect_error(project.request(method, path, project.auth.anon_key(), **options), 401, "invalid_token")
            expect_error(
                project.request(method, path, project.auth.service_role_key(), **options), 401, "invalid_token"
            )
            expect_error(project.request(method, path, f"sync_{'0' * 64}", **options), 401, "invalid_api_key")
            expect_error(project.request(method, path, revoked, **options), 401, "invalid_api_key")
            expect_error(project.request(method, path, without_agency, **options), 403, "no_agency")


@both_transports
def test_bulk_action_endpoints__other_agency(project: Project) -> None:
    me, stranger = caller(project), caller(project)
    many(me.database, me.user, 2)
    mine = [me.put(status) for status in bulk_actions.statuses("bulk_action")]
    with project.unchanged():
        for job_id in [*mine, UNKNOWN]:
            for method, path, options in routes(job_id)[3:]:
                response = project.request(method, path, stranger.token, **options)
                expect_error(response, 404, "bulk_action_not_found")
        assert stranger.request("GET").json() == {"jobs": [], "next_cursor": None}
        assert stranger.preview(PENDING).json()["total_count"] == 0


@both_transports
@pytest.mark.parametrize(
    "malformed",
    ["1", "null", "%00", UNKNOWN[:-1], UNKNOWN + "0", "x" * 300, "日本"],
    ids=["number", "null", "NUL", "too short", "too long", "300 letters", "other script"],
)
def test_bulk_action_endpoints__malformed_id(project: Project, malformed: str) -> None:
    me = caller(project)
    with project.unchanged():
        for method, path, options in routes(malformed)[3:]:
            expect_error(project.request(method, path, me.token, **options), 404, "not_found")


@both_transports
def test_bulk_action_endpoints__execution_of_another_family(project: Project) -> None:
    me = caller(project)
    job_id = put(me.database, me.user, "historical_sync", "running")
    with project.unchanged():
        for method, path, options in routes(job_id)[3:]:
            expect_error(project.request(method, path, me.token, **options), 404, "bulk_action_not_found")


@both_transports
@pytest.mark.parametrize(
    ("path", "methods", "method"),
    [
        (path, methods, method)
        for path, methods in METHODS.items()
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        if method not in methods
    ],
    ids=lambda value: value.replace(UNKNOWN, "{id}") if isinstance(value, str) else "only " + ",".join(sorted(value)),
)
def test_bulk_action_endpoints__method_not_allowed(project: Project, path: str, methods: set[str], method: str) -> None:
    response = project.request(method, path, caller(project).token)
    expect_error(response, 405, "method_not_allowed")
    assert {*response.headers["allow"].split(", ")} == {*methods, "OPTIONS"}


@both_transports
def test_bulk_action_endpoints__api_key(project: Project) -> None:
    me, stranger = caller(project), caller(project)
    key, foreign = project.database.api_key(me.user), project.database.api_key(stranger.user)
    [row] = project.database.all("select id from app.api_keys where agency_id = %s", (me.user.agency_id,))
    actor = f"api_key:{row['id']}"
    ids = many(me.database, me.user, 2)
    body = {"action_type": "cancel", "criteria": PENDING}
    job = bulk_action(project.request("POST", PATH, key, json=body))
    assert (job["created_by"], job["preview_count"]) == (actor, 2)
    for method, path, options in routes(job["job_id"])[3:]:
        expect_error(project.request(method, path, foreign, **options), 404, "bulk_action_not_found")
    response = project.request("POST", f"{PATH}/{job['job_id']}/cancel", key)
    assert response.json()["status"] == "cancelled"
    assert me.get(job["job_id"])["cancelled_by"] == actor
    assert project.request("GET", PATH, key).json()["jobs"][0]["job_id"] == job["job_id"]
    again = bulk_action(project.request("POST", PATH, key, json=body))
    assert bulk_actions.run(me.database, again["job_id"]) == {**NOTHING, "matched": 2, "done": 2}
    assert {me.database.execution(item_id)["actor"] for item_id in ids} == {f"bulk_action:{again['job_id']}"}
    assert project.request("DELETE", f"{PATH}/{again['job_id']}", key).json()["success"] is True


@both_transports
def test_bulk_action_endpoints__idempotency_key(project: Project) -> None:
    me = caller(project)
    many(me.database, me.user, 1)
    headers = {"idempotency-key": "k"}
    body = {"action_type": "cancel", "criteria": PENDING}
    first = me.request("POST", json=body, headers=headers)
    with project.unchanged():
        again = me.request("POST", json=body, headers=headers)
        assert again.json() == first.json()
        for other in (
            {**body, "action_type": "retry"},
            {**body, "criteria": {"family": "bulk_sync"}},
            {**body, "action_reason": "x"},
            {**body, "max_limit": 5},
            {**body, "scheduled_at": FAR},
        ):
            expect_error(me.request("POST", json=other, headers=headers), 422, "idempotency_key_reused")
    job_id = first.json()["job_id"]
    cancelled = me.cancel(job_id, headers=headers)
    with project.unchanged():
        assert me.cancel(job_id, headers=headers).json() == cancelled.json()
        expect_error(me.cancel(job_id, json={"reason": "x"}, headers=headers), 422, "idempotency_key_reused")
        expect_error(me.cancel(job_id), 400, "not_cancellable")
        # A preview changes nothing, therefore its response is not stored.
        me.preview_with_key("p")
    many(me.database, me.user, 1)
    assert me.preview_with_key("p").json()["total_count"] == 2


@both_transports
def test_bulk_action_endpoints__error_format(project: Project) -> None:
    me = caller(project)
    response = me.cancel(me.put("completed"))
    body, request_id = response.json(), response.headers["x-request-id"]
    assert response.headers["content-type"] == "application/json"
    assert body == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": body["detail"],
        "instance": f"urn:request:{request_id}",
        "error": body["detail"],
        "details": {"current_status": "completed"},
        "current_status": "completed",
        "code": "not_cancellable",
        "requestId": request_id,
    }
    for path, token, status, title in (
        (f"{PATH}/{UNKNOWN}", me.token, 404, "Not Found"),
        (PATH, None, 401, "Unauthorized"),
        (f"{PATH}/nope", me.token, 404, "Not Found"),
    ):
        body = project.request("GET", path, token).json()
        assert (body["status"], body["title"], body["details"]) == (status, title, {})


# With a real worker


def worker_process(database: Database, **options: str) -> AbstractContextManager[WorkerProcess]:
    quick = {"WORKER_LEASE_SECONDS": "60", "WORKER_HEARTBEAT_SECONDS": "0.2", "WORKER_TICK_SECONDS": "0.05"}
    return WorkerProcess(log=True, DATABASE_URL=database.login("authenticator"), **(quick | options))


def audit(database: Database, user: User) -> list[dict[str, Any]]:
    """All audit events of the user's agency."""
    return database.all("select * from app.execution_events where agency_id = %s order by id", (user.agency_id,))


MANY = 3000


@pytest.mark.fresh_database
@one_transport
@pytest.mark.parametrize("held", [False, True], ids=["between batches", "within a batch"])
def test_bulk_action__cancelled_among_thousands_of_items(project: Project, held: bool) -> None:
    """Once the cancel has returned 200, no item changes any more, wherever the worker is."""
    me = caller(project)
    ids = many(me.database, me.user, MANY, run_at=FAR)
    with worker_process(me.database) as worker, me.database.connect() as holder:
        if held:  # the worker waits in the middle of its fourth batch, with 250 rows locked
            holder.execute("begin")
            holder.execute("select from app.executions where id = %s for update", (ids[1750],))
        job_id = me.created(max_limit=MANY)["job_id"]
        until(lambda: me.get(job_id)["counts"]["done"] >= (1500 if held else 1))
        response = me.cancel(job_id, json={"reason": "enough"})
        events, counted = audit(me.database, me.user), bulk_actions.counts(me.database, job_id)
        assert response.json()["status"] == "cancelled"
        holder.execute("rollback")
        assert worker.wait_for("execution ended", job_id)["outcome"] == "lost"
        assert audit(me.database, me.user) == events
        assert bulk_actions.counts(me.database, job_id) == counted
    done = counted["done"]
    assert 0 < done < MANY
    assert done % bulk_actions.BATCH == 0
    assert done == 1500 or not held
    assert counted == {**NOTHING, "matched": MANY, "done": done, "not_started": MANY - done}
    items = me.database.all(
        "select id::text, status, cancelled_by from app.executions where id = any(%s) order by id", (ids,)
    )
    assert [item["status"] for item in items] == ["cancelled"] * done + ["queued"] * (MANY - done)
    assert {item["cancelled_by"] for item in items[:done]} == {f"bulk_action:{job_id}"}
    job = me.get(job_id)
    assert (job["status"], job["affected_count"], job["cancel_reason"]) == ("cancelled", done, "enough")
    assert job["progress_percent"] == 100 * done // MANY
    # Another bulk action completes the rest.
    with worker_process(me.database) as worker:
        rest = me.created(max_limit=MANY)["job_id"]
        assert worker.wait_for("execution ended", rest)["outcome"] == "completed"
    assert me.get(rest)["counts"] == {**NOTHING, "matched": MANY - done, "done": MANY - done}


@pytest.mark.fresh_database
@one_transport
def test_bulk_action__resumed_after_its_worker_is_killed(project: Project) -> None:
    me = caller(project)
    ids = many(me.database, me.user, MANY, run_at=FAR)
    with me.database.connect() as holder:
        holder.execute("begin")
        holder.execute("select from app.executions where id = %s for update", (ids[1250],))
        with worker_process(me.database, WORKER_LEASE_SECONDS="2") as killed:
            job_id = me.created(max_limit=MANY)["job_id"]
            until(lambda: me.get(job_id)["counts"]["done"] == 1000)
            killed.process.kill()
            killed.process.wait()
        holder.execute("rollback")
    with worker_process(me.database, WORKER_LEASE_SECONDS="2") as successor:
        assert successor.wait_for("execution ended", job_id)["outcome"] == "completed"
    assert me.get(job_id)["counts"] == {**NOTHING, "matched": MANY, "done": MANY}
    cancels = me.database.one(
        "select count(*) as n, count(distinct execution_id) as items from app.execution_events where actor = %s",
        (f"bulk_action:{job_id}",),
    )
    assert cancels == {"n": MANY, "items": MANY}
