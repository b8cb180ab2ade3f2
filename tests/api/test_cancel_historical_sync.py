"""POST cancel-historical-sync: a 200 ends the job, and an error changes nothing."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

from functions._local.postgres import free_port
from functions.historical_sync.cancel_historical_sync import HistoricalSyncCancelled
from tests.support.project import EVERY_SETUP, Project, both_transports, expect_error

if TYPE_CHECKING:
    import httpx

    from tests.support.database import User
    from tests.support.project import Projects, Setup, Status

UNKNOWN = "00000000-0000-4000-8000-000000000000"


def accepted(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    HistoricalSyncCancelled.model_validate_json(response.content, strict=True, extra="forbid")
    body: dict[str, Any] = response.json()
    return body


@pytest.mark.parametrize("status", ["pending", "in_progress", "released"])
def test_cancel_historical_sync__active(project: Project, status: Status) -> None:
    user = project.database.member()
    job_id = project.job(user, status)
    lease_token = project.database.execution(job_id)["lease_token"]

    response = project.cancel(project.token(user), {"job_id": job_id, "reason": "wrong range"})

    assert accepted(response) == {"job_id": job_id, "status": "cancelled"}
    row = project.database.execution(job_id)
    assert (row["status"], row["cancelled_by"], row["cancel_reason"]) == ("cancelled", f"user:{user.id}", "wrong range")
    assert row["lease_token"] == lease_token + 1
    event = project.database.events(job_id)[-1]
    assert (event["event"], event["actor"], event["reason"]) == ("cancel", f"user:{user.id}", "wrong range")
    assert event["request_id"] == response.headers["x-request-id"]


def test_cancel_historical_sync__by_a_colleague(project: Project) -> None:
    starter = project.database.member()
    colleague = project.database.user(starter.agency_id)
    job_id = project.job(starter, "in_progress")
    accepted(project.cancel(project.token(colleague), {"job_id": job_id}))
    assert project.database.execution(job_id)["cancelled_by"] == f"user:{colleague.id}"


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_cancel_historical_sync__already_terminal(project: Project, status: Status) -> None:
    user = project.database.member()
    job_id = project.job(user, status)
    with project.unchanged():
        response = project.cancel(project.token(user), {"job_id": job_id, "reason": "later"})
    assert expect_error(response, 400, "not_cancellable") == {"current_status": status}


def test_cancel_historical_sync__repeated(project: Project) -> None:
    user = project.database.member()
    job_id, token = project.job(user), project.token(user)
    accepted(project.cancel(token, {"job_id": job_id, "reason": "first"}))
    with project.unchanged():
        response = project.cancel(token, {"job_id": job_id, "reason": "second"})
    assert expect_error(response, 400, "not_cancellable") == {"current_status": "cancelled"}


@pytest.mark.parametrize("status", ["pending", "in_progress"])
def test_cancel_historical_sync__concurrent_calls_cancel_once(project: Project, status: Status) -> None:
    user = project.database.member()
    job_id, token = project.job(user, status), project.token(user)

    responses = project.concurrently(lambda: project.cancel(token, {"job_id": job_id}))

    lost = [response for response in responses if response.status_code != 200]
    assert len(lost) == len(responses) - 1
    for response in lost:
        assert expect_error(response, 400, "not_cancellable") == {"current_status": "cancelled"}
    assert [event["event"] for event in project.database.events(job_id)].count("cancel") == 1


# Valid requests


@pytest.mark.parametrize(
    ("reason", "stored"),
    [
        (None, None),
        ("", ""),
        ("x" * 500, "x" * 500),
        ("🛑" * 500, "🛑" * 500),
        ("a\nb\tc\u2028\u202e", "a\nb\tc\u2028\u202e"),
        ("'); drop table app.executions; -- $$ %s %(x)s \\", "'); drop table app.executions; -- $$ %s %(x)s \\"),
    ],
    ids=["null", "empty", "500 letters", "500 emojis", "control characters", "SQL"],
)
def test_cancel_historical_sync__reason_is_stored_verbatim(
    project: Project, reason: str | None, stored: str | None
) -> None:
    user = project.database.member()
    job_id = project.job(user)
    accepted(project.cancel(project.token(user), {"job_id": job_id, "reason": reason}))
    assert project.database.execution(job_id)["cancel_reason"] == stored
    assert project.database.events(job_id)[-1]["reason"] == stored


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/octet-stream", "application/x-nonsense", ""])
def test_cancel_historical_sync__any_content_type(project: Project, content_type: str | None) -> None:
    user = project.database.member()
    job_id = project.job(user)
    headers = {} if content_type is None else {"content-type": content_type}
    body = f'{{"job_id": "{job_id}"}}'.encode()
    accepted(project.cancel(project.token(user), body, headers=headers))


@pytest.mark.parametrize(
    "body",
    [
        '{"job_id": "%s", "Reason": 1, "status": "completed", "agency_id": null, "__proto__": {}}',
        '{"job_id": "not this one", "job_id": "%s"}',
        ' \r\n\t{"job_id"\n:\t"%s"} ',
        '{"\\u006aob_id": "%s"}',
        '{"job_id": "%s", "reason": null}',
        '{"job_id": "{%s}"}',
    ],
    ids=["unknown members", "duplicate member", "white space", "escaped name", "null reason", "id in braces"],
)
def test_cancel_historical_sync__unusual_valid_body(project: Project, body: str) -> None:
    user = project.database.member()
    job_id = project.job(user)
    cancelled = accepted(project.cancel(project.token(user), (body % job_id).encode()))
    assert cancelled == {"job_id": job_id, "status": "cancelled"}


def test_cancel_historical_sync__upper_case_id(project: Project) -> None:
    user = project.database.member()
    job_id = project.job(user)
    assert accepted(project.cancel(project.token(user), {"job_id": job_id.upper()}))["job_id"] == job_id


def test_cancel_historical_sync__query_string_is_ignored(project: Project) -> None:
    user = project.database.member()
    job_id, other = project.job(user), project.job(user)
    query = {"job_id": other, "reason": "x", "forceFunctionRegion": "eu-west-1", "select": "*"}
    accepted(project.cancel(project.token(user), {"job_id": job_id}, params=query))
    assert project.database.execution(other)["status"] == "queued"


def test_cancel_historical_sync__chunked_body(project: Project) -> None:
    user = project.database.member()
    job_id = project.job(user)
    chunks = iter([b'{"job_', b'id": "', job_id.encode(), b'"}'])
    accepted(project.request("POST", "/cancel-historical-sync", project.token(user), content=chunks))


# Invalid requests

BAD_BODIES: dict[str, tuple[bytes | None, str]] = {
    "no body": (None, "missing_field"),
    "empty body": (b"", "missing_field"),
    "empty object": (b"{}", "missing_field"),
    "job_id under another name": (f'{{"jobId": "{UNKNOWN}"}}'.encode(), "missing_field"),
    "not JSON": (b"job_id=1", "invalid_json"),
    "cut off": (b'{"job_id": "', "invalid_json"),
    "two values": (b"{} {}", "invalid_json"),
    "white space": (b"  ", "invalid_json"),
    "single quotes": (b"{'job_id': 1}", "invalid_json"),
    "not UTF-8": (b'{"job_id": "\xff\xfe"}', "invalid_json"),
    "UTF-16": ("{}".encode("utf-16"), "invalid_json"),
    "NUL": (b"\0", "invalid_json"),
    "deeply nested arrays": (b"[" * 100_000, "invalid_json"),
    "deeply nested objects": (b'{"job_id":' * 50_000 + b"1" + b"}" * 50_000, "invalid_json"),
    "deeply nested unknown member": (b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}", "invalid_json"),
    "null": (b"null", "invalid_request"),
    "array": (f'["{UNKNOWN}"]'.encode(), "invalid_request"),
    "string": (f'"{UNKNOWN}"'.encode(), "invalid_request"),
    "number": (b"1e400", "invalid_request"),
    "id null": (b'{"job_id": null}', "invalid_field"),
    "id a number": (b'{"job_id": 1}', "invalid_field"),
    "id a huge number": (b'{"job_id": ' + b"9" * 4000 + b"}", "invalid_field"),
    "id an array": (f'{{"job_id": ["{UNKNOWN}"]}}'.encode(), "invalid_field"),
    "id an object": (b'{"job_id": {}}', "invalid_field"),
    "id empty": (b'{"job_id": ""}', "invalid_field"),
    "id not a UUID": (b'{"job_id": "all"}', "invalid_field"),
    "id too short": (f'{{"job_id": "{UNKNOWN[:-1]}"}}'.encode(), "invalid_field"),
    "id with a suffix": (f'{{"job_id": "{UNKNOWN}\' or 1=1"}}'.encode(), "invalid_field"),
    "id with a NUL": (f'{{"job_id": "{UNKNOWN}\\u0000"}}'.encode(), "invalid_field"),
    "id with white space": (f'{{"job_id": " {UNKNOWN} "}}'.encode(), "invalid_field"),
    "id with Arabic digits": (f'{{"job_id": "{UNKNOWN.replace("0", "٠")}"}}'.encode(), "invalid_field"),
}


@both_transports
@pytest.mark.parametrize("name", BAD_BODIES)
def test_cancel_historical_sync__body_without_a_job_id(project: Project, name: str) -> None:
    body, code = BAD_BODIES[name]
    token = project.token(project.database.user(None))
    with project.unchanged():
        response = project.cancel(token, body)
    members = expect_error(response, 400, code)
    assert members == ({"field": "job_id"} if code.endswith("_field") else {})


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ('"' + "x" * 501 + '"', "invalid_field"),
        ('"' + "🛑" * 501 + '"', "invalid_field"),
        ('"' + "x" * 1_000_000 + '"', "invalid_field"),
        (r'"a\u0000b"', "invalid_field"),
        ("1", "invalid_field"),
        ("true", "invalid_field"),
        ('["why"]', "invalid_field"),
        ('{"toString": "why"}', "invalid_field"),
        (r'"\ud800"', "invalid_json"),
        (r'"\udfff\ud800"', "invalid_json"),
        ('"a\0b"', "invalid_json"),
        ("NaN", "invalid_field"),
    ],
    ids=[
        "501 letters",
        "501 emojis",
        "a million letters",
        "escaped NUL",
        "number",
        "boolean",
        "array",
        "object",
        "lone surrogate",
        "reversed surrogates",
        "raw NUL",
        "NaN",
    ],
)
def test_cancel_historical_sync__invalid_reason(project: Project, reason: str, code: str) -> None:
    user = project.database.member()
    job_id, token = project.job(user), project.token(user)
    with project.unchanged():
        response = project.cancel(token, f'{{"job_id": "{job_id}", "reason": {reason}}}'.encode())
    assert expect_error(response, 400, code) == ({"field": "reason"} if code == "invalid_field" else {})
    assert len(response.content) < 1000


def test_cancel_historical_sync__body_too_large(project: Project) -> None:
    user = project.database.member()
    body = f'{{"job_id": "{project.job(user)}", "x": "{"x" * 1024 * 1024}"}}'.encode()
    with project.unchanged():
        expect_error(project.cancel(project.token(user), body), 413, "body_too_large")


def test_cancel_historical_sync__body_of_exactly_the_limit(project: Project) -> None:
    user = project.database.member()
    body = f'{{"job_id": "{project.job(user)}"}}'.encode()
    accepted(project.cancel(project.token(user), body + b" " * (1024 * 1024 - len(body))))


# Callers and jobs


def test_cancel_historical_sync__user_without_agency(project: Project) -> None:
    job_id = project.job(project.database.member())
    token = project.token(project.database.user(None))
    with project.unchanged():
        expect_error(project.cancel(token, {"job_id": job_id}), 403, "no_agency")


def test_cancel_historical_sync__user_without_a_row(project: Project) -> None:
    user = project.database.user(None)
    project.database.admin.execute("delete from public.users where id = %s", (user.id,))
    expect_error(project.cancel(project.token(user), {"job_id": UNKNOWN}), 403, "no_agency")


@pytest.mark.parametrize("status", ["pending", "in_progress", "completed", "cancelled"])
def test_cancel_historical_sync__other_agency(project: Project, status: Status) -> None:
    job_id = project.job(project.database.member(), status)
    stranger = project.token(project.database.member())
    with project.unchanged():
        assert expect_error(project.cancel(stranger, {"job_id": job_id}), 403, "job_of_another_agency") == {}


def test_cancel_historical_sync__agency_claim_in_the_token_is_ignored(project: Project) -> None:
    owner, stranger = project.database.member(), project.database.member()
    job_id = project.job(owner)
    claims = {"agency_id": owner.agency_id}
    token = project.token(stranger, **claims, user_metadata=claims, app_metadata=claims)
    with project.unchanged():
        expect_error(project.cancel(token, {"job_id": job_id}), 403, "job_of_another_agency")


def test_cancel_historical_sync__user_who_changed_agency(project: Project) -> None:
    user, other = project.database.member(), project.database.member()
    old, new, token = project.job(user), project.job(other), project.token(user)
    project.database.admin.execute("update public.users set agency_id = %s where id = %s", (other.agency_id, user.id))
    expect_error(project.cancel(token, {"job_id": old}), 403, "job_of_another_agency")
    accepted(project.cancel(token, {"job_id": new}))
    # The invariants check that actors belong to the agency now.
    project.database.admin.execute("delete from public.users where id = %s", (user.id,))


def test_cancel_historical_sync__unknown_job(project: Project) -> None:
    token = project.token(project.database.member())
    for job_id in (UNKNOWN, str(uuid.uuid4()), "ffffffff-ffff-ffff-ffff-ffffffffffff"):
        with project.unchanged():
            assert expect_error(project.cancel(token, {"job_id": job_id}), 404, "job_not_found") == {}


def test_cancel_historical_sync__execution_of_another_family(project: Project) -> None:
    user = project.database.member()
    with project.database.session({"role": "service_role"}) as service:
        [row] = service.execute(
            "insert into app.executions (agency_id, family) values (%s, 'bulk_sync') returning id::text",
            (user.agency_id,),
        )
    with project.unchanged():
        expect_error(project.cancel(project.token(user), {"job_id": row["id"]}), 404, "job_not_found")


def test_cancel_historical_sync__deleted_job(project: Project) -> None:
    user = project.database.member()
    job_id = project.job(user, "completed")
    with project.database.session({"role": "service_role"}) as service:
        service.execute("update app.executions set deleted_at = now() where id = %s", (job_id,))
    with project.unchanged():
        expect_error(project.cancel(project.token(user), {"job_id": job_id}), 404, "job_not_found")


# Order of checks


def test_cancel_historical_sync__order_of_checks(project: Project) -> None:
    database = project.database
    owner, without_agency = database.member(), database.user(None)
    mine, theirs = project.job(owner, "completed"), project.job(database.member(), "completed")
    huge = b"x" * (1024 * 1024 + 1)

    def error_of(user: User | None, body: object) -> tuple[int, str]:
        response = project.cancel(project.token(user) if user else None, body)
        return response.status_code, response.json()["code"]

    with project.unchanged():
        assert project.request("GET", "/cancel-historical-sync").status_code == 405
        assert error_of(None, huge) == (401, "missing_token")
        assert error_of(None, b"{") == (401, "missing_token")
        assert error_of(without_agency, huge) == (413, "body_too_large")
        assert error_of(without_agency, b"{}") == (400, "missing_field")
        assert error_of(without_agency, {"job_id": UNKNOWN}) == (403, "no_agency")
        assert error_of(without_agency, {"job_id": mine}) == (403, "no_agency")
        assert error_of(owner, {"job_id": UNKNOWN}) == (404, "job_not_found")
        assert error_of(owner, {"job_id": theirs}) == (403, "job_of_another_agency")
        assert error_of(owner, {"job_id": mine}) == (400, "not_cancellable")


# Request ids


@pytest.mark.parametrize("request_id", ["a", "trace-1.2_3", "x" * 100], ids=["short", "punctuation", "100 characters"])
def test_cancel_historical_sync__request_id_in_audit_and_response(project: Project, request_id: str) -> None:
    user = project.database.member()
    job_id, token, headers = project.job(user), project.token(user), {"X-Request-Id": request_id}
    response = project.cancel(token, {"job_id": job_id}, headers=headers)
    accepted(response)
    assert response.headers["x-request-id"] == request_id
    assert project.database.events(job_id)[-1]["request_id"] == request_id
    assert project.cancel(token, {"job_id": job_id}, headers=headers).json()["requestId"] == request_id


@pytest.mark.parametrize(
    "request_id",
    ["", "x" * 101, 'a"b', "a b", "a,b", "../a", "{}", "a\xe9", "a\tb"],
    ids=["empty", "101 characters", "quote", "space", "comma", "slash", "braces", "not ASCII", "tab"],
)
def test_cancel_historical_sync__invalid_request_id_is_replaced(project: Project, request_id: str) -> None:
    user = project.database.member()
    job_id = project.job(user)
    response = project.cancel(project.token(user), {"job_id": job_id}, headers={"x-request-id": request_id})
    accepted(response)
    assert str(uuid.UUID(response.headers["x-request-id"])) == response.headers["x-request-id"]
    assert project.database.events(job_id)[-1]["request_id"] == response.headers["x-request-id"]


# Internal errors


def test_cancel_historical_sync__internal_error_hides_its_cause(project: Project) -> None:
    user = project.database.member()
    job_id, token = project.job(user), project.token(user)
    with project.without("app.next_status"):
        response = project.cancel(token, {"job_id": job_id})
    assert expect_error(response, 500, "internal_error") == {}
    assert "next_status" not in response.text
    accepted(project.cancel(token, {"job_id": job_id}))


# Unreachable services


@pytest.mark.parametrize("setup", EVERY_SETUP, ids=str)
def test_cancel_historical_sync__auth_server_unreachable(projects: Projects, setup: Setup) -> None:
    with Project(setup, projects.backend(setup.signing), supabase_url=f"http://127.0.0.1:{free_port()}") as project:
        user = project.database.member()
        job_id, token = project.job(user), project.token(user)
        with project.unchanged():
            response = project.cancel(token, {"job_id": job_id})
    assert expect_error(response, 503, "auth_unavailable") == {}
    assert int(response.headers["retry-after"]) > 0


@pytest.mark.parametrize("setup", [setup for setup in EVERY_SETUP if setup.transport == "postgres"], ids=str)
def test_cancel_historical_sync__database_unreachable(projects: Projects, setup: Setup) -> None:
    nowhere = f"postgresql://authenticator@127.0.0.1:{free_port()}/postgres"
    with Project(setup, projects.backend(setup.signing), database_url=nowhere) as project:
        user = project.database.member()
        job_id, token = project.job(user), project.token(user)
        with project.unchanged():
            response = project.cancel(token, {"job_id": job_id})
    assert expect_error(response, 503, "database_unavailable") == {}
    assert int(response.headers["retry-after"]) > 0
