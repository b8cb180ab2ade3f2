"""HTTP to the servers that functions speak to: a request's bytes out, an answer's status and bytes in.

With the standard library's client: what httpx and httpcore have above it nobody uses here, and they would be a fifth of
a cold start and more than half of the time that a call takes of this process.
"""

from __future__ import annotations

import os
import re
import ssl
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

import certifi

from functions._shared.idle import Idle

if TYPE_CHECKING:
    from collections.abc import Mapping

KEEP_SECONDS = 5.0  # so long an idle connection is kept
_CONTROL = re.compile(r"[^\t\x20-\x7e\x80-\xff]")  # what no header's value may hold; the client lets some of it pass


class Unreachable(Exception):
    """No answer: no connection, no time left, or nothing that is HTTP. Whether the request was heard is unknown."""


@dataclass(frozen=True)
class Answer:
    status: int
    content: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


class Pool:
    """Connections of HTTP/1.1: a function has one call under way at a time. Threads share a pool."""

    def __init__(self, *, connect_seconds: float, read_seconds: float) -> None:
        self._connect_seconds = connect_seconds
        self._read_seconds = read_seconds
        self._idle = defaultdict[tuple[str, str], Idle[HTTPConnection]](partial(Idle, KEEP_SECONDS, _descriptor))

    def request(self, method: str, url: str, headers: Mapping[str, str], content: bytes | None = None) -> Answer:
        """Raises Unreachable. A redirect is an answer like any other."""
        try:
            return self._request(method, urlsplit(url), headers, content)
        except (OSError, HTTPException, ValueError) as error:
            raise Unreachable(f"{type(error).__name__}: {error}") from None

    def _request(self, method: str, url: SplitResult, headers: Mapping[str, str], content: bytes | None) -> Answer:
        if any(map(_CONTROL.search, headers.values())):
            raise ValueError("a header holds a control character")
        idle = self._idle[url.scheme, url.netloc]
        connection = idle.take() or self._connect(url)
        try:
            with suppress(BrokenPipeError):  # who reads no more may have answered
                connection.request(method, url._replace(scheme="", netloc="").geturl(), content, {**headers})
            with connection.getresponse() as response:
                if response.length is None and not response.chunked:  # it may have been cut short, in its head even
                    raise HTTPException("an answer that only the connection's end ends")
                answer = Answer(response.status, response.read())
        except BaseException:  # an answer that nobody read must not be the next caller's
            connection.close()
            raise
        if connection.sock:  # the server did not say that it closes
            idle.keep(connection)
        return answer

    def _connect(self, url: SplitResult) -> HTTPConnection:
        host, seconds = url.hostname or "", self._connect_seconds
        connection = (
            HTTPSConnection(host, url.port, timeout=seconds, context=_tls())
            if url.scheme == "https"
            else HTTPConnection(host, url.port, timeout=seconds)
        )
        connection.connect()
        connection.sock.settimeout(self._read_seconds)
        return connection

    def close(self) -> None:
        """Closes the idle connections; a later request makes new ones."""
        for idle in self._idle.values():
            idle.close()


def _descriptor(connection: HTTPConnection) -> int:
    return int(connection.sock.fileno())


@cache
def _tls() -> ssl.SSLContext:
    """One for all: each takes 20 ms to read the certificates."""
    return ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())
