"""The transport through PostgREST against servers that respond, that respond badly, and that do not."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from functions._local.web_server import WebServer
from functions._shared import http_client
from functions._shared.caller import Caller
from functions._shared.errors import ApiError, database_unavailable
from functions._shared.http_client import make_client
from functions._shared.transports import DatabaseError, postgrest
from functions._shared.transports.postgrest import PostgrestTransport
from tests.support.tls_server import TlsServer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from wsgiref.types import StartResponse, WSGIEnvironment

CALLER = Caller("the.users.token", {})
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Echo:
    """Responds with the body it was sent, and records the requests and their connections."""

    def __init__(self, status: str = "200 OK", headers: Iterable[tuple[str, str]] = ()) -> None:
        self.status = status
        self.headers = [*headers]
        self.requests: list[WSGIEnvironment] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.requests.append(environ)
        content = environ["wsgi.input"].read()
        start_response(self.status, [("content-length", str(len(content))), *self.headers])
        return [content]

    @property
    def connections(self) -> int:
        return len({request["REMOTE_PORT"] for request in self.requests})


@contextmanager
def serving(application: Any) -> Iterator[PostgrestTransport]:
    with closing(WebServer(application)) as server, closing(PostgrestTransport(server.url, "the-key")) as transport:
        yield transport


def call(transport: PostgrestTransport, caller: Caller = CALLER, **headers: str) -> bytes:
    return transport.call("f", {"a": 1}, caller, headers)


def test_postgrest_transport__request() -> None:
    echo = Echo()
    with serving(echo) as transport:
        assert transport.call("f", {"a": [1, "é"], "b": None}, CALLER, {"x-request-id": "r"}) == (
            b'{"a": [1, "\\u00e9"], "b": null}'
        )
        call(transport, Caller(None, {}, agency_key="sync_1"))
    first, second = echo.requests
    assert (first["REQUEST_METHOD"], first["PATH_INFO"], first["QUERY_STRING"]) == ("POST", "/rest/v1/rpc/f", "")
    assert (first["CONTENT_TYPE"], first["HTTP_ACCEPT"]) == ("application/json", "application/json")
    assert (first["HTTP_CONTENT_PROFILE"], first["HTTP_ACCEPT_ENCODING"]) == ("public", "identity")
    assert (first["HTTP_APIKEY"], first["HTTP_AUTHORIZATION"]) == ("the-key", "Bearer the.users.token")
    assert first["HTTP_X_REQUEST_ID"] == "r"
    # Nothing of one caller is in the next one's request.
    assert (second["HTTP_APIKEY"], second["HTTP_X_AGENCY_KEY"]) == ("the-key", "sync_1")
    assert not {"HTTP_AUTHORIZATION", "HTTP_X_REQUEST_ID"} & second.keys()


def test_postgrest_transport__calls_in_turn_share_a_connection() -> None:
    large = "x" * (1 << 20)
    echo = Echo()
    with serving(echo) as transport:
        assert json.loads(transport.call("f", {"a": large}, CALLER)) == {"a": large}
        call(transport)
        assert echo.connections == 1
        transport.close()
        call(transport)
    assert echo.connections == 2


def test_postgrest_transport__threads_have_a_connection_each() -> None:
    together = threading.Barrier(4)
    echo = Echo()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        together.wait(30)
        return echo(environ, start_response)

    with serving(application) as transport:
        threads = [threading.Thread(target=call, args=[transport]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(echo.requests), echo.connections) == (4, 4)


def test_postgrest_transport__idle_connection_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "KEEP_SECONDS", 0.05)
    echo = Echo()
    with serving(echo) as transport:
        call(transport)
        time.sleep(0.1)
        call(transport)
    assert echo.connections == 2


def test_postgrest_transport__keeps_no_cookies() -> None:
    echo = Echo(headers=[("set-cookie", "session=another-callers; Path=/")])
    with serving(echo) as transport:
        call(transport)
        call(transport)
    assert [request.get("HTTP_COOKIE") for request in echo.requests] == [None, None]


@pytest.mark.parametrize("status", ["503 Service Unavailable", "520 Unknown", "307 Temporary Redirect"])
def test_postgrest_transport__neither_repeats_nor_follows(status: str) -> None:
    echo = Echo(status, [("location", "/elsewhere")])
    with serving(echo) as transport, pytest.raises((ApiError, DatabaseError)):
        call(transport)
    assert len(echo.requests) == 1


def test_postgrest_transport__ignores_the_environments_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    echo = Echo()
    with serving(echo) as transport:
        call(transport)
    assert len(echo.requests) == 1


def test_postgrest_transport__logs_no_requests(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), serving(Echo()) as transport:
        call(transport)
    assert caplog.text == ""


def read_request(connection: socket.socket) -> None:
    received = b""
    while not received.endswith(b"}"):  # of the body
        received += connection.recv(65536)


@contextmanager
def responding(*responses: bytes) -> Iterator[PostgrestTransport]:
    """A server that reads something, sends this and closes; one connection after the other."""

    def serve() -> None:
        for response in responses:
            connection, _ = listener.accept()
            with connection:
                read_request(connection)
                connection.sendall(response)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        with closing(PostgrestTransport(f"http://127.0.0.1:{listener.getsockname()[1]}", "k")) as transport:
            yield transport
        thread.join()


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nperhaps cut short",
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhal",
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 200_000 + b"\r\n\r\n",
    ],
    ids=repr,
)
def test_postgrest_transport__malformed_response(response: bytes) -> None:
    with responding(response, OK) as transport:
        with pytest.raises(ApiError) as caught:
            call(transport)
        assert caught.value == database_unavailable()
        assert call(transport) == b"ok"


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n" + OK,
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ],
    ids=repr,
)
def test_postgrest_transport__well_formed_response(response: bytes) -> None:
    with responding(response) as transport:
        assert call(transport) == b"ok"


def test_postgrest_transport__interim_103_leaves_each_caller_its_own_response() -> None:
    """A client that takes 103 for the final response hands the first caller's body to the second."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            for body in (b"first", b"other"):
                read_request(connection)
                connection.sendall(b"HTTP/1.1 103 Early Hints\r\ncontent-length: 0\r\n\r\n")
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n" + body)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        with closing(PostgrestTransport(f"http://127.0.0.1:{listener.getsockname()[1]}", "k")) as transport:
            assert [call(transport), call(transport)] == [b"first", b"other"]
        thread.join()


def test_postgrest_transport__server_that_reads_no_more() -> None:
    """A gateway refuses a body by its length and closes."""
    refusal = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"
    with responding(refusal) as transport, pytest.raises(DatabaseError, match="413"):
        call(transport)


def test_postgrest_transport__no_response_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgrest, "READ_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with closing(PostgrestTransport(url, "k")) as transport, pytest.raises(ApiError) as caught:
            call(transport)
    assert caught.value == database_unavailable()


@pytest.mark.parametrize("value", ["a\r\nx-more: 1", "a\r\n folded", "a\nb", "a\0b", "a\x1fb", "a\x7fb", "snow ☃"])
def test_postgrest_transport__header_of_more_than_one_line(value: str) -> None:
    echo = Echo()
    with serving(echo) as transport, pytest.raises((ApiError, DatabaseError)):
        call(transport, x=value)
    assert echo.requests == []


def test_client__verifies_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with TlsServer(tmp_path, "localhost") as server:
        url = f"https://localhost:{server.server_port}/things?page=1"
        with (
            make_client(url, connect_seconds=5, read_seconds=5) as stranger,
            pytest.raises(Exception, match="CERTIFICATE"),
        ):
            stranger.get(url)
        monkeypatch.setattr(http_client, "tls", lambda: server.trust)
        server.names.clear()
        with make_client(url, connect_seconds=5, read_seconds=5) as client:
            assert [client.get(url).status_code for _ in range(2)] == [200, 200]
        assert server.names == ["localhost"]
