"""functions/_shared/pool.py against servers that answer, that answer badly, and that do not."""

from __future__ import annotations

import socket
import threading
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from functions._local.web_server import WebServer
from functions._shared import pool
from functions._shared.pool import KEEP_SECONDS, Answer, Pool, Unreachable
from tests.support.tls_server import TlsServer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from wsgiref.types import StartResponse, WSGIEnvironment


@pytest.fixture
def client() -> Iterator[Pool]:
    with closing(Pool(connect_seconds=5, read_seconds=5)) as made:
        yield made


class Echo:
    """Answers what it was sent, and notes from where."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.connections: list[str] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.asked.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ['QUERY_STRING']}")
        self.connections.append(environ["REMOTE_PORT"])
        content = environ["wsgi.input"].read()
        start_response("200 OK", [("content-length", str(len(content)))])
        return [content]


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def url(echo: Echo) -> Iterator[str]:
    with closing(WebServer(echo)) as server:
        yield server.url


def test_one_request_after_the_other_takes_one_connection(client: Pool, echo: Echo, url: str) -> None:
    large = bytes(range(256)) * (1 << 12)
    assert client.request("POST", f"{url}/a/b?c=%20d&e", {"x-id": "1"}, large) == Answer(200, large)
    assert client.request("GET", url, {}) == Answer(200, b"")
    assert client.request("POST", f"{url}/", {}, b"") == Answer(200, b"")
    assert echo.asked == ["POST /a/b?c=%20d&e", "GET /?", "POST /?"]
    assert len(set(echo.connections)) == 1


def test_threads_that_ask_at_once_have_a_connection_each(client: Pool, echo: Echo) -> None:
    together = threading.Barrier(4)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        together.wait(30)
        return echo(environ, start_response)

    answers: list[Answer] = []
    with closing(WebServer(application)) as server:
        threads = [
            threading.Thread(target=lambda: answers.append(client.request("POST", server.url, {}, b"x")))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [Answer(200, b"x")] * 4
    assert len(set(echo.connections)) == 4


@pytest.mark.parametrize(("idle", "connections"), [(KEEP_SECONDS - 1, 1), (KEEP_SECONDS, 2), (-1, 2)])
def test_a_connection_is_kept_for_a_moment(
    client: Pool, echo: Echo, url: str, monkeypatch: pytest.MonkeyPatch, idle: float, connections: int
) -> None:
    client.request("GET", url, {})
    [[(_, used_at)]] = client._idle.values()
    monkeypatch.setattr("functions._shared.idle.time", SimpleNamespace(time=lambda: used_at + idle))
    client.request("GET", url, {})
    assert len(set(echo.connections)) == connections


def test_over_tls_as_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with TlsServer(tmp_path, "localhost") as server:
        secure = f"https://localhost:{server.server_port}/things?page=1"
        with (
            closing(Pool(connect_seconds=5, read_seconds=5)) as stranger,
            pytest.raises(Unreachable, match="CERTIFICATE"),
        ):
            stranger.request("GET", secure, {})
        monkeypatch.setattr(pool, "_tls", lambda: server.trust)
        with closing(Pool(connect_seconds=5, read_seconds=5)) as client:
            server.names.clear()
            assert [client.request("GET", secure, {}).status for _ in range(2)] == [200, 200]
            assert server.names == ["localhost"]
            server.location = "https://elsewhere.example/"
            assert client.request("GET", secure, {}).status == 302
        server.close_each = True
        with closing(Pool(connect_seconds=5, read_seconds=5)) as client:
            server.names.clear()
            assert [client.request("GET", secure, {}).status for _ in range(2)] == [302, 302]
            assert server.names == ["localhost"] * 2


@contextmanager
def saying(*answers: bytes) -> Iterator[str]:
    """A server that reads something, says this and closes; one connection after the other."""

    def serve() -> None:
        for response in answers:
            one, _ = listener.accept()
            with one:
                one.recv(65536)
                one.sendall(response)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join()


@pytest.mark.parametrize(
    "result",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nwho knows",
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhal",
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200 + b"\r\n",
    ],
)
def test_what_is_no_answer_is_none(client: Pool, response: bytes) -> None:
    with saying(response, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok") as at:
        with pytest.raises(Unreachable):
            client.request("POST", at, {}, b"{}")
        assert client.request("POST", at, {}, b"{}") == Answer(200, b"ok")


@pytest.mark.parametrize(
    "result",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\no\x6b\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ],
)
def test_an_answer_may_come_in_many_ways(client: Pool, response: bytes) -> None:
    with saying(response) as at:
        assert client.request("POST", at, {}, b"{}") == Answer(200, b"ok")


def test_who_reads_no_more_may_have_answered(client: Pool) -> None:
    """A gateway refuses a body by its length and closes."""
    with saying(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}") as at:
        assert client.request("POST", at, {}, b"x") == Answer(413, b"{}")


def test_what_is_never_answered_ends() -> None:
    with (
        closing(Pool(connect_seconds=5, read_seconds=0.1)) as client,
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(Unreachable, match="TimeoutError"),
    ):
        client.request("GET", f"http://127.0.0.1:{silent.getsockname()[1]}/", {})


@pytest.mark.parametrize("value", ["a\r\nx-more: 1", "a\r\n folded", "a\nb", "a\0b", "a\x1fb", "a\x7fb", "snow ☃"])
def test_a_header_is_one_line(client: Pool, echo: Echo, url: str, value: str) -> None:
    with pytest.raises(Unreachable):
        client.request("GET", url, {"x-request-id": value})
    assert echo.asked == []


@pytest.mark.parametrize("address", ["http://[/", "http://127.0.0.1:port/", "http:///", "http://a\r\nb/", "/relative"])
def test_an_address_that_is_none_is_not_reached(client: Pool, address: str) -> None:
    with pytest.raises(Unreachable):
        client.request("GET", address, {})


def test_no_proxy_of_the_environment_is_asked(
    client: Pool, echo: Echo, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert client.request("GET", url, {}).is_success
    assert len(echo.asked) == 1
