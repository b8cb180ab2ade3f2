"""The server: who may ask, what is asked, and what is answered."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Self

from functions._local.source import paging
from functions._local.source.connection import Credentials, config
from functions._local.source.data import FIRST_DATE, LAST_DATE, RESOURCES
from functions._local.source.documentation import documentation
from functions._local.source.faults import Bucket, Faults
from functions._local.source.refusal import RefusedError
from functions._local.web_server import WebServer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from wsgiref.types import StartResponse, WSGIEnvironment

    from functions._local.source.faults import Fault

LOGGED_REQUESTS: Final = 100_000


@dataclass(frozen=True)
class LoggedRequest:
    """`query` is the query string as sent; `time` is in seconds since the epoch."""

    method: str
    path: str
    query: str
    time: float


class Source:
    """The server: `start` and `close` it, or use it as a context manager.

    `port` 0 takes a free one. `requests_per_second` limits all clients together; None does not. `delay_seconds` is the
    first value of `faults.delay_seconds`. Rows are shared by all Sources of the process and loaded on first request.
    """

    resources: Final = tuple(RESOURCES)  # largest first
    dates: Final = (FIRST_DATE, LAST_DATE)  # of flights

    def __init__(
        self,
        *,
        port: int = 0,
        credentials: Credentials | None = None,
        requests_per_second: float | None = None,
        delay_seconds: float = 0.0,
    ) -> None:
        self.credentials = credentials or Credentials()
        self.faults = Faults(delay_seconds)
        self._bucket = None if requests_per_second is None else Bucket(requests_per_second)
        self._log: deque[LoggedRequest] = deque(maxlen=LOGGED_REQUESTS)
        self._port = port
        self._server: WebServer | None = None
        self._closing = threading.Event()

    def start(self) -> Self:
        """Raises OSError when the port is taken, RuntimeError when already started."""
        if self._server:
            raise RuntimeError("The source is already started.")
        self._closing.clear()
        self._server = WebServer(self._application, self._port)
        return self

    def close(self) -> None:
        """Interrupts delays, ends open connections, and returns when no thread is left; harmless when not started."""
        self._closing.set()
        if self._server:
            self._server.close()
        self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Raises RuntimeError when not started."""
        if not self._server:
            raise RuntimeError("The source is not started.")
        return self._server.url

    @property
    def requests(self) -> list[LoggedRequest]:
        """The latest requests, oldest first."""
        return list(self._log)

    def connection(
        self,
        resources: Sequence[str] | None = None,
        auth: str = "bearer",
        pagination: str = "page_number",
        page_size: int = paging.MAX_PAGE_SIZE,
    ) -> tuple[dict[str, object], dict[str, str]]:
        """A config and a secret for the HTTP connector; every resource unless named.

        `auth` is bearer, api_key, api_key_query or basic; `pagination` page_number, offset, cursor or link_header.
        Any other name, or an unknown resource, raises KeyError.
        """
        described = resources or self.resources
        return config(self.url, described, auth, pagination, page_size), self.credentials.secret(auth)

    def _application(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        method, path, query = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("QUERY_STRING", "")
        self._log.append(LoggedRequest(method, path, query, time.time()))
        try:
            status, headers, body = self._answer(method, path, query, environ)
        except RefusedError as refused:
            headers = [("Content-Type", "application/json"), *refused.headers]
            status, body = refused.status, json.dumps({"error": str(refused)}).encode()
        if not any(name == "Content-Length" for name, _ in headers):
            headers.append(("Content-Length", str(len(body))))
        start_response(f"{status} {HTTPStatus(status).phrase}", headers)
        return [body]

    def _answer(
        self, method: str, path: str, query: str, environ: WSGIEnvironment
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        name, slash, rest = path[1:].partition("/")
        key = rest if slash else None
        if path != "/" and name not in RESOURCES:
            raise RefusedError(404, f"unknown resource; known are {', '.join(RESOURCES)}")
        if key is not None and len(RESOURCES[name].primary_key) > 1:
            raise RefusedError(404, "rows of several key columns cannot be asked for one by one")
        if method != "GET":
            raise RefusedError(405, "only GET is allowed", Allow="GET")
        if not name:
            return 200, [("Content-Type", "text/html; charset=utf-8")], documentation()
        fault = self.faults.take()
        self._hold_back(fault)
        headers = [("Content-Type", "application/json")]
        if fault and fault.kind == "invalid_json":
            return 200, headers, b'{"data": [{"'
        parameters = self._admit(paging.parse(query, name, key), environ)
        body, following = (paging.one(name, key), None) if key is not None else paging.page(name, parameters)
        if following is not None:
            headers.append(("Link", f'<{self.url}/{name}?{following}>; rel="next"'))
        if fault and fault.kind == "truncate":
            headers.append(("Content-Length", str(len(body))))
            body = body[: len(body) // 2]
        return 200, headers, body

    def _hold_back(self, fault: Fault | None) -> None:
        seconds = self.faults.delay_seconds + (fault.seconds if fault else 0.0)
        if seconds and self._closing.wait(seconds):
            raise RefusedError(503, "the source is closing")
        if fault and fault.kind == "status":
            headers = {} if fault.retry_after is None else {"Retry_After": str(fault.retry_after)}
            raise RefusedError(fault.status, "a fault that was asked for", **headers)

    def _admit(self, query: dict[str, str], environ: WSGIEnvironment) -> dict[str, str]:
        in_query = query.pop("api_key", "")
        api_key = environ.get("HTTP_X_API_KEY", in_query)
        if not self.credentials.accepts(environ.get("HTTP_AUTHORIZATION", ""), api_key):
            raise RefusedError(401, "send valid credentials", WWW_Authenticate='Bearer, Basic realm="source"')
        if self._bucket and (seconds := self._bucket.take()):
            raise RefusedError(429, "too many requests", Retry_After=str(math.ceil(seconds)))
        return query
