"""What the local server must not pass on, and not trip over."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from functions._local.web_server import WebServer
from tests.chaos.wire import statuses

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment


def test_a_request_with_two_lengths_is_refused_and_what_follows_it_is_none() -> None:
    asked: list[str] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        asked.append(environ["PATH_INFO"])
        start_response("200 OK", [("content-length", "0")])
        return []

    inner = b"POST /second HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
    head = b"POST /first HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    with closing(WebServer(application)) as server:
        assert statuses(server.url, head % (len(inner) + 5) + inner) == [400]
        assert asked == []
        assert statuses(server.url, inner) == [200]


@pytest.mark.parametrize("line", [b"GET http://[/ HTTP/1.1", b"GET\x00/ HTTP/1.1", b"/ HTTP/1.1"])
def test_an_address_that_is_none_is_refused(line: bytes) -> None:
    def application(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("content-length", "0")])
        return []

    with closing(WebServer(application)) as server:
        assert statuses(server.url, line + b"\r\nhost: x\r\n\r\n") == [400]
