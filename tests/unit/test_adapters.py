"""lambda_adapter.py and wsgi_adapter.py: Lambda events (payload 2.0) and WSGI environments give the same requests."""

from __future__ import annotations

import base64
import io
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from functions._local.web_server import WebServer
from functions._shared import registry
from functions._shared.http import Request, Response
from functions._shared.lambda_adapter import adapt
from functions._shared.wsgi_adapter import wsgi
from tests.support.lambda_events import BODY, FUNCTION_URL, HTTP_API, ID
from tests.support.stub import Stub

if TYPE_CHECKING:
    from collections.abc import Iterator


class Recorder:
    """A handler that records its request."""

    def __init__(self, response: Response | None = None) -> None:
        self.response = response or Response(200, b'{"ok": true}', {"content-type": "application/json"})
        self.request = Request("", "")

    def __call__(self, request: Request) -> Response:
        self.request = request
        return self.response


def event(of: dict[str, Any] = HTTP_API, /, **changes: Any) -> tuple[Request, dict[str, Any]]:
    """The request that the handler received, and the result for AWS."""
    seen = Recorder()
    result = adapt(seen, object)({**of, **changes}, object())
    json.dumps(result)  # as Lambda does
    return seen.request, result


def test_lambda_adapter__http_api_event() -> None:
    request, result = event()
    assert (request.method, request.path, request.query) == ("POST", "/cancel-historical-sync", {})
    assert request.body == BODY.encode()
    assert request.headers["authorization"] == "Bearer a.b.c"
    assert request.headers["content-type"] == "application/json"
    assert request.request_id == "req-1"
    assert "t0p" not in str(request)  # cookies are no credentials here
    assert result == {"statusCode": 200, "headers": {"content-type": "application/json"}, "body": '{"ok": true}'}


def test_lambda_adapter__function_url_event() -> None:
    request, _ = event(FUNCTION_URL)
    assert (request.method, request.path) == ("GET", "/get-historical-sync")
    assert request.query == {"job_id": ID, "x": "é"}
    assert request.body == b""
    assert len(request.request_id) == 36


@pytest.mark.parametrize("content", [b"", BODY.encode(), b"\xff\xfe\0", "日本 🛑".encode()])
def test_lambda_adapter__base64_body(content: bytes) -> None:
    request, _ = event(body=base64.b64encode(content).decode(), isBase64Encoded=True)
    assert request.body == content


@pytest.mark.parametrize("body", ["", "{}", "日本 🛑", "eyJ9"])
def test_lambda_adapter__plain_body(body: str) -> None:
    assert event(body=body)[0].body == body.encode()


def test_lambda_adapter__lone_surrogate_in_the_body() -> None:
    assert isinstance(event(body='{"reason": "\ud800"}')[0].body, bytes)


@pytest.mark.parametrize("missing", ["body", "headers", "rawQueryString", "isBase64Encoded", "cookies", "routeKey"])
def test_lambda_adapter__missing_members(missing: str) -> None:
    seen = Recorder()
    adapt(seen, object)({name: value for name, value in HTTP_API.items() if name != missing}, None)
    assert seen.request.method == "POST"
    adapt(seen, object)({**HTTP_API, missing: None}, None)
    assert seen.request.method == "POST"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {}),
        ("a", {"a": ""}),
        ("a=", {"a": ""}),
        ("a=1&a=2", {"a": "2"}),
        ("a=%20+b", {"a": "  b"}),
        ("a=%FF", {"a": "\ufffd"}),
        ("%zz=%", {"%zz": "%"}),
        ("&&=&", {"": ""}),
        ("a=1;b=2", {"a": "1;b=2"}),
        ("a[]=1", {"a[]": "1"}),
    ],
)
def test_adapters__query_strings(query: str, expected: dict[str, str]) -> None:
    assert event(rawQueryString=query)[0].query == expected
    assert environ(QUERY_STRING=query)[0].query == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/functions/v1/a", "/a"),
        ("/a", "/a"),
        ("/functions/v1/a/", "/a"),
        ("//functions//v1///a//b/", "/a/b"),
        ("/functions/v1", ""),
        ("/functions/v1/functions/v1/a", "/functions/v1/a"),
        ("/", "/"),
        ("", "/"),
    ],
)
def test_adapters__paths(path: str, expected: str) -> None:
    assert event(rawPath=path)[0].path == expected
    assert environ(PATH_INFO=path)[0].path == expected


@pytest.mark.parametrize(
    "given", ["a\r\nset-cookie: x=1", "a\n", "\na", "x" * 101, "", " a", "a b", "é", "a;b", '"', "<script>", "\0"]
)
def test_adapters__malicious_request_id_is_replaced(given: str) -> None:
    request, _ = event(headers={"x-request-id": given})
    assert request.request_id != given
    assert len(request.request_id) == 36


@pytest.mark.parametrize("method", ["POST", "OPTIONS", "DELETE"])
def test_lambda_adapter__with_the_real_registry(method: str) -> None:
    stub = Stub(response=f'{{"job_id": "{ID}", "status": "cancelled"}}'.encode())
    changed = {**HTTP_API, "requestContext": {"http": {"method": method}}}
    result = adapt(lambda request: registry.handle(request, stub.services), object)(changed, None)
    assert result["statusCode"] == {"POST": 200, "OPTIONS": 204, "DELETE": 405}[method]
    assert result["headers"]["access-control-allow-origin"] == "*"
    assert result["headers"]["x-request-id"] == "req-1"
    assert all(isinstance(value, str) for value in result["headers"].values())
    assert (result["body"] == "") == (method == "OPTIONS")


# WSGI


def environ(response: Response | None = None, /, body: bytes = b"", **changes: Any) -> tuple[Request, list[Any]]:
    """The request that the handler received, and [status, headers, body] as the server received them."""
    seen = Recorder(response)
    server_result: list[Any] = []
    environment = {"REQUEST_METHOD": "GET", "PATH_INFO": "/a", "wsgi.input": io.BytesIO(body), **changes}
    content = wsgi(seen)(environment, lambda status, headers: server_result.extend((status, dict(headers))))
    return seen.request, [*server_result, b"".join(content)]


def test_wsgi_adapter__request_and_response() -> None:
    request, server_result = environ(
        body=b"{}x", REQUEST_METHOD="POST", CONTENT_LENGTH="2", HTTP_AUTHORIZATION="Bearer t", HTTP_X_REQUEST_ID="r"
    )
    assert (request.method, request.path, request.body, request.request_id) == ("POST", "/a", b"{}", "r")
    assert request.headers["authorization"] == "Bearer t"
    assert server_result == ["200 OK", {"content-type": "application/json", "content-length": "12"}, b'{"ok": true}']


@pytest.mark.parametrize("length", [None, "", "0"])
def test_wsgi_adapter__no_content_length_reads_no_body(length: str | None) -> None:
    request, _ = environ(body=b"{}", **({} if length is None else {"CONTENT_LENGTH": length}))
    assert request.body == b""


def test_wsgi_adapter__path_in_another_script() -> None:
    assert environ(PATH_INFO="/日本".encode().decode("latin-1"))[0].path == "/日本"
    assert environ(PATH_INFO="/\xff\xfe")[0].path == "/\ufffd\ufffd"


def test_wsgi_adapter__204_has_no_content_length() -> None:
    assert environ(Response(204))[1] == ["204 No Content", {}, b""]


def test_wsgi_adapter__head_has_length_but_no_body() -> None:
    _, server_result = environ(Response(405, b"{}"), REQUEST_METHOD="HEAD")
    assert server_result == ["405 Method Not Allowed", {"content-length": "2"}, b""]


# Through a real server


@pytest.fixture
def server() -> Iterator[tuple[Recorder, WebServer]]:
    seen = Recorder()
    web = WebServer(wsgi(seen))
    yield seen, web
    web.close()


def raw(server: WebServer, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_web_server__chunked_body(server: tuple[Recorder, WebServer]) -> None:
    seen, web = server
    head = b"POST /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    assert raw(web, head + b'3\r\n{"a\r\n4\r\n":1}\r\n0\r\n\r\n').startswith(b"HTTP/1.1 200 OK\r\n")
    assert seen.request.body == b'{"a":1}'


def test_web_server__post_without_a_length(server: tuple[Recorder, WebServer]) -> None:
    seen, web = server
    assert raw(web, b"POST /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
    assert seen.request.body == b""


@pytest.mark.parametrize(
    ("path", "expected"), [(b"/%E6%97%A5", "/日"), (b"/%FF", "/\ufffd"), (b"/%00", "/\0"), (b"/a%2Fb", "/a/b")]
)
def test_web_server__percent_encoded_paths(server: tuple[Recorder, WebServer], path: bytes, expected: str) -> None:
    seen, web = server
    raw(web, b"GET " + path + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert seen.request.path == expected


def test_web_server__header_bytes(server: tuple[Recorder, WebServer]) -> None:
    seen, web = server
    raw(web, b"GET / HTTP/1.1\r\nhost: x\r\nX-ReQuest-ID: r\xe9\r\nAUTHORIZATION: a\r\nconnection: close\r\n\r\n")
    assert seen.request.headers["authorization"] == "a"
    assert seen.request.request_id.isascii()


def test_web_server__204_ends_without_a_body(server: tuple[Recorder, WebServer]) -> None:
    seen, web = server
    seen.response = Response(204, headers={"x-a": "b"})
    raw_response = raw(web, b"OPTIONS / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert raw_response.startswith(b"HTTP/1.1 204 No Content\r\n")
    assert raw_response.endswith(b"\r\n\r\n")
    assert b"content-length" not in raw_response.lower()
    assert b"transfer-encoding" not in raw_response.lower()
