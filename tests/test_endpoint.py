"""The way of every request: what is checked first, what is asked, and how an answer is spelled."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from functions._shared import registry
from functions._shared.auth import AuthUnavailable, Unauthorized
from functions._shared.endpoint import MAX_BODY_BYTES
from functions._shared.errors import Problem, database_unavailable
from functions._shared.http import Request
from functions._shared.rpc import DatabaseError
from tests.project import BOTH_DOORS, refusal
from tests.stub import CALLER, POST, Stub

if TYPE_CHECKING:
    from functions._shared.http import Response
    from tests.project import Project

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "TRACE", "QUERY", "PROPFIND", "get", "post"]


def members(response: Response) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(response.body)
    return parsed


def test_the_databases_answer_passes_through_unparsed() -> None:
    stub = Stub(answer=b'{"ok":  true, "ok": 1e2}')
    response = stub.ask(request_id="r", headers={"authorization": "Bearer t"})
    assert (response.status, response.body) == (202, b'{"ok":  true, "ok": 1e2}')
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-request-id"] == "r"
    assert stub.steps == [
        ("authenticate", "Bearer t"),
        ("call", "do_it", {"name": "x", "count": 1}, CALLER, {"x-request-id": "r"}),
    ]


def test_defaults_are_sent_and_nulls_are_not() -> None:
    stub = Stub()
    stub.ask(body=b'{"name": "x", "note": null, "unknown": 1}')
    assert stub.steps[-1][2] == {"name": "x", "count": 1}


def test_a_query_is_read_as_the_types_it_stands_for() -> None:
    stub = Stub()
    assert stub.ask("GET", query={"name": "1", "count": "7", "unknown": "x"}).status == 200
    assert stub.steps[-1][2] == {"name": "1", "count": 7}


@pytest.mark.parametrize("method", [*METHODS, ""])
def test_another_method_asks_nobody(method: str) -> None:
    stub = Stub()
    if method == "POST":
        return
    response = POST.handle(Request(method, POST.path, body=b"{"), stub.services)
    assert response.status == 405
    assert response.headers["allow"] == "POST, OPTIONS"
    assert members(response)["code"] == "method_not_allowed"
    assert stub.steps == []


def test_a_preflight_asks_nobody() -> None:
    stub = Stub()
    assert POST.handle(Request("OPTIONS", POST.path, body=b"{"), stub.services).status == 204
    assert stub.steps == []


@pytest.mark.parametrize("body", [b"{", b"x" * (MAX_BODY_BYTES + 1)])
def test_the_token_is_checked_before_the_body(body: bytes) -> None:
    stub = Stub(caller=Unauthorized("expired_token"))
    response = stub.ask(body=body)
    assert response.status == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert members(response)["code"] == "expired_token"
    assert [step[0] for step in stub.steps] == ["authenticate"]


@pytest.mark.parametrize(
    ("body", "status"), [(b"{", 400), (b"[]", 400), (b"{}", 400), (b" " * (MAX_BODY_BYTES + 1), 413)]
)
def test_the_body_is_checked_before_the_database(body: bytes, status: int) -> None:
    stub = Stub()
    assert stub.ask(body=body).status == status
    assert [step[0] for step in stub.steps] == ["authenticate"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "name is required."),
        (b"{}", "name is required."),
        (b"nope", "The body is not valid JSON."),
        (b"[]", "The body must be a JSON object."),
        (b'{"name": 1}', "name: input should be a valid string."),
        (b'{"name": "a\\u0000"}', "name: must not contain NUL characters."),
        (b'{"name": "x", "count": "1"}', "count: input should be a valid integer."),
        (b'{"name": "x", "count": true}', "count: input should be a valid integer."),
    ],
)
def test_the_sentence_says_what_is_wrong(body: bytes, sentence: str) -> None:
    assert members(Stub().ask(body=body))["error"] == sentence


def test_no_sentence_repeats_what_was_sent() -> None:
    for body in (
        b'{"name": ["t0p"]}',
        b'{"name": {"t0p": "t0p"}}',
        b'{"name": "t0p\\u0000"}',
        b'{"count": "t0p"}',
        b"t0p",
    ):
        assert b"t0p" not in Stub().ask(body=body).body


def test_a_problem_is_spelled_out() -> None:
    problem = Problem(409, "a_code", "A sentence.", {"job_id": "j"}, {"x-more": "1"})
    response = Stub(answer=problem).ask(request_id="r")
    assert response.status == 409
    assert members(response) == {"error": "A sentence.", "code": "a_code", "requestId": "r", "job_id": "j"}
    assert response.headers["x-more"] == "1"
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "error",
    [
        DatabaseError("t0p"),
        RuntimeError("t0p"),
        KeyError("t0p"),
        UnicodeEncodeError("utf-8", "t0p", 0, 1, "t0p"),
        RecursionError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_breaks_is_logged_and_not_shown(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        response = Stub(answer=error).ask(request_id="r")
    assert response.status == 500
    assert members(response)["code"] == "internal_error"
    assert b"t0p" not in response.body
    [record] = caplog.records
    assert record.exc_info
    assert record.exc_info[1] is error
    assert record.request_id == "r"  # type: ignore[attr-defined]


@pytest.mark.parametrize("stub", [Stub(caller=AuthUnavailable("why")), Stub(answer=database_unavailable())])
def test_what_cannot_be_reached_is_logged_and_asked_again_later(stub: Stub, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        response = stub.ask()
    assert response.status == 503
    assert int(response.headers["retry-after"]) > 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_what_the_caller_did_wrong_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        Stub(caller=Unauthorized("invalid_token")).ask()
        Stub().ask(body=b"{")
        Stub(answer=Problem(404, "c", "S.")).ask()
    assert caplog.records == []


@pytest.mark.parametrize(("module", "path"), [("a.b_c.do_it_now", "/do-it-now"), ("get", "/get")])
def test_the_url_is_the_modules_name_with_hyphens(module: str, path: str) -> None:
    assert type(POST)(module, "GET", rpc="x", request=POST.request, response=POST.response).path == path


def test_no_such_function() -> None:
    stub = Stub()
    for path in ("/", "", "/nope", "/cancel_historical_sync", "/_shared", "/worker", "/cancel-historical-sync/x"):
        for method in ("GET", "POST"):
            response = registry.handle(Request(method, path), stub.services)
            assert (response.status, members(response)["code"]) == (404, "no_such_function")
            assert response.headers["access-control-allow-origin"] == "*"
    assert stub.steps == []


# Over HTTP

PATHS = {"/cancel-historical-sync": "POST", "/start-historical-sync": "POST", "/get-historical-sync": "GET"}


@pytest.mark.parametrize("project", BOTH_DOORS, indirect=True, ids=str)
@pytest.mark.parametrize("path", PATHS)
def test_every_other_method_is_405(project: Project, path: str) -> None:
    token = project.token(project.database.member())
    with project.unchanged():
        for method in METHODS:
            if method.upper() == PATHS[path]:
                continue
            response = project.request(method, path, token, content=b"{")
            assert response.status_code == 405
            assert response.headers["allow"] == f"{PATHS[path]}, OPTIONS"
            if method != "HEAD":
                refusal(response, 405, "method_not_allowed")


@pytest.mark.parametrize("project", BOTH_DOORS[:1], indirect=True, ids=str)
@pytest.mark.parametrize("path", ["/get-historical-sync/", "//get-historical-sync", "///get-historical-sync//"])
def test_slashes_too_many_are_forgiven(project: Project, path: str) -> None:
    job_id = project.job(user := project.database.member())
    response = project.request("GET", path, project.token(user), params={"job_id": job_id})
    assert response.json()["job_id"] == job_id


@pytest.mark.parametrize("project", BOTH_DOORS[:1], indirect=True, ids=str)
@pytest.mark.parametrize(
    "path",
    [
        "/Cancel-Historical-Sync",
        "/cancel-historical-sync/x",
        "/x/cancel-historical-sync",
        "/cancel_historical_sync",
        "/cancel-historical-sync%00",
        "/cancel-historical-sync%20",
        "/..%2fcancel-historical-sync",
        "/%FF%FE",
        "/日本",
    ],
)
def test_no_function_is_there(project: Project, path: str) -> None:
    for method in ("GET", "POST"):
        refusal(project.request(method, path, content=b"{}"), 404, "no_such_function")
