"""The way of every request: what is checked first, what is asked, and how an answer is spelled."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import pytest
from pydantic import BaseModel, Field

from functions._shared import registry
from functions._shared.auth import AuthUnavailable, Unauthorized
from functions._shared.caller import Caller
from functions._shared.endpoint import Endpoint, RpcContext
from functions._shared.error_format import PLAIN, POLYTOMIC
from functions._shared.errors import ApiError, database_unavailable
from functions._shared.fields import AcceptsOnly, PgText, StrictRequest
from functions._shared.http import Request
from functions._shared.logs import JsonFormatter
from functions._shared.transports import DatabaseError
from functions._shared.validation import MAX_BODY_BYTES
from tests.support.json_schema import violations
from tests.support.project import BOTH_TRANSPORTS, refusal
from tests.support.stub import CALLER, POST, Answer, Stub

if TYPE_CHECKING:
    from collections.abc import Callable

    from functions._shared.http import Response
    from tests.support.project import Project

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
        (b'{"name": 1}', "name must be a string."),
        (b'{"name": "a\\u0000"}', "name must not contain NUL characters."),
        (b'{"name": "x", "count": "1"}', "count must be an integer."),
        (b'{"name": "x", "count": true}', "count must be an integer."),
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
    problem = ApiError(409, "a_code", "A sentence.", {"job_id": "j"}, {"x-more": "1"})
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
        Stub(answer=ApiError(404, "c", "S.")).ask()
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


# Members in the path

ID, OTHER = "248df4b7-aa70-47b8-a036-33ac447e668d", "00000000-0000-4000-8000-000000000000"


class OfThing(BaseModel):
    thing_id: UUID
    part_id: UUID
    name: PgText | None = None
    count: int | None = None


def of_thing(method: str, **options: Any) -> Endpoint:
    declared = {
        "path": "/api/things/{thing_id}/parts/{part_id}",
        "rpc": "do_it",
        "request": OfThing,
        "response": Answer,
    }
    return Endpoint("functions.family.of_thing", method, **{**declared, **options})


def ask(endpoint: Endpoint, stub: Stub, path: str = f"/api/things/{ID}/parts/{OTHER}", **parts: Any) -> Response:
    return endpoint.handle(Request(endpoint.method, path, **parts), stub.services)


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST", "PUT", "PATCH"])
def test_the_paths_members_are_the_requests(method: str) -> None:
    """Whatever query or body call by their names."""
    stub = Stub()
    elsewhere = {"thing_id": OTHER, "name": "x"}
    parts = {"query": elsewhere} if method in {"GET", "DELETE"} else {"body": json.dumps(elsewhere).encode()}
    assert ask(of_thing(method), stub, **parts).status == 200
    assert stub.steps[-1][2] == {"thing_id": ID, "part_id": OTHER, "name": "x"}


def test_without_a_body_the_path_is_the_request() -> None:
    stub = Stub()
    assert ask(of_thing("POST"), stub).status == 200
    assert stub.steps[-1][2] == {"thing_id": ID, "part_id": OTHER}


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
@pytest.mark.parametrize("nonsense", ["nope", "1", f"{ID}0", ID[:-1], f"{ID}\n", "%20", "'", "{thing_id}", ".."])
def test_a_malformed_id_in_the_path_is_a_path_that_is_not_there(method: str, nonsense: str) -> None:
    stub = Stub()
    for path in (f"/api/things/{nonsense}/parts/{OTHER}", f"/api/things/{ID}/parts/{nonsense}"):
        response = ask(of_thing(method), stub, path)
        assert (response.status, members(response)["code"]) == (404, "not_found")
        assert nonsense not in response.body.decode() or len(nonsense) == 1
    assert [step[0] for step in stub.steps] == ["authenticate", "authenticate"]


def test_what_is_wrong_with_the_path_is_said_before_what_is_wrong_with_the_rest() -> None:
    response = ask(of_thing("POST"), Stub(), f"/api/things/nope/parts/{OTHER}", body=b'{"count": "x"}')
    assert response.status == 404
    response = ask(of_thing("POST"), Stub(), body=b'{"count": "x"}')
    assert (response.status, members(response)["field"]) == (400, "count")


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"1", b"[[{}]]"])
def test_a_body_that_is_no_object_has_no_room_for_the_paths_members(body: bytes) -> None:
    response = ask(of_thing("POST"), Stub(), body=body)
    assert (response.status, members(response)["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_is_said_to_be_none(body: bytes) -> None:
    response = ask(of_thing("POST"), Stub(), body=body)
    assert (response.status, members(response)["code"]) == (400, "invalid_json")


@pytest.mark.parametrize(
    "path", ["/api/things", f"/api/things/{ID}", f"/api/things/{ID}/parts", f"/api/things/{ID}/parts/{ID}/x", "/x"]
)
def test_a_member_is_one_part_of_the_path(path: str) -> None:
    assert of_thing("GET").path_parameters(path) is None


def test_a_dot_in_a_path_is_a_dot() -> None:
    assert of_thing("GET", path="/api/v1.0/{thing_id}").path_parameters(f"/api/v1x0/{ID}") is None


# An answer that is empty


@pytest.mark.parametrize("method", ["DELETE", "POST"])
def test_an_endpoint_without_a_response_answers_nothing(method: str) -> None:
    response = ask(of_thing(method, response=None, status=204), Stub(answer=b"null"))
    assert (response.status, response.body) == (204, b"")
    assert "content-type" not in response.headers
    assert response.headers["x-request-id"]


def test_its_refusals_are_not_empty() -> None:
    response = ask(of_thing("DELETE", response=None, status=204), Stub(answer=ApiError(404, "gone", "Gone.")))
    assert (response.status, members(response)["code"]) == (404, "gone")


# Published contracts: what does not work yet is refused, and nothing is ignored


class Nested(StrictRequest):
    frequency: Annotated[str, AcceptsOnly("manual")]
    hour: Annotated[str | None, AcceptsOnly("")] = None


class Published(StrictRequest):
    name: PgText
    flag: Annotated[bool | None, AcceptsOnly(False)] = None
    number: Annotated[int | None, AcceptsOnly(0)] = None
    anything: Annotated[list[Any] | None, AcceptsOnly([], ["x"])] = None
    nested: Nested | None = None
    parts: list[Nested] | None = None
    renamed: int | None = Field(None, alias="else")
    unsent: Nested | None = Field(None, exclude=True)


PUBLISHED = Endpoint("f.f.p", "POST", rpc="do_it", request=Published, response=Answer)


def ask_published(stub: Stub, **request: Any) -> Response:
    return PUBLISHED.handle(Request("POST", PUBLISHED.path, body=json.dumps(request).encode()), stub.services)


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"flag": False, "number": 0, "anything": []},
        {"flag": None, "number": None, "anything": ["x"]},
        {"unsent": {"frequency": "manual", "hour": ""}},
    ],
    ids=str,
)
def test_what_is_so_anyway_may_be_said_and_is_not_sent_on(request_: dict[str, Any]) -> None:
    stub = Stub()
    assert ask_published(stub, name="x", **request_).status == 200
    assert stub.steps[-1][2] == {"name": "x"}


def test_a_member_goes_by_its_published_name() -> None:
    stub = Stub()
    assert ask_published(stub, name="x", **{"else": 1}).status == 200
    assert stub.steps[-1][2] == {"name": "x", "else": 1}
    assert members(ask_published(stub, name="x", renamed=1))["fields"] == ["renamed"]


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        ({"flag": True}, ["flag"]),
        ({"number": 1}, ["number"]),
        ({"number": False}, None),  # is no number, whatever Python thinks
        ({"flag": 0}, None),
        ({"anything": ["y"]}, ["anything"]),
        ({"surprise": None}, ["surprise"]),
        ({"nested": {"frequency": "hourly"}}, ["nested.frequency"]),
        ({"nested": {"frequency": "manual", "hour": "1", "more": 1}}, ["nested.hour", "nested.more"]),
        ({"parts": [{"frequency": "manual"}, {"frequency": "x"}]}, ["parts.1.frequency"]),
        ({"unsent": {"frequency": "hourly"}}, ["unsent.frequency"]),
        (
            {"flag": True, "number": 1, "anything": [1], "surprise": 1, "nested": {"frequency": "x"}},
            ["flag", "number", "anything", "nested.frequency", "surprise"],
        ),
    ],
    ids=str,
)
def test_what_does_not_work_yet_is_refused_by_all_its_names(request_: dict[str, Any], fields: list[str] | None) -> None:
    stub = Stub()
    response = ask_published(stub, name="x", **request_)
    assert [step[0] for step in stub.steps] == ["authenticate"]
    if fields is None:
        assert (response.status, members(response)["code"]) == (400, "invalid_field")
        return
    assert (response.status, members(response)["code"]) == (422, "unsupported_field")
    assert members(response)["fields"] == fields
    assert all(field in members(response)["error"] for field in fields)


def test_what_is_wrong_goes_before_what_does_not_work_yet() -> None:
    response = ask_published(Stub(), flag=True)
    assert (response.status, members(response)["field"]) == (400, "name")


def test_many_unknown_members_make_no_long_answer() -> None:
    response = ask_published(Stub(), name="x", **{f"{n}{'y' * 1000}": n for n in range(200)})
    assert response.status == 422
    assert (len(members(response)["fields"]), len(response.body) < 25_000) == (100, True)


# More than the one call


def test_the_steps_are_from_the_arguments_to_the_answer() -> None:
    stub = Stub(answer=b'{"n": 1}')

    def respond(arguments: dict[str, Any], context: RpcContext) -> bytes:
        assert context.call("look_first", {"a": 1}) == {"n": 1}
        assert context.call_main({**arguments, "added": True}) == b'{"n": 1}'
        assert context.call("look_after", {"n": 1}) == {"n": 1}
        return b'{"was": 1.10}'

    endpoint = dataclasses.replace(POST, respond=respond)
    request = Request("POST", endpoint.path, body=b'{"name": "x"}', request_id="r", headers={"idempotency-key": "k"})
    response = endpoint.handle(request, stub.services)
    assert (response.status, response.body) == (202, b'{"was": 1.10}')
    only_id, both = {"x-request-id": "r"}, {"x-request-id": "r", "idempotency-key": "k"}
    assert stub.steps[1:] == [
        ("call", "look_first", {"a": 1}, CALLER, only_id),
        ("call", "do_it", {"name": "x", "count": 1, "added": True}, CALLER, both),
        ("call", "look_after", {"n": 1}, CALLER, only_id),
    ]


@pytest.mark.parametrize("calls", [0, 1], ids=["before the call", "after it"])
def test_a_steps_problem_is_the_answer(calls: int) -> None:
    def refuse(arguments: dict[str, Any], context: RpcContext) -> bytes:
        for _ in range(calls):
            context.call_main(arguments)
        raise ApiError(400, "not_now", "Not now.")

    stub = Stub()
    endpoint = dataclasses.replace(POST, respond=refuse)
    response = endpoint.handle(Request("POST", endpoint.path, body=b'{"name": "x"}'), stub.services)
    assert (response.status, members(response)["code"]) == (400, "not_now")
    assert [step[0] for step in stub.steps] == ["authenticate", *["call"] * calls]


def test_no_step_is_taken_for_a_request_that_is_refused() -> None:
    def never(*_: Any) -> bytes:
        raise AssertionError

    endpoint = dataclasses.replace(POST, respond=never)
    for stub, body in ((Stub(caller=Unauthorized("invalid_token")), b"{}"), (Stub(), b"{"), (Stub(), b"{}")):
        assert endpoint.handle(Request("POST", endpoint.path, body=body), stub.services).status in {400, 401}


# An Idempotency-Key


@pytest.mark.parametrize(("method", "idempotent"), [("GET", None), ("DELETE", None), ("POST", False)])
def test_a_key_that_is_not_heeded_is_neither_read_nor_sent(method: str, idempotent: bool | None) -> None:
    stub = Stub()
    endpoint = of_thing(method, idempotent=idempotent)
    assert not endpoint.accepts_idempotency_key
    for key in ("k", "", "\x01"):
        assert ask(endpoint, stub, request_id="r", headers={"idempotency-key": key}).status == 200
        assert stub.steps[-1][4] == {"x-request-id": "r"}


def test_a_delete_that_is_remembered_heeds_its_key() -> None:
    stub = Stub()
    assert ask(of_thing("DELETE", idempotent=True), stub, headers={"idempotency-key": "k"}).status == 200
    assert stub.steps[-1][4]["idempotency-key"] == "k"


# Dialects

VERSION = "x-polytomic-version"
KEY = f"sync_{'0123456789abcdef' * 4}"
SPOKEN = of_thing("POST", error_format=POLYTOMIC)


def spoken(stub: Stub, **parts: Any) -> Response:
    return ask(SPOKEN, stub, **parts)


ANSWERS: dict[str, tuple[Callable[..., Response], int]] = {
    "success": (lambda **parts: spoken(Stub(), **parts), 200),
    "no token": (lambda **parts: spoken(Stub(caller=Unauthorized("missing_token")), **parts), 401),
    "no path": (lambda **parts: ask(SPOKEN, Stub(), "/api/things/x/parts/y", **parts), 404),
    "wrong": (lambda **parts: spoken(Stub(), body=b"{", **parts), 400),
    "refused": (lambda **parts: spoken(Stub(answer=ApiError(409, "c", "S.", {"job_id": "j"})), **parts), 409),
    "broken": (lambda **parts: spoken(Stub(answer=RuntimeError()), **parts), 500),
    "away": (lambda **parts: spoken(Stub(answer=database_unavailable()), **parts), 503),
    "method": (lambda **parts: SPOKEN.handle(Request("GET", SPOKEN.path, **parts), Stub().services), 405),
    "preflight": (lambda **parts: SPOKEN.handle(Request("OPTIONS", SPOKEN.path, **parts), Stub().services), 204),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_names_its_version(name: str) -> None:
    make, status = ANSWERS[name]
    newest, *older = POLYTOMIC.versions
    for asked, served in (
        (None, newest),
        *((v, v) for v in older),
        ("1999-01-01", newest),
        ("", newest),
        ("x\ny", newest),
    ):
        response = make(headers={} if asked is None else {VERSION: asked})
        assert (response.status, response.headers[VERSION]) == (status, served)


@pytest.mark.parametrize("name", ANSWERS)
def test_every_error_is_spelled_for_the_clients_old_and_new(name: str) -> None:
    make, status = ANSWERS[name]
    response = make(request_id="r")
    if status < 400:
        return
    body = members(response)
    # Old clients read a text in a 401's `status`, new ones a number: there is none.
    assert set(body) == {"key", "message", "error", "code", "metadata", "requestId", *(["status"] * (status != 401))}
    assert (body["code"], body.get("status", status), body["requestId"]) == (status, status, "r")
    assert body["message"] == body["error"]
    assert body["metadata"] == (
        {"job_id": "j"} if name == "refused" else {"field": "x"} if "field" in body["metadata"] else {}
    )
    assert not [*violations(body, POLYTOMIC.schema, {})]


def test_the_plain_dialect_has_no_version() -> None:
    assert VERSION not in Stub().ask(headers={VERSION: "2025-09-18"}).headers
    assert PLAIN.version_header is None
    assert not [*violations(members(Stub().ask(body=b"{")), PLAIN.schema, {})]


def test_an_agencys_key_goes_past_the_auth_server_to_the_database() -> None:
    stub = Stub()
    assert spoken(stub, headers={"authorization": f"Bearer {KEY}"}, request_id="r").status == 200
    caller = Caller(None, {"role": "anon"}, agency_key=KEY)
    assert stub.steps == [("call", "do_it", {"thing_id": ID, "part_id": OTHER}, caller, {"x-request-id": "r"})]


def test_where_keys_are_not_taken_a_key_is_a_token_like_any_other() -> None:
    stub = Stub(caller=Unauthorized("invalid_token"))
    response = ask(of_thing("POST"), stub, headers={"authorization": f"Bearer {KEY}"})
    assert response.status == 401
    assert stub.steps == [("authenticate", f"Bearer {KEY}")]


def test_a_token_is_a_users_where_keys_are_taken_too() -> None:
    stub = Stub()
    assert spoken(stub, headers={"authorization": "Bearer a.b.c"}).status == 200
    assert [step[0] for step in stub.steps] == ["authenticate", "call"]
    assert stub.steps[-1][3] is CALLER


@pytest.mark.parametrize("result", [RuntimeError(), database_unavailable(), ApiError(400, "c", "S.")], ids=repr)
def test_no_answer_and_no_log_holds_the_key(result: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        response = spoken(Stub(answer=result), headers={"authorization": f"Bearer {KEY}"})
    assert KEY not in response.body.decode() + str(response.headers)
    for record in caplog.records:
        assert KEY not in JsonFormatter().format(record) + str(vars(record))


# Over HTTP

TRANSITIONS_TO: dict[str, list[str]] = {}
for one in registry.endpoints():
    TRANSITIONS_TO.setdefault(one.path, []).append(one.method)


@pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)
@pytest.mark.parametrize("path", TRANSITIONS_TO)
def test_every_other_method_is_405(project: Project, path: str) -> None:
    """`Allow` has every method of the path, whichever endpoint it is."""
    token = project.token(project.database.member())
    with project.unchanged():
        for method in METHODS:
            if method.upper() in TRANSITIONS_TO[path]:
                continue
            response = project.request(method, re.sub(r"\{\w+\}", ID, path), token, content=b"{")
            assert response.status_code == 405
            assert response.headers["allow"] == ", ".join([*TRANSITIONS_TO[path], "OPTIONS"])
            if method != "HEAD":
                refusal(response, 405, "method_not_allowed")


@pytest.mark.parametrize("project", BOTH_TRANSPORTS[:1], indirect=True, ids=str)
@pytest.mark.parametrize("path", TRANSITIONS_TO)
def test_a_preflight_allows_every_method_of_the_path(project: Project, path: str) -> None:
    response = project.request("OPTIONS", re.sub(r"\{\w+\}", ID, path), headers={"origin": "http://x"})
    assert response.status_code == 204
    assert response.headers["access-control-allow-methods"] == ", ".join([*TRANSITIONS_TO[path], "OPTIONS"])
    versioned = any(one.error_format.version_header for one in registry.endpoints() if one.path == path)
    assert (VERSION in response.headers) == versioned
    assert {VERSION, "idempotency-key"} <= set(response.headers["access-control-allow-headers"].split(", "))
    assert VERSION in response.headers["access-control-expose-headers"]


@pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)
def test_an_empty_answer_is_empty_on_the_wire(project: Project) -> None:
    user = project.database.member()
    sync_id = project.database.bulk_sync(user)
    response = project.request("DELETE", f"/api/bulk/syncs/{sync_id}", project.token(user))
    assert (response.status_code, response.content) == (204, b"")
    assert {"content-type", "content-length"}.isdisjoint(response.headers)


@pytest.mark.parametrize("project", BOTH_TRANSPORTS[:1], indirect=True, ids=str)
@pytest.mark.parametrize("path", ["//api//connections/", "/api/connections//"])
def test_slashes_too_many_are_forgiven_in_published_paths_too(project: Project, path: str) -> None:
    response = project.request("GET", path, project.token(project.database.member()))
    assert response.json()["data"] == []


@pytest.mark.parametrize("project", BOTH_TRANSPORTS[:1], indirect=True, ids=str)
@pytest.mark.parametrize("path", ["/get-historical-sync/", "//get-historical-sync", "///get-historical-sync//"])
def test_slashes_too_many_are_forgiven(project: Project, path: str) -> None:
    job_id = project.job(user := project.database.member())
    response = project.request("GET", path, project.token(user), params={"job_id": job_id})
    assert response.json()["job_id"] == job_id


@pytest.mark.parametrize("project", BOTH_TRANSPORTS[:1], indirect=True, ids=str)
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
        "/api",
        "/api/bulk",
        "/api/bulk/syncs/x/y",
        f"/api/bulk/syncs/{ID}/executions/{ID}/x",
        f"/bulk/syncs/{ID}",
        "/API/bulk/syncs",
    ],
)
def test_no_function_is_there(project: Project, path: str) -> None:
    for method in ("GET", "POST"):
        refusal(project.request(method, path, content=b"{}"), 404, "no_such_function")
