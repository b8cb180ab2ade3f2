"""HTTP to the servers that functions speak to: a request's bytes out, an answer's status and bytes in.

Straight to httpcore: what httpx has above it (models of requests, cookies, redirects, proxies) nobody uses here, and it
would be a fifth of a cold start and half of the time that a call takes of this process.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import certifi
import httpcore

if TYPE_CHECKING:
    from collections.abc import Mapping

KEEP_SECONDS = 5.0  # so long an idle connection is kept


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
    """Connections of HTTP/1.1: before one is used again, whether the server has closed it is looked at.

    With HTTP/2 it is not, and a function has one call under way at a time. Threads share a pool.
    """

    def __init__(self, *, connect_seconds: float, read_seconds: float) -> None:
        self._pool = httpcore.ConnectionPool(_tls(), keepalive_expiry=KEEP_SECONDS)
        waits = {"connect": connect_seconds, "read": read_seconds, "write": read_seconds, "pool": read_seconds}
        self._extensions = {"timeout": waits}

    def request(self, method: str, url: str, headers: Mapping[str, str], content: bytes | None = None) -> Answer:
        """Raises Unreachable. A redirect is an answer like any other."""
        try:
            response = self._pool.request(
                method, url, headers=[*headers.items()], content=content, extensions=self._extensions
            )
        except _TROUBLE as error:
            raise Unreachable(f"{type(error).__name__}: {error}") from None
        return Answer(response.status, response.content)

    def close(self) -> None:
        """Closes the connections; a later request makes new ones."""
        self._pool.close()


_TROUBLE = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, httpcore.UnsupportedProtocol)


@cache
def _tls() -> ssl.SSLContext:
    """One for all: each takes 20 ms to read the certificates."""
    return ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())
