"""The server of the data API."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Self

from functions._local.source.connection import Credentials, config
from functions._local.source.data import FIRST_DATE, LAST_DATE, RESOURCES
from functions._local.source.errors import HttpError
from functions._local.source.faults import Bucket, Faults
from functions._local.source.paging import MAX_PAGE_SIZE, get_page, get_row, parse_query
from functions._local.web_server import WebServer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from wsgiref.types import StartResponse, WSGIEnvironment

    from functions._local.source.faults import Fault

LOGGED_REQUESTS: Final = 100_000


@dataclass(frozen=True)
class LoggedRequest:
    """`query` is the raw query string, `time` the seconds since the epoch."""

    method: str
    path: str
    query: str
    time: float


class Source:
    """The server. Call `start` and `close`, or use it as a context manager.

    `port` 0 takes a free one. `requests_per_second` limits all clients together. `delay_seconds` is the initial value
    of `faults.delay_seconds`. Rows are loaded with the first request.
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
        """Raises OSError if the port is taken, RuntimeError if it is already started."""
        if self._server:
            raise RuntimeError("The source is already started.")
        self._closing.clear()
        self._server = WebServer(self._application, self._port)
        return self

    def close(self) -> None:
        """Interrupts delays, closes connections, and ends all threads. Does nothing if it is not started."""
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
        """Raises RuntimeError if it is not started."""
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
        page_size: int = MAX_PAGE_SIZE,
    ) -> tuple[dict[str, object], dict[str, str]]:
        """A configuration and a secret for the HTTP connector, of all resources or the named ones.

        `auth`: bearer, api_key, api_key_query or basic. `pagination`: page_number, offset, cursor or link_header.
        Raises KeyError for other names.
        """
        described = resources or self.resources
        return config(self.url, described, auth, pagination, page_size), self.credentials.secret(auth)

    def _application(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        method, path, query = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("QUERY_STRING", "")
        self._log.append(LoggedRequest(method, path, query, time.time()))
        try:
            status, headers, body = self._respond(method, path, query, environ)
        except HttpError as error:
            headers = [("Content-Type", "application/json"), *error.headers]
            status, body = error.status, json.dumps({"error": str(error)}).encode()
        if not any(name == "Content-Length" for name, _ in headers):
            headers.append(("Content-Length", str(len(body))))
        start_response(f"{status} {HTTPStatus(status).phrase}", headers)
        return [body]

    def _respond(
        self, method: str, path: str, query: str, environ: WSGIEnvironment
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        name, slash, rest = path[1:].partition("/")
        key = rest if slash else None
        if path != "/" and name not in RESOURCES:
            raise HttpError(404, f"unknown resource; known are {', '.join(RESOURCES)}")
        if key is not None and len(RESOURCES[name].primary_key) > 1:
            raise HttpError(404, "single rows need a key of one column")
        if method != "GET":
            raise HttpError(405, "only GET is allowed", Allow="GET")
        if not name:
            return 200, [("Content-Type", "application/json")], json.dumps({"resources": self.resources}).encode()
        fault = self.faults.take()
        self._delay(fault)
        headers = [("Content-Type", "application/json")]
        if fault and fault.kind == "invalid_json":
            return 200, headers, b'{"data": [{"'
        parameters = self._authenticate(parse_query(query, name, key), environ)
        body, following = (get_row(name, key), None) if key is not None else get_page(name, parameters)
        if following is not None:
            headers.append(("Link", f'<{self.url}/{name}?{following}>; rel="next"'))
        if fault and fault.kind == "truncate":
            headers.append(("Content-Length", str(len(body))))
            body = body[: len(body) // 2]
        return 200, headers, body

    def _delay(self, fault: Fault | None) -> None:
        seconds = self.faults.delay_seconds + (fault.seconds if fault else 0.0)
        if seconds and self._closing.wait(seconds):
            raise HttpError(503, "the source is closing")
        if fault and fault.kind == "status":
            headers = {} if fault.retry_after is None else {"Retry_After": str(fault.retry_after)}
            raise HttpError(fault.status, "requested fault", **headers)

    def _authenticate(self, query: dict[str, str], environ: WSGIEnvironment) -> dict[str, str]:
        in_query = query.pop("api_key", "")
        api_key = environ.get("HTTP_X_API_KEY", in_query)
        if not self.credentials.accepts(environ.get("HTTP_AUTHORIZATION", ""), api_key):
            raise HttpError(401, "send valid credentials", WWW_Authenticate='Bearer, Basic realm="source"')
        if self._bucket and (seconds := self._bucket.take()):
            raise HttpError(429, "too many requests", Retry_After=str(math.ceil(seconds)))
        return query
