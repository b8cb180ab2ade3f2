"""endpoint.py and validation.py: the order of checks, the RPCs, and the responses."""

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
from tests.support.project import BOTH_TRANSPORTS, expect_error
from tests.support.stub import CALLER, POST, Done, Stub

if TYPE_CHECKING:
    from collections.abc import Callable

    from functions._shared.http import Response
    from tests.support.project import Project

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "TRACE", "QUERY", "PROPFIND", "get", "post"]


def members(response: Response) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(response.body)
    return parsed


def test_endpoint__response_bytes_pass_through_unparsed() -> None:
    stub = Stub(response=b'{"ok":  true, "ok": 1e2}')
    response = stub.send(request_id="r", headers={"authorization": "Bearer t"})
    assert (response.status, response.body) == (202, b'{"ok":  true, "ok": 1e2}')
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-request-id"] == "r"
    assert stub.steps == [
        ("authenticate", "Bearer t"),
        ("call", "do_it", {"name": "x", "count": 1}, CALLER, {"x-request-id": "r"}),
    ]


def test_arguments__defaults_are_sent_nulls_are_not() -> None:
    stub = Stub()
    stub.send(body=b'{"name": "x", "note": null, "unknown": 1}')
    assert stub.steps[-1][2] == {"name": "x", "count": 1}


def test_arguments__query_values_get_their_types() -> None:
    stub = Stub()
    assert stub.send("GET", query={"name": "1", "count": "7", "unknown": "x"}).status == 200
    assert stub.steps[-1][2] == {"name": "1", "count": 7}


@pytest.mark.parametrize("method", [*METHODS, ""])
def test_endpoint__other_method_makes_no_call(method: str) -> None:
    stub = Stub()
    if method == "POST":
        return
    response = POST.handle(Request(method, POST.path, body=b"{"), stub.services)
    assert response.status == 405
    assert response.headers["allow"] == "POST, OPTIONS"
    assert members(response)["code"] == "method_not_allowed"
    assert stub.steps == []


def test_endpoint__preflight_makes_no_call() -> None:
    stub = Stub()
    assert POST.handle(Request("OPTIONS", POST.path, body=b"{"), stub.services).status == 204
    assert stub.steps == []


@pytest.mark.parametrize("body", [b"{", b"x" * (MAX_BODY_BYTES + 1)])
def test_endpoint__token_is_checked_before_the_body(body: bytes) -> None:
    stub = Stub(caller=Unauthorized("expired_token"))
    response = stub.send(body=body)
    assert response.status == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert members(response)["code"] == "expired_token"
    assert [step[0] for step in stub.steps] == ["authenticate"]


@pytest.mark.parametrize(
    ("body", "status"), [(b"{", 400), (b"[]", 400), (b"{}", 400), (b" " * (MAX_BODY_BYTES + 1), 413)]
)
def test_endpoint__body_is_checked_before_the_rpc(body: bytes, status: int) -> None:
    stub = Stub()
    assert stub.send(body=body).status == status
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
def test_validation__message_names_field_and_problem(body: bytes, sentence: str) -> None:
    assert members(Stub().send(body=body))["error"] == sentence


def test_validation__message_never_quotes_the_input() -> None:
    for body in (
        b'{"name": ["t0p"]}',
        b'{"name": {"t0p": "t0p"}}',
        b'{"name": "t0p\\u0000"}',
        b'{"count": "t0p"}',
        b"t0p",
    ):
        assert b"t0p" not in Stub().send(body=body).body


def test_endpoint__api_error_becomes_the_response() -> None:
    error = ApiError(409, "a_code", "A sentence.", {"job_id": "j"}, {"x-more": "1"})
    response = Stub(response=error).send(request_id="r")
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
def test_endpoint__unexpected_error_is_logged_not_shown(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        response = Stub(response=error).send(request_id="r")
    assert response.status == 500
    assert members(response)["code"] == "internal_error"
    assert b"t0p" not in response.body
    [record] = caplog.records
    assert record.exc_info
    assert record.exc_info[1] is error
    assert record.request_id == "r"  # type: ignore[attr-defined]


@pytest.mark.parametrize("stub", [Stub(caller=AuthUnavailable("why")), Stub(response=database_unavailable())])
def test_endpoint__unavailable_service_is_logged_with_retry_after(stub: Stub, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        response = stub.send()
    assert response.status == 503
    assert int(response.headers["retry-after"]) > 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_endpoint__caller_errors_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        Stub(caller=Unauthorized("invalid_token")).send()
        Stub().send(body=b"{")
        Stub(response=ApiError(404, "c", "S.")).send()
    assert caplog.records == []


@pytest.mark.parametrize(("module", "path"), [("a.b_c.do_it_now", "/do-it-now"), ("get", "/get")])
def test_endpoint__default_path_and_rpc(module: str, path: str) -> None:
    endpoint = Endpoint(module, "GET", request=POST.request, response=POST.response)
    assert (endpoint.path, endpoint.rpc) == (path, module.rpartition(".")[2])
    assert dataclasses.replace(endpoint, rpc="x", path="/y").path == "/y"


def test_registry__unknown_path() -> None:
    stub = Stub()
    for path in ("/", "", "/nope", "/cancel_historical_sync", "/_shared", "/worker", "/cancel-historical-sync/x"):
        for method in ("GET", "POST"):
            response = registry.handle(Request(method, path), stub.services)
            assert (response.status, members(response)["code"]) == (404, "no_such_function")
            assert response.headers["access-control-allow-origin"] == "*"
    assert stub.steps == []


# Path parameters

ID, OTHER = "248df4b7-aa70-47b8-a036-33ac447e668d", "00000000-0000-4000-8000-000000000000"


class ThingRequest(BaseModel):
    thing_id: UUID
    part_id: UUID
    name: PgText | None = None
    count: int | None = None


def thing_endpoint(method: str, **options: Any) -> Endpoint:
    declared = {
        "path": "/api/things/{thing_id}/parts/{part_id}",
        "rpc": "do_it",
        "request": ThingRequest,
        "response": Done,
    }
    return Endpoint("functions.family.of_thing", method, **{**declared, **options})


def send(endpoint: Endpoint, stub: Stub, path: str = f"/api/things/{ID}/parts/{OTHER}", **parts: Any) -> Response:
    return endpoint.handle(Request(endpoint.method, path, **parts), stub.services)


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST", "PUT", "PATCH"])
def test_path_parameters__override_query_and_body(method: str) -> None:
    """Also if the query or body has fields with the same names."""
    stub = Stub()
    elsewhere = {"thing_id": OTHER, "name": "x"}
    parts = {"query": elsewhere} if method in {"GET", "DELETE"} else {"body": json.dumps(elsewhere).encode()}
    assert send(thing_endpoint(method), stub, **parts).status == 200
    assert stub.steps[-1][2] == {"thing_id": ID, "part_id": OTHER, "name": "x"}


def test_path_parameters__without_a_body() -> None:
    stub = Stub()
    assert send(thing_endpoint("POST"), stub).status == 200
    assert stub.steps[-1][2] == {"thing_id": ID, "part_id": OTHER}


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
@pytest.mark.parametrize("nonsense", ["nope", "1", f"{ID}0", ID[:-1], f"{ID}\n", "%20", "'", "{thing_id}", ".."])
def test_path_parameters__malformed_id_is_404(method: str, nonsense: str) -> None:
    stub = Stub()
    for path in (f"/api/things/{nonsense}/parts/{OTHER}", f"/api/things/{ID}/parts/{nonsense}"):
        response = send(thing_endpoint(method), stub, path)
        assert (response.status, members(response)["code"]) == (404, "not_found")
        assert nonsense not in response.body.decode() or len(nonsense) == 1
    assert [step[0] for step in stub.steps] == ["authenticate", "authenticate"]


def test_path_parameters__reported_before_body_errors() -> None:
    response = send(thing_endpoint("POST"), Stub(), f"/api/things/nope/parts/{OTHER}", body=b'{"count": "x"}')
    assert response.status == 404
    response = send(thing_endpoint("POST"), Stub(), body=b'{"count": "x"}')
    assert (response.status, members(response)["field"]) == (400, "count")


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"1", b"[[{}]]"])
def test_path_parameters__body_is_not_an_object(body: bytes) -> None:
    response = send(thing_endpoint("POST"), Stub(), body=body)
    assert (response.status, members(response)["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000])
def test_path_parameters__body_is_not_json(body: bytes) -> None:
    response = send(thing_endpoint("POST"), Stub(), body=body)
    assert (response.status, members(response)["code"]) == (400, "invalid_json")


@pytest.mark.parametrize(
    "path", ["/api/things", f"/api/things/{ID}", f"/api/things/{ID}/parts", f"/api/things/{ID}/parts/{ID}/x", "/x"]
)
def test_path_parameters__match_one_segment(path: str) -> None:
    assert thing_endpoint("GET").path_parameters(path) is None


def test_path_parameters__dot_is_literal() -> None:
    assert thing_endpoint("GET", path="/api/v1.0/{thing_id}").path_parameters(f"/api/v1x0/{ID}") is None


# Empty responses


@pytest.mark.parametrize("method", ["DELETE", "POST"])
def test_endpoint__empty_response(method: str) -> None:
    response = send(thing_endpoint(method, response=None, status=204), Stub(response=b"null"))
    assert (response.status, response.body) == (204, b"")
    assert "content-type" not in response.headers
    assert response.headers["x-request-id"]


def test_endpoint__errors_of_an_empty_response_have_a_body() -> None:
    response = send(thing_endpoint("DELETE", response=None, status=204), Stub(response=ApiError(404, "gone", "Gone.")))
    assert (response.status, members(response)["code"]) == (404, "gone")


# Published APIs: unsupported fields are rejected, never ignored


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


PUBLISHED = Endpoint("f.f.p", "POST", rpc="do_it", request=Published, response=Done)


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
def test_strict_request__accepts_only_fields_are_not_sent(request_: dict[str, Any]) -> None:
    stub = Stub()
    assert ask_published(stub, name="x", **request_).status == 200
    assert stub.steps[-1][2] == {"name": "x"}


def test_strict_request__alias() -> None:
    stub = Stub()
    assert ask_published(stub, name="x", **{"else": 1}).status == 200
    assert stub.steps[-1][2] == {"name": "x", "else": 1}
    assert members(ask_published(stub, name="x", renamed=1))["fields"] == ["renamed"]


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        ({"flag": True}, ["flag"]),
        ({"number": 1}, ["number"]),
        ({"number": False}, None),  # a bool, although Python counts it as a number
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
def test_strict_request__unsupported_fields_are_all_named(request_: dict[str, Any], fields: list[str] | None) -> None:
    stub = Stub()
    response = ask_published(stub, name="x", **request_)
    assert [step[0] for step in stub.steps] == ["authenticate"]
    if fields is None:
        assert (response.status, members(response)["code"]) == (400, "invalid_field")
        return
    assert (response.status, members(response)["code"]) == (422, "unsupported_field")
    assert members(response)["fields"] == fields
    assert all(field in members(response)["error"] for field in fields)


def test_strict_request__invalid_fields_come_first() -> None:
    response = ask_published(Stub(), flag=True)
    assert (response.status, members(response)["field"]) == (400, "name")


def test_strict_request__many_unknown_fields_are_cut() -> None:
    response = ask_published(Stub(), name="x", **{f"{n}{'y' * 1000}": n for n in range(200)})
    assert response.status == 422
    assert (len(members(response)["fields"]), len(response.body) < 25_000) == (100, True)


# Endpoints with more than one RPC


def test_respond__makes_the_body_from_several_rpcs() -> None:
    stub = Stub(response=b'{"n": 1}')

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
def test_respond__its_api_error_is_the_response(calls: int) -> None:
    def reject(arguments: dict[str, Any], context: RpcContext) -> bytes:
        for _ in range(calls):
            context.call_main(arguments)
        raise ApiError(400, "not_now", "Not now.")

    stub = Stub()
    endpoint = dataclasses.replace(POST, respond=reject)
    response = endpoint.handle(Request("POST", endpoint.path, body=b'{"name": "x"}'), stub.services)
    assert (response.status, members(response)["code"]) == (400, "not_now")
    assert [step[0] for step in stub.steps] == ["authenticate", *["call"] * calls]


def test_respond__not_called_for_a_rejected_request() -> None:
    def never(*_: Any) -> bytes:
        raise AssertionError

    endpoint = dataclasses.replace(POST, respond=never)
    for stub, body in ((Stub(caller=Unauthorized("invalid_token")), b"{}"), (Stub(), b"{"), (Stub(), b"{}")):
        assert endpoint.handle(Request("POST", endpoint.path, body=body), stub.services).status in {400, 401}


# Idempotency-Key


@pytest.mark.parametrize(("method", "idempotent"), [("GET", None), ("DELETE", None), ("POST", False)])
def test_idempotency_key__not_accepted_is_ignored(method: str, idempotent: bool | None) -> None:
    stub = Stub()
    endpoint = thing_endpoint(method, idempotent=idempotent)
    assert not endpoint.accepts_idempotency_key
    for key in ("k", "", "\x01"):
        assert send(endpoint, stub, request_id="r", headers={"idempotency-key": key}).status == 200
        assert stub.steps[-1][4] == {"x-request-id": "r"}


def test_idempotency_key__accepted_by_an_idempotent_delete() -> None:
    stub = Stub()
    assert send(thing_endpoint("DELETE", idempotent=True), stub, headers={"idempotency-key": "k"}).status == 200
    assert stub.steps[-1][4]["idempotency-key"] == "k"


# Error formats and API keys

VERSION = "x-polytomic-version"
KEY = f"sync_{'0123456789abcdef' * 4}"
VERSIONED = thing_endpoint("POST", error_format=POLYTOMIC)


def send_versioned(stub: Stub, **parts: Any) -> Response:
    return send(VERSIONED, stub, **parts)


RESPONSES: dict[str, tuple[Callable[..., Response], int]] = {
    "success": (lambda **parts: send_versioned(Stub(), **parts), 200),
    "no token": (lambda **parts: send_versioned(Stub(caller=Unauthorized("missing_token")), **parts), 401),
    "no path": (lambda **parts: send(VERSIONED, Stub(), "/api/things/x/parts/y", **parts), 404),
    "wrong": (lambda **parts: send_versioned(Stub(), body=b"{", **parts), 400),
    "rejected": (
        lambda **parts: send_versioned(Stub(response=ApiError(409, "c", "S.", {"job_id": "j"})), **parts),
        409,
    ),
    "broken": (lambda **parts: send_versioned(Stub(response=RuntimeError()), **parts), 500),
    "away": (lambda **parts: send_versioned(Stub(response=database_unavailable()), **parts), 503),
    "method": (lambda **parts: VERSIONED.handle(Request("GET", VERSIONED.path, **parts), Stub().services), 405),
    "preflight": (lambda **parts: VERSIONED.handle(Request("OPTIONS", VERSIONED.path, **parts), Stub().services), 204),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_version_header__in_every_response(name: str) -> None:
    make, status = RESPONSES[name]
    newest, *older = POLYTOMIC.versions
    for requested, served in (
        (None, newest),
        *((v, v) for v in older),
        ("1999-01-01", newest),
        ("", newest),
        ("x\ny", newest),
    ):
        response = make(headers={} if requested is None else {VERSION: requested})
        assert (response.status, response.headers[VERSION]) == (status, served)


@pytest.mark.parametrize("name", RESPONSES)
def test_error_format__polytomic(name: str) -> None:
    make, status = RESPONSES[name]
    response = make(request_id="r")
    if status < 400:
        return
    body = members(response)
    # Old clients expect a string in a 401's `status`, new ones a number. So there is none.
    assert set(body) == {"key", "message", "error", "code", "metadata", "requestId", *(["status"] * (status != 401))}
    assert (body["code"], body.get("status", status), body["requestId"]) == (status, status, "r")
    assert body["message"] == body["error"]
    assert body["metadata"] == (
        {"job_id": "j"} if name == "rejected" else {"field": "x"} if "field" in body["metadata"] else {}
    )
    assert not [*violations(body, POLYTOMIC.schema, {})]


def test_error_format__plain_has_no_version() -> None:
    assert VERSION not in Stub().send(headers={VERSION: "2025-09-18"}).headers
    assert PLAIN.version_header is None
    assert not [*violations(members(Stub().send(body=b"{")), PLAIN.schema, {})]


def test_api_key__goes_to_the_database_unchecked() -> None:
    stub = Stub()
    assert send_versioned(stub, headers={"authorization": f"Bearer {KEY}"}, request_id="r").status == 200
    caller = Caller(None, {"role": "anon"}, agency_key=KEY)
    assert stub.steps == [("call", "do_it", {"thing_id": ID, "part_id": OTHER}, caller, {"x-request-id": "r"})]


def test_api_key__is_a_token_where_keys_are_not_accepted() -> None:
    stub = Stub(caller=Unauthorized("invalid_token"))
    response = send(thing_endpoint("POST"), stub, headers={"authorization": f"Bearer {KEY}"})
    assert response.status == 401
    assert stub.steps == [("authenticate", f"Bearer {KEY}")]


def test_api_key__tokens_still_go_to_the_authenticator() -> None:
    stub = Stub()
    assert send_versioned(stub, headers={"authorization": "Bearer a.b.c"}).status == 200
    assert [step[0] for step in stub.steps] == ["authenticate", "call"]
    assert stub.steps[-1][3] is CALLER


@pytest.mark.parametrize("result", [RuntimeError(), database_unavailable(), ApiError(400, "c", "S.")], ids=repr)
def test_api_key__in_no_response_and_no_log(result: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        response = send_versioned(Stub(response=result), headers={"authorization": f"Bearer {KEY}"})
    assert KEY not in response.body.decode() + str(response.headers)
    for record in caplog.records:
        assert KEY not in JsonFormatter().format(record) + str(vars(record))


# Over HTTP

METHODS_BY_PATH: dict[str, list[str]] = {}
for one in registry.endpoints():
    METHODS_BY_PATH.setdefault(one.path, []).append(one.method)


@pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)
@pytest.mark.parametrize("path", METHODS_BY_PATH)
def test_methods__every_other_method_is_405(project: Project, path: str) -> None:
    """`Allow` lists the methods of all endpoints with this path."""
    token = project.token(project.database.member())
    with project.unchanged():
        for method in METHODS:
            if method.upper() in METHODS_BY_PATH[path]:
                continue
            response = project.request(method, re.sub(r"\{\w+\}", ID, path), token, content=b"{")
            assert response.status_code == 405
            assert response.headers["allow"] == ", ".join([*METHODS_BY_PATH[path], "OPTIONS"])
            if method != "HEAD":
                expect_error(response, 405, "method_not_allowed")


@pytest.mark.parametrize("project", BOTH_TRANSPORTS[:1], indirect=True, ids=str)
@pytest.mark.parametrize("path", METHODS_BY_PATH)
def test_methods__preflight_allows_all_of_the_path(project: Project, path: str) -> None:
    response = project.request("OPTIONS", re.sub(r"\{\w+\}", ID, path), headers={"origin": "http://x"})
    assert response.status_code == 204
    assert response.headers["access-control-allow-methods"] == ", ".join([*METHODS_BY_PATH[path], "OPTIONS"])
    versioned = any(one.error_format.version_header for one in registry.endpoints() if one.path == path)
    assert (VERSION in response.headers) == versioned
    assert {VERSION, "idempotency-key"} <= set(response.headers["access-control-allow-headers"].split(", "))
    assert VERSION in response.headers["access-control-expose-headers"]


@pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)
def test_endpoint__204_is_empty_over_http(project: Project) -> None:
    user = project.database.member()
    sync_id = project.database.bulk_sync(user)
    response = project.request("DELETE", f"/api/bulk/syncs/{sync_id}", project.token(user))
    assert (response.status_code, response.content) == (204, b"")
    assert {"content-type", "content-length"}.isdisjoint(response.headers)


@pytest.mark.parametrize("project", BOTH_TRANSPORTS[:1], indirect=True, ids=str)
@pytest.mark.parametrize("path", ["//api//connections/", "/api/connections//"])
def test_paths__extra_slashes_in_published_paths(project: Project, path: str) -> None:
    response = project.request("GET", path, project.token(project.database.member()))
    assert response.json()["data"] == []


@pytest.mark.parametrize("project", BOTH_TRANSPORTS[:1], indirect=True, ids=str)
@pytest.mark.parametrize("path", ["/get-historical-sync/", "//get-historical-sync", "///get-historical-sync//"])
def test_paths__extra_slashes(project: Project, path: str) -> None:
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
def test_paths__unknown_paths_are_404(project: Project, path: str) -> None:
    for method in ("GET", "POST"):
        expect_error(project.request(method, path, content=b"{}"), 404, "no_such_function")
