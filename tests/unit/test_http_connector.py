from __future__ import annotations

import asyncio
import json
import logging
import traceback
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest

from functions._connections.errors import SourceError, SourceRefused, SourceUnavailable
from functions._local.source import RESOURCES, Credentials, Source
from functions.worker.connectors.http import Backoff, HttpConnector, Page, Record
from functions.worker.connectors.http.pagination import MAX_EMPTY_PAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from functions._local.postgres import Postgres

    Handler = Callable[[httpx.Request], httpx.Response]

CREDENTIALS = Credentials(token="the-token", api_key="the-key", username="reader", password="the:password")
NO_WAIT = Backoff(attempts=3, base_seconds=0, retry_after_max_seconds=0)
WEEK = (date(2013, 3, 1), date(2013, 3, 7))
STYLES = ["page_number", "offset", "cursor", "link_header"]
AUTHS = ["bearer", "api_key", "api_key_query", "basic"]


class Waits(list[float]):
    """Replaces asyncio.sleep: records the seconds and returns at once."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    with Source(credentials=CREDENTIALS) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_faults_left(source: Source) -> Iterator[None]:
    yield
    source.faults.clear()


def local(connection: tuple[Any, Any], **options: Any) -> HttpConnector:
    """A connector that may read from this machine."""
    return HttpConnector(*connection, **{"allow_private_addresses": True, "backoff": NO_WAIT, **options})


async def read_all(connector: HttpConnector, resource: str, *where: Any) -> list[Page]:
    return [page async for page in connector.pages(resource, *where)]


def read(connection: tuple[Any, Any], resource: str, *where: Any, **options: Any) -> list[Page]:
    async def run() -> list[Page]:
        async with local(connection, **options) as connector:
            return await read_all(connector, resource, *where)

    return asyncio.run(run())


def keys(pages: list[Page]) -> list[str]:
    return [record.key for page in pages for record in page.records]


def mock_config(pagination: Mapping[str, object], **members: object) -> dict[str, Any]:
    resource = {"path": "/things", "primary_key": ["id"], "records": "data", "pagination": dict(pagination)}
    return {
        "base_url": "https://api.example/v1",
        "auth": {"type": "bearer"},
        "resources": {"things": {**resource, **members}},
    }


def read_mock(
    handler: Handler, pagination: Mapping[str, object], position: object = None, **options: Any
) -> list[Page]:
    async def run() -> list[Page]:
        async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
            secret = {"token": "the-token"}
            connector = HttpConnector(mock_config(pagination), secret, client=client, backoff=NO_WAIT, **options)
            return await read_all(connector, "things", None, position)

    return asyncio.run(run())


def things(*ids: int, **members: object) -> httpx.Response:
    return httpx.Response(200, json={"data": [{"id": number} for number in ids], **members})


NO_PAGES = {"type": "none"}
NUMBERS = {"type": "page_number", "param": "page", "size_param": "per_page", "size": 5}
OFFSETS = {"type": "offset", "param": "offset", "size_param": "limit", "size": 5}
CURSORS = {"type": "cursor", "param": "cursor", "next": "meta.next", "size_param": "limit", "size": 2}
LINKS = {"type": "link_header", "size_param": "per_page", "size": 2}


def test_key__too_long__rejected() -> None:
    def longest(length: int) -> list[Page]:
        return read_mock(lambda _: httpx.Response(200, json={"data": [{"id": "x" * length}]}), NO_PAGES)

    assert len(keys(longest(1996))[0]) == 2000
    with pytest.raises(SourceRefused, match="2000 bytes"):
        longest(1997)


@pytest.mark.parametrize("style", STYLES)
def test_pages__resumed_at_any_position__rest_only(source: Source, style: str) -> None:
    connection = source.connection(["weather"], pagination=style, page_size=100)
    whole = read(connection, "weather", WEEK)
    expected = keys(read(source.connection(["weather"]), "weather", WEEK))
    assert len(whole) == 6
    assert keys(whole) == expected
    assert len(set(expected)) == len(expected)
    for index, page in enumerate(whole[:-1]):
        position = json.loads(json.dumps(page.next))
        assert read(connection, "weather", WEEK, position) == whole[index + 1 :]
    assert whole[-1].next is None


@pytest.mark.parametrize("style", STYLES)
def test_pages__resumed_after_a_failure(source: Source, style: str) -> None:
    connection = source.connection(["airports"], pagination=style, page_size=500)
    got: list[Page] = []

    async def until_it_fails() -> None:
        async with local(connection) as connector:
            async for page in connector.pages("airports", None):
                got.append(page)
                source.faults.status(503, times=3)

    with pytest.raises(SourceUnavailable):
        asyncio.run(until_it_fails())
    assert len(got) == 1
    got += read(connection, "airports", None, got[0].next)
    assert keys(got) == keys(read(connection, "airports", None))
    assert len(keys(got)) == RESOURCES["airports"].count


@pytest.mark.parametrize("style", STYLES)
def test_pages__no_rows__one_empty_page(source: Source, style: str) -> None:
    never = (date(2020, 1, 1), date(2020, 1, 2))
    assert read(source.connection(pagination=style), "weather", never) == [Page([], None)]


def test_record__key_and_data(source: Source) -> None:
    config, secret = source.connection(["flights", "weather"])
    page = read((config, secret), "flights", (date(2013, 1, 1), date(2013, 1, 1)))[0]
    record = page.records[0]
    assert record.key == '["2013-01-01T10:00:00Z","AA",1141]'
    assert record.data["dest"] == "MIA"
    assert len(record.data) == 19
    weather = read((config, secret), "weather", WEEK)[0].records[0]
    assert weather.key == '["EWR","2013-03-01T00:00:00Z"]'


def test_window__both_dates_included(source: Source) -> None:
    pages = read(source.connection(), "weather", WEEK)
    days = {str(record.data["time_hour"])[:10] for page in pages for record in page.records}
    assert (min(days), max(days)) == ("2013-03-01", "2013-03-07")


def test_window__no_date_filter__value_error(source: Source) -> None:
    with pytest.raises(ValueError, match="date_filter"):
        read(source.connection(), "airlines", WEEK)


def test_request__static_params_and_headers() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return things(1)

    async def run() -> None:
        config = mock_config(NO_PAGES, params={"expand": "all", "v": 2}) | {"headers": {"X-Team": "data sync"}}
        async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
            await read_all(HttpConnector(config, {"token": "the-token"}, client=client), "things", None)

    asyncio.run(run())
    assert str(seen[0].url) == "https://api.example/v1/things?expand=all&v=2"
    assert seen[0].headers["X-Team"] == "data sync"
    assert seen[0].headers["Authorization"] == "Bearer the-token"


def test_records__body_is_the_list() -> None:
    async def run() -> list[Page]:
        transport = httpx.MockTransport(lambda _: httpx.Response(200, json=[{"id": "é"}]))
        async with httpx.AsyncClient(transport=transport) as client:
            config = mock_config(NO_PAGES, records="") | {"auth": {"type": "none"}}
            return await read_all(HttpConnector(config, {}, client=client), "things", None)

    assert keys(asyncio.run(run())) == ['["é"]']


@pytest.mark.parametrize("auth", AUTHS)
def test_auth__each_type(source: Source, auth: str) -> None:
    pages = read(source.connection(["airlines"], auth=auth), "airlines", None)
    assert len(keys(pages)) == RESOURCES["airlines"].count


@pytest.mark.parametrize("auth", AUTHS)
def test_auth__wrong_credentials__not_retried(source: Source, auth: str) -> None:
    config, secret = source.connection(["airlines"], auth=auth)
    before = len(source.requests)
    with pytest.raises(SourceRefused) as raised:
        read((config, dict.fromkeys(secret, "wrong")), "airlines", None)
    assert raised.value.code == "source_unauthorized"
    assert len(source.requests) == before + 1


@pytest.mark.parametrize("style", STYLES)
def test_auth__key_in_query__not_in_positions(source: Source, style: str) -> None:
    connection = source.connection(["airlines"], auth="api_key_query", pagination=style, page_size=5)
    before = len(source.requests)
    pages = read(connection, "airlines", None)
    assert len(keys(pages)) == RESOURCES["airlines"].count
    assert all("api_key=the-key" in request.query for request in source.requests[before:])
    assert "the-key" not in json.dumps([page.next for page in pages])


def test_auth__key_in_link__not_in_positions() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        target = request.extensions["target"]
        assert target.endswith(b"api_key=the-key")
        headers = {} if b"?page=2" in target else {"Link": '</v1/things?page=2&api_key=the-key>; rel="next"'}
        return httpx.Response(200, json={"data": [{"id": len(target)}]}, headers=headers)

    async def run() -> list[Page]:
        config = mock_config(LINKS) | {"auth": {"type": "api_key", "in": "query", "name": "api_key"}}
        async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
            return await read_all(HttpConnector(config, {"api_key": "the-key"}, client=client), "things", None)

    assert [page.next for page in asyncio.run(run())] == [{"link": "/v1/things?page=2"}, None]


@pytest.mark.parametrize(
    ("queue", "code"),
    [
        (lambda faults, times: faults.status(500, times=times), "source_unavailable"),
        (lambda faults, times: faults.status(503, times=times), "source_unavailable"),
        (lambda faults, times: faults.status(408, times=times), "source_unavailable"),
        (lambda faults, times: faults.status(425, times=times), "source_unavailable"),
        (lambda faults, times: faults.status(429, times=times), "source_rate_limited"),
        (lambda faults, times: faults.truncate(times=times), "source_unavailable"),
    ],
)
def test_retry__passing_and_lasting_faults(source: Source, queue: Callable[[Any, int], None], code: str) -> None:
    connection = source.connection(["airlines"], pagination="cursor")
    before = len(source.requests)
    queue(source.faults, 2)
    assert len(keys(read(connection, "airlines", None))) == RESOURCES["airlines"].count
    assert len(source.requests) == before + 3
    queue(source.faults, 3)
    with pytest.raises(SourceUnavailable) as unavailable:
        read(connection, "airlines", None)
    assert unavailable.value.code == code
    assert len(source.requests) == before + 6


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "source_refused"),
        (401, "source_unauthorized"),
        (403, "source_unauthorized"),
        (404, "source_not_found"),
        (410, "source_not_found"),
        (422, "source_refused"),
    ],
)
def test_retry__other_statuses__not_retried(source: Source, status: int, code: str) -> None:
    before = len(source.requests)
    source.faults.status(status)
    with pytest.raises(SourceRefused) as raised:
        read(source.connection(), "airlines", None)
    assert raised.value.code == code
    assert len(source.requests) == before + 1


def test_retry__invalid_json__not_retried(source: Source) -> None:
    before = len(source.requests)
    source.faults.invalid_json()
    with pytest.raises(SourceRefused) as raised:
        read(source.connection(), "airlines", None)
    assert raised.value.code == "source_malformed"
    assert len(source.requests) == before + 1


def test_source__connection_refused__unavailable(source: Source) -> None:
    with Source() as gone:
        connection = gone.connection(["airlines"])
    waits = Waits()
    with pytest.raises(SourceUnavailable) as unavailable:
        read(connection, "airlines", None, backoff=Backoff(attempts=4, sleep=waits))
    assert unavailable.value.code == "source_unavailable"
    assert len(waits) == 3


def test_timeout__short_and_long_delay() -> None:
    with Source(credentials=CREDENTIALS) as slow:
        config, secret = slow.connection(["airlines"])
        slow.faults.delay(0.02)
        assert len(keys(read((config, secret), "airlines", None))) == RESOURCES["airlines"].count
        slow.faults.delay_seconds = 3600
        with pytest.raises(SourceUnavailable) as unavailable:
            read((config | {"timeout_seconds": 0.5}, secret), "airlines", None)  # enough time for the request
        assert "timeout_seconds" in unavailable.value.message
        assert len(slow.requests) == 4


def test_backoff__random_below_growing_bound(source: Source) -> None:
    waits = Waits()
    source.faults.status(500, times=6)
    with pytest.raises(SourceUnavailable):
        read(source.connection(), "airlines", None, backoff=Backoff(6, 1.0, 5.0, sleep=waits))
    assert len(waits) == 5
    assert all(0 <= wait <= bound for wait, bound in zip(waits, [1, 2, 4, 5, 5], strict=True))
    assert len(set(waits)) == 5


def in_an_hour() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)


@pytest.mark.parametrize(
    ("header", "shortest", "longest"),
    [
        (7, 7, 7),
        (0, 0, 0),
        (99_999, 10_000, 10_000),
        (in_an_hour, 3_000, 3_600),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("Wed, 21 Oct 9999 07:28:00 -0000", 10_000, 10_000),
        ("soon", 0, 0),
        ("9" * 400, 0, 0),
        (-5, 0, 0),
    ],
)
def test_retry_after__up_to_its_limit(source: Source, header: Any, shortest: int, longest: int) -> None:
    waits = Waits()
    source.faults.status(429, retry_after=header() if callable(header) else header)
    backoff = Backoff(base_seconds=0, retry_after_max_seconds=10_000, sleep=waits)
    read(source.connection(pagination="cursor"), "airlines", None, backoff=backoff)
    assert len(waits) == 1
    assert shortest <= waits[0] <= longest


def test_retry_after__in_the_error(source: Source) -> None:
    source.faults.status(503, times=3, retry_after=40)
    with pytest.raises(SourceUnavailable) as unavailable:
        read(source.connection(), "airlines", None)
    assert unavailable.value.retry_after == 40


def test_retry_after__rate_limited_source__read_to_the_end() -> None:
    waits = Waits()

    async def sleep(seconds: float) -> None:
        await waits(seconds)
        await asyncio.sleep(seconds)

    with Source(credentials=CREDENTIALS, requests_per_second=20) as limited:
        connection = limited.connection(["airports"], page_size=50)
        patient = Backoff(attempts=500, base_seconds=0, retry_after_max_seconds=0.01, sleep=sleep)
        pages = read(connection, "airports", None, backoff=patient)
    assert len(set(keys(pages))) == RESOURCES["airports"].count
    assert waits


def test_rate_limit__requests_evenly_spaced(source: Source) -> None:
    config, secret = source.connection(["airlines"], page_size=4)
    waits = Waits()
    backoff = Backoff(sleep=waits)
    read((config | {"requests_per_second": 0.001}, secret), "airlines", None, backoff=backoff)
    # No time passes during a wait, so each wait is a thousand seconds longer than the last.
    assert [round(wait, -3) for wait in waits] == [1000, 2000, 3000]


@pytest.mark.parametrize("pagination", [NUMBERS, OFFSETS])
def test_pagination__server_lowers_the_size(pagination: dict[str, object]) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        query = request.url.params
        start = int(query["offset"]) if "offset" in query else (int(query["page"]) - 1) * 2
        return things(*range(7)[start : start + 2], total=7)

    assert keys(read_mock(handler, pagination)) == [f"[{number}]" for number in range(7)]
    counted = read_mock(handler, {**pagination, "total": "total"})
    assert [len(page.records) for page in counted] == [2, 2, 2, 1]
    for index, page in enumerate(counted[:-1]):
        assert read_mock(handler, {**pagination, "total": "total"}, page.next) == counted[index + 1 :]


def test_pagination__short_page_in_the_middle() -> None:
    pages = {"1": [1, 2], "2": [3], "3": [4, 5]}
    got = read_mock(lambda request: things(*pages.get(request.url.params["page"], [])), {**NUMBERS, "size": 2})
    assert [len(page.records) for page in got] == [2, 1, 2, 0]


def test_pagination__first_page_is_zero() -> None:
    got = read_mock(
        lambda request: things(*{"0": [1], "1": [2]}.get(request.url.params["page"], [])), NUMBERS | {"first": 0}
    )
    assert keys(got) == ["[1]", "[2]"]


@pytest.mark.parametrize("end", [{}, {"meta": {}}, {"meta": {"next": None}}, {"meta": {"next": ""}}, {"meta": None}])
def test_pagination__end_of_a_cursor(end: dict[str, object]) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return things(2, **end) if request.url.params.get("cursor") == "7" else things(1, meta={"next": 7})

    assert keys(read_mock(handler, CURSORS)) == ["[1]", "[2]"]


def linked(target: str, number: int = 1) -> httpx.Response:
    return httpx.Response(200, json={"data": [{"id": number}]}, headers={"Link": f'<{target}>; rel="next"'})


class Counter:
    """Returns a different record to every request, so that only positions can repeat."""

    def __init__(self) -> None:
        self.requests = 0

    def next(self) -> int:
        self.requests += 1
        assert self.requests < 1000
        return self.requests


def same_cursor(counter: Counter, _: httpx.Request) -> httpx.Response:
    return things(counter.next(), meta={"next": "same"})


def two_cursors(counter: Counter, request: httpx.Request) -> httpx.Response:
    return things(counter.next(), meta={"next": "b" if request.url.params.get("cursor") == "a" else "a"})


def link_to_itself(counter: Counter, request: httpx.Request) -> httpx.Response:
    return linked(str(request.url), counter.next())


def page_ignored(counter: Counter, _: httpx.Request) -> httpx.Response:
    counter.next()
    return things(1, 2, 3)


def empty_pages(counter: Counter, _: httpx.Request) -> httpx.Response:
    return things(meta={"next": f"cursor {counter.next()}"})


@pytest.mark.parametrize(
    ("respond", "pagination", "requests"),
    [
        (same_cursor, CURSORS, 2),
        (two_cursors, CURSORS, 3),
        (link_to_itself, LINKS, 2),
        (page_ignored, NUMBERS, 2),
        (page_ignored, OFFSETS, 2),
        (empty_pages, CURSORS, MAX_EMPTY_PAGES + 1),
    ],
)
def test_pagination__endless__rejected(
    respond: Callable[[Counter, httpx.Request], httpx.Response], pagination: dict[str, object], requests: int
) -> None:
    counter = Counter()
    with pytest.raises(SourceRefused, match="without end") as raised:
        read_mock(lambda request: respond(counter, request), pagination)
    assert raised.value.code == "source_malformed"
    assert counter.requests == requests


def test_pagination__cursor_repeats_on_resuming__rejected() -> None:
    counter = Counter()
    with pytest.raises(SourceRefused, match="without end"):
        read_mock(lambda request: same_cursor(counter, request), CURSORS, {"cursor": "same"})
    assert counter.requests == 1


ELSEWHERE = [
    "https://evil.example/v1/things",
    "//evil.example/v1/things",
    "http://api.example/v1/things",
    "https://api.example:8443/v1/things",
    "https://api.example@evil.example/",
]


@pytest.mark.parametrize("target", ELSEWHERE)
def test_link__other_origin__rejected(target: str) -> None:
    seen: list[httpx.URL] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.url)
        return linked(target)

    with pytest.raises(SourceRefused) as raised:
        read_mock(handler, LINKS)
    assert raised.value.code == "source_refused"
    assert [str(url) for url in seen] == ["https://api.example/v1/things?per_page=2"]
    with pytest.raises(SourceRefused):
        read_mock(handler, LINKS, {"link": target})
    assert len(seen) == 1


def test_link__other_pagination__ignored() -> None:
    assert read_mock(lambda _: linked(ELSEWHERE[0]), CURSORS)[0].next is None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect__rejected(status: int) -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.host)
        return httpx.Response(status, headers={"Location": "https://evil.example/"})

    with pytest.raises(SourceRefused, match="Redirects are not followed"):
        read_mock(handler, NO_PAGES)
    assert seen == ["api.example"]


@pytest.mark.parametrize(
    "target",
    [
        "/v1/things?page=2",
        "?page=2",
        "https://api.example/v1/things?page=2",
        "https://API.example:443/v1/things?page=2",
    ],
)
def test_link__same_origin__followed(target: str) -> None:
    got = read_mock(lambda request: things(2) if "page" in request.url.params else linked(target), LINKS)
    assert [page.next for page in got] == [{"link": "/v1/things?page=2"}, None]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"data": {}}',
        b'{"data": [1]}',
        b'{"data": [{}]}',
        b'{"data": [{"id": null}]}',
        b'{"data": [{"id": {}}]}',
        b'{"data": [{"id": NaN}]}',
        b'{"data": [{"id": 1, "x": -Infinity}]}',
        b'{"data": [{"id": 1, "x": 1e999}]}',
        b'{"data": "\xff"}',
        b"[" * 100_000,
    ],
)
def test_body__unexpected_shape__rejected(body: bytes) -> None:
    with pytest.raises(SourceRefused) as raised:
        read_mock(lambda _: httpx.Response(200, content=body), NO_PAGES)
    assert raised.value.code == "source_malformed"


# A surrogate as some encode it in UTF-8, which is not valid.
BARE = "\ud83d".encode("utf-8", "surrogatepass")


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        (rb"a\u0000b", "a�b"),
        (rb"\u0000", "�"),
        (rb"\ud800", "�"),
        (rb"\uDFFF", "�"),
        (rb"\udc00\uD83D", "��"),
        (rb"\ud83d\u0000\ude00", "���"),
        (rb"\ud83d\uDE00\ud83d", "😀�"),
        (BARE, "�"),
        (BARE + "한".encode(), "�한"),
        (rb"\ud83d\ude00", "😀"),
        (rb"\\u0000", r"\u0000"),
        (rb"\\\u0000", "\\�"),
        ("😀한".encode(), "😀한"),
        (rb"\u0001\ufffd", "\x01�"),
    ],
)
def test_body__unstorable_text__replaced(text: bytes, stored: str) -> None:
    body = b'{"data": [{"id": "=", "t=": [{"=": "="}, 1.5, true, null]}], "meta": {"next": "="}}'.replace(b"=", text)
    pages: list[httpx.URL] = []

    def handler(request: httpx.Request) -> httpx.Response:
        pages.append(request.url)
        return httpx.Response(200, content=body) if len(pages) == 1 else things()

    first, last = read_mock(handler, CURSORS)
    assert first.next == {"cursor": stored}
    assert pages[1].params["cursor"] == stored
    data: dict[str, object] = {"id": stored, f"t{stored}": [{stored: stored}, 1.5, True, None]}
    assert first.records == [Record(json.dumps([stored], ensure_ascii=False), data)]
    assert last == Page([], None)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_body__unstorable_text__every_encoding(encoding: str) -> None:
    body = r'{"data": [{"id": "é\u0000"}]}'.encode(encoding)
    assert keys(read_mock(lambda _: httpx.Response(200, content=body), NO_PAGES)) == ['["é�"]']


def test_body__unstorable_text__distinct_keys() -> None:
    body = rb'{"data": [{"id": "a"}, {"id": "a\u0000"}]}'
    assert keys(read_mock(lambda _: httpx.Response(200, content=body), NO_PAGES)) == ['["a"]', '["a�"]']


def test_body__unstorable_text__stored_by_postgres(postgres: Postgres) -> None:
    body = rb'{"data": [{"id": "a\u0000", "\udbff": "\ud83d\ude00 \udc00"}]}'
    [page] = read_mock(lambda _: httpx.Response(200, content=body), NO_PAGES)
    [record] = page.records
    with psycopg.connect(postgres.url()) as connection:
        row = connection.execute("select %s::jsonb, %s", (json.dumps(record.data), record.key)).fetchone()
    assert row == ({"id": "a�", "�": "😀 �"}, '["a�"]')


@pytest.mark.parametrize(
    ("response", "pagination"),
    [
        (things(1, meta={"next": True}), CURSORS),
        (things(1, meta={"next": {}}), CURSORS),
        (things(1), {**NUMBERS, "total": "total"}),
        (things(1, total="9"), {**OFFSETS, "total": "total"}),
        (linked("https://api.example:port/"), LINKS),
        (httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"plain")), NO_PAGES),
    ],
)
def test_pagination__malformed_response__rejected(response: httpx.Response, pagination: dict[str, object]) -> None:
    with pytest.raises(SourceRefused) as raised:
        read_mock(lambda _: response, pagination)
    assert raised.value.code == "source_malformed"


def test_body__too_large__rejected(source: Source) -> None:
    connection = source.connection(["airlines"], pagination="cursor")
    size = len(httpx.get(f"{source.url}/airlines?api_key=the-key&limit=1000", trust_env=False).content)
    assert read(connection, "airlines", None, max_body_bytes=size)
    with pytest.raises(SourceRefused) as raised:
        read(connection, "airlines", None, max_body_bytes=size - 1)
    assert raised.value.code == "source_too_large"


@pytest.mark.parametrize(
    ("pagination", "position"),
    [
        (NUMBERS, {"cursor": "a"}),
        (NUMBERS, {"page": "2", "seen": 5}),
        (NUMBERS, {"page": True, "seen": 5}),
        (OFFSETS, {}),
        (CURSORS, {"offset": 5}),
        (LINKS, {"page": 2, "seen": 5}),
        (LINKS, {}),
    ],
)
def test_position__of_another_style__rejected(pagination: dict[str, object], position: dict[str, object]) -> None:
    with pytest.raises(SourceRefused) as raised:
        read_mock(lambda _: pytest.fail("no request expected"), pagination, position)
    assert raised.value.code == "source_position_invalid"


def test_cancel__slow_request__connector_stays_usable() -> None:
    async def run(slow: Source) -> list[Page]:
        config, secret = slow.connection(["airlines"])
        async with local((config | {"timeout_seconds": 3600}, secret)) as connector:
            task = asyncio.create_task(read_all(connector, "airlines", None))
            while not slow.requests:  # noqa: ASYNC110 - the server only writes its log
                await asyncio.sleep(0.002)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return await read_all(connector, "airlines", None)

    with Source(credentials=CREDENTIALS) as slow:
        slow.faults.delay(3600)
        assert len(keys(asyncio.run(run(slow)))) == RESOURCES["airlines"].count


def test_cancel__wait(source: Source) -> None:
    async def run() -> None:
        waiting = asyncio.Event()

        async def sleep(seconds: float) -> None:
            waiting.set()
            await asyncio.sleep(seconds)

        backoff = Backoff(base_seconds=0, retry_after_max_seconds=3600, sleep=sleep)
        async with local(source.connection(), backoff=backoff) as connector:
            task = asyncio.create_task(read_all(connector, "airlines", None))
            await waiting.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    source.faults.status(503, retry_after=3600)
    asyncio.run(run())


def test_pages__left_early__connector_stays_usable(source: Source) -> None:
    async def run() -> int:
        async with local(source.connection(page_size=5)) as connector:
            async for page in connector.pages("airlines", None):
                first = page
                break
            again = await read_all(connector, "airlines", None)
            assert again[0] == first
            return len(again)

    assert asyncio.run(run()) == 4


def test_pages__share_one_connection(source: Source, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "httpcore.connection")
    read(source.connection(page_size=100), "airports", None)
    assert [record.message.split()[0] for record in caplog.records].count("connect_tcp.started") == 1


def test_close__own_client_only(source: Source) -> None:
    async def run() -> None:
        async with local(source.connection()) as connector:
            pass
        with pytest.raises(RuntimeError, match="closed"):
            await read_all(connector, "airlines", None)
        async with httpx.AsyncClient(trust_env=False) as client:
            async with local(source.connection(), client=client) as borrower:
                await read_all(borrower, "airlines", None)
            assert not client.is_closed

    asyncio.run(run())


def failures(source: Source, auth: str) -> Iterator[SourceError]:
    config, secret = source.connection(["airlines"], auth=auth)
    resource: dict[str, Any] = config["resources"]["airlines"]  # type: ignore[index]
    wrong = {"path": "/trains"}, {"records": "none"}, {"primary_key": ["none"]}, {"params": {"colour": "red"}}
    for change in wrong:
        with pytest.raises(SourceError) as caught:
            read((config | {"resources": {"airlines": resource | change}}, secret), "airlines", None)
        yield caught.value
    for status in (302, 400, 401, 404, 429, 500):
        source.faults.status(status, times=3)
        with pytest.raises(SourceError) as caught:
            read((config, secret), "airlines", None)
        yield caught.value
        source.faults.clear()
    for fault in (source.faults.truncate, source.faults.invalid_json):
        fault(times=3)
        with pytest.raises(SourceError) as caught:
            read((config, secret), "airlines", None)
        yield caught.value
        source.faults.clear()
    with pytest.raises(SourceError) as caught:
        read((config | {"base_url": "http://127.0.0.1:9"}, secret), "airlines", None)
    yield caught.value


@pytest.mark.parametrize("auth", AUTHS)
def test_errors_and_logs__no_secret_query_or_body(source: Source, auth: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "httpx")  # other tests lower it
    _, secret = source.connection(auth=auth)
    errors = list(failures(source, auth))
    text = "\n".join("".join(traceback.format_exception(error)) + error.message for error in errors)
    assert "HTTP Request: GET" in caplog.text
    for value in {*secret.values(), "cmVhZGVyOnRoZTpwYXNzd29yZA"} - {"reader"}:
        assert value not in caplog.text
        assert value not in text
    assert "Endeavor" not in text
    for error in errors:
        assert "per_page" not in error.message
        assert error.message.endswith(".")
        assert error.code.startswith("source_")
        assert str(error) == error.message


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"colour": "red"}, "colour"),
        ({"auth": {"type": "magic"}}, "auth"),
        ({"auth": {"type": "bearer", "token": "hush"}}, "auth.bearer.token"),
        ({"auth": {"type": "api_key", "in": "cookie", "name": "key"}}, "auth.api_key.in"),
        ({"auth": {"type": "api_key", "in": "header", "name": "a b"}}, "auth.api_key.name"),
        ({"base_url": "ftp://api.example"}, "base_url"),
        ({"base_url": "api.example"}, "base_url"),
        ({"base_url": "https://user:hush@api.example"}, "base_url"),
        ({"base_url": "https://api.example?key=hush"}, "base_url"),
        ({"base_url": "http://api.example"}, "base_url"),
        ({"base_url": "http://localhost:8000"}, "base_url"),
        ({"base_url": "http://127.0.0.1"}, "base_url"),
        ({"base_url": "http://[::1]"}, "base_url"),
        ({"base_url": "https://api.example:port"}, "base_url"),
        ({"headers": {"authorization": "hush"}}, "headers"),
        ({"headers": {"X-Team": "a\r\nX-Other: hush"}}, "headers.X-Team"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": "30"}, "timeout_seconds"),
        ({"requests_per_second": 0}, "requests_per_second"),
        ({"resources": {}}, "resources"),
    ],
)
def test_config__invalid__rejected(change: dict[str, Any], place: str) -> None:
    with pytest.raises(SourceRefused) as raised:
        HttpConnector(mock_config(NO_PAGES) | change, {"token": "the-token"})
    assert raised.value.code == "source_config_invalid"
    assert raised.value.message.startswith(f"The config is not valid at {place}")
    assert "hush" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_config__http__loopback_only_if_allowed(host: str) -> None:
    config = mock_config(NO_PAGES) | {"base_url": f"http://{host}:8000"}
    local((config, {"token": "the-token"}))
    with pytest.raises(SourceRefused, match="must begin with https and lead to the internet"):
        HttpConnector(config, {"token": "the-token"})
    for elsewhere in ("http://api.example", "http://10.0.0.1"):
        with pytest.raises(SourceRefused, match="must begin with https, or the credentials could be read"):
            local((config | {"base_url": elsewhere}, {"token": "the-token"}))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"path": "things"}, "path"),
        ({"path": "//evil.example/things"}, "path"),
        ({"path": "/things?all=1"}, "path"),
        ({"path": "https://evil.example/"}, "path"),
        ({"primary_key": []}, "primary_key"),
        ({"window_days": 0}, "window_days"),
        ({"date_filter": {"from": "since"}}, "date_filter.to"),
        ({"pagination": {"type": "magic"}}, "pagination"),
        ({"pagination": NUMBERS | {"size": 0}}, "pagination.page_number.size"),
        ({"pagination": CURSORS | {"total": "total"}}, "pagination.cursor.total"),
    ],
)
def test_config__invalid_resource__rejected(change: dict[str, Any], place: str) -> None:
    with pytest.raises(SourceRefused) as raised:
        HttpConnector(mock_config(**{"pagination": NO_PAGES, **change}), {"token": "the-token"})
    assert raised.value.message.startswith(f"The config is not valid at resources.things.{place}")


@pytest.mark.parametrize(
    ("auth", "secret", "members"),
    [
        ("bearer", {}, "token"),
        ("bearer", {"token": ""}, "token"),
        ("bearer", {"token": "hüsh"}, "token"),
        ("bearer", {"token": "hush\n"}, "token"),
        ("bearer", {"hush": "token"}, "token"),
        ("basic", {"username": "a:hush", "password": "hush"}, "username, password"),
        ("none", {"token": "hush"}, "nothing"),
    ],
)
def test_secret__invalid__rejected_and_not_quoted(auth: str, secret: dict[str, str], members: str) -> None:
    with pytest.raises(SourceRefused) as raised:
        HttpConnector(mock_config(NO_PAGES) | {"auth": {"type": auth}}, secret)
    assert raised.value.code == "source_config_invalid"
    assert f"must hold {members}, " in raised.value.message
    text = "".join(traceback.format_exception(raised.value))
    assert "hush" not in text
    assert "hüsh" not in text


def test_pages__unknown_resource__rejected(source: Source) -> None:
    with pytest.raises(SourceRefused, match='no resource "trains"'):
        read(source.connection(), "trains", None)


def test_resources__from_config(source: Source) -> None:
    connector = local(source.connection())
    assert list(connector.resources) == list(source.resources)
    weather = connector.resources["weather"]
    assert weather.date_filter is not None
    assert (weather.date_filter.first, weather.date_filter.last, weather.window_days) == ("date_from", "date_to", 1)
    assert connector.resources["planes"].date_filter is None


def requested_urls(
    further: Mapping[str, object],
    pagination: Mapping[str, object] = NO_PAGES,
    window: object = None,
    auth: tuple[Any, Any] = ({"type": "none"}, {}),
    **members: Any,
) -> list[httpx.URL]:
    """The URLs that read_all requests with these further parameters."""
    seen: list[httpx.URL] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.url)
        number = len(seen)
        headers = {"Link": '</v1/things?n=2>; rel="next"'} if number == 1 else {}
        more = {"next": "c"} if number == 1 else {}
        rows = [{"id": number}] if number <= 2 else []
        return httpx.Response(200, json={"data": rows, "meta": more, "total": 2}, headers=headers)

    async def run() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
            config = mock_config(pagination, **members) | {"auth": auth[0]}
            await read_all(HttpConnector(config, auth[1], client=client), "things", window, None, further)

    asyncio.run(run())
    return seen


@pytest.mark.parametrize(
    ("value", "query"),
    [
        ("AA", "f=AA"),
        ("", "f="),
        (7, "f=7"),
        (1.5, "f=1.5"),
        (True, "f=true"),
        (False, "f=false"),
        (None, ""),
        ([], ""),
        (["a", None, 2, True], "f=a&f=2&f=true"),
        ("a&per_page=1#x?y=z", "f=a%26per_page%3D1%23x%3Fy%3Dz"),
        ("é 😀+%41", "f=%C3%A9+%F0%9F%98%80%2B%2541"),
        ("\r\nHost: evil\0", "f=%0D%0AHost%3A+evil%00"),
        ("{{args.secret}}", "f=%7B%7Bargs.secret%7D%7D"),
    ],
)
def test_params__encoded(value: object, query: str) -> None:
    [url] = requested_urls({"f": value}, params={"v": 2})
    assert url.query.decode() == "&".join(part for part in ("v=2", query) if part)
    assert url.host == "api.example"
    assert url.path == "/v1/things"


@pytest.mark.parametrize(
    ("pagination", "queries"),
    [
        (NUMBERS | {"total": "total"}, ["f=a&f=b&page=1&per_page=5", "f=a&f=b&page=2&per_page=5"]),
        (OFFSETS | {"total": "total"}, ["f=a&f=b&offset=0&limit=5", "f=a&f=b&offset=1&limit=5"]),
        (CURSORS, ["f=a&f=b&limit=2", "f=a&f=b&limit=2&cursor=c"]),
        (LINKS, ["f=a&f=b&per_page=2", "n=2"]),
    ],
)
def test_params__sent_with_every_page(pagination: dict[str, object], queries: list[str]) -> None:
    assert [url.query.decode() for url in requested_urls({"f": ["a", "b"]}, pagination)] == queries


def test_params__name_encoded() -> None:
    [url] = requested_urls({"a=1&b": "c", "é": "d"})
    assert url.query == b"a%3D1%26b=c&%C3%A9=d"


LONG = pytest.param("hush" * 20_000, id="long")
VAST = pytest.param(10**5000, id="vast")  # more digits than Python writes
KEY_IN_QUERY = {"type": "api_key", "in": "query", "name": "api_key"}, {"api_key": "the-key"}
DATED: dict[str, Any] = {"date_filter": {"from": "since", "to": "until"}}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("v", {"params": {"v": 2}}),
        ("V", {"params": {"v": 2}}),
        ("page", {"pagination": NUMBERS}),
        ("per_page", {"pagination": NUMBERS}),
        ("offset", {"pagination": OFFSETS}),
        ("limit", {"pagination": OFFSETS}),
        ("cursor", {"pagination": CURSORS}),
        ("limit", {"pagination": CURSORS}),
        ("per_page", {"pagination": LINKS}),
        ("api_key", {"auth": KEY_IN_QUERY}),
        ("API_Key", {"auth": KEY_IN_QUERY}),
        ("since", {"window": WEEK, **DATED}),
        ("until", {"window": WEEK, **DATED}),
    ],
)
def test_params__own_parameter__rejected(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(SourceRefused, match=f'parameter "{name}" is the connection') as raised:
        requested_urls({"f": 1, name: "mine"}, **options)
    assert raised.value.code == "source_params_invalid"
    assert "mine" not in raised.value.message
    assert requested_urls({name: None}, **options)


def test_params__dates_without_window() -> None:
    [url] = requested_urls({"since": "2013-01-01"}, **DATED)
    assert url.query == b"since=2013-01-01"


@pytest.mark.parametrize(
    "value",
    [
        {"hush": 1},
        [["hush"]],
        [{"hush": 1}],
        b"hush",
        float("nan"),
        "hush\ud800",
        VAST,
        LONG,
        "é" * 6000,
    ],
)
def test_params__invalid_value__rejected(value: object) -> None:
    with pytest.raises(SourceRefused) as raised:
        requested_urls({"f": value})
    assert raised.value.code == "source_params_invalid"
    text = "".join(traceback.format_exception(raised.value))
    assert "hush" not in text
    with pytest.raises(SourceRefused):
        requested_urls({"\ud800" + "x" * 40_000: "a"})


def get_record(
    key: object,
    response: object = None,
    config: Mapping[str, Any] | None = None,
    params: Mapping[str, object] | None = None,
) -> tuple[Page, httpx.URL]:
    seen: list[httpx.URL] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.url)
        return httpx.Response(200, content=json.dumps({"id": 1, "name": "a"} if response is None else response))

    async def run() -> Page:
        async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
            connector = HttpConnector(config or mock_config(NO_PAGES), {"token": "the-token"}, client=client)
            return await connector.get_record("things", key, params)

    page = asyncio.run(run())
    [url] = seen
    return page, url


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("AA", b"AA"),
        (7, b"7"),
        (-7, b"-7"),
        ("...", b"..."),
        (".a", b".a"),
        ("a..b", b"a..b"),
        ("a/b", b"a%2Fb"),
        ("a?b=c", b"a%3Fb%3Dc"),
        ("a#b", b"a%23b"),
        ("a\\b", b"a%5Cb"),
        ("a;b&c", b"a%3Bb%26c"),
        ("%2e%2e", b"%252e%252e"),
        ("..%2f", b"..%252f"),
        ("a b+é😀", b"a%20b%2B%C3%A9%F0%9F%98%80"),
        ("//evil.example", b"%2F%2Fevil.example"),
        ("https://evil.example/", b"https%3A%2F%2Fevil.example%2F"),
        ("@evil.example:8443", b"%40evil.example%3A8443"),
        ("{{args.secret}}", b"%7B%7Bargs.secret%7D%7D"),
    ],
)
def test_get_record__key_is_one_path_segment(key: object, path: bytes) -> None:
    page, url = get_record(key)
    assert url.raw_path == b"/v1/things/" + path
    assert (url.scheme, url.host) == ("https", "api.example")
    assert page == Page([Record("[1]", {"id": 1, "name": "a"})], None)
    assert page.size == len('{"id": 1, "name": "a"}')


@pytest.mark.parametrize(
    "key",
    [
        *("", ".", "..", "../x", "x/..", "a/../b", "/..", "..\\x", "a\\.\\b", "./x", "/.", "..\n"),
        *("a\0", "a\r\nHost: evil", "\x7f", "a\ud800", LONG),
        *(None, True, 1.5, [], ["AA"], {"id": 1}, b"AA", VAST),
    ],
)
def test_get_record__unsafe_key__rejected(key: object) -> None:
    with pytest.raises(SourceRefused) as raised:
        get_record(key)
    assert raised.value.code == "source_params_invalid"


def test_get_record__parameters() -> None:
    config = mock_config(NUMBERS, params={"v": 2}, path="/things/")
    _, url = get_record("a", config=config, params={"expand": ["x", "y"]})
    assert url.raw_path == b"/v1/things/a?v=2&expand=x&expand=y"
    for name in ("v", "page"):
        with pytest.raises(SourceRefused, match=f'parameter "{name}"'):
            get_record("a", config=config, params={name: 1})


@pytest.mark.parametrize(
    ("records", "response"),
    [
        ("data", {"data": {"id": 1}, "total": 1}),
        ("data.item", {"data": {"item": {"id": 1}}}),
        ("", {"id": 1}),
        ("data", {"id": 1}),
        ("data", {"id": 1, "data": "text"}),
        ("data", {"id": 1, "data": [{"id": 2}]}),
        ("data.item", {"id": 1, "data": {}}),
    ],
)
def test_get_record__nested_or_whole_response(records: str, response: dict[str, object]) -> None:
    page, _ = get_record("a", response, mock_config(NO_PAGES, records=records))
    assert keys([page]) == ["[1]"]


@pytest.mark.parametrize("response", [[], [{"id": 1}], "text", 7, {}, {"data": {}}, {"data": [{"id": 1}]}])
def test_get_record__not_a_record__rejected(response: object) -> None:
    with pytest.raises(SourceRefused) as raised:
        get_record("a", response)
    assert raised.value.code == "source_malformed"


def test_get_record__retried_and_storable(source: Source) -> None:
    source.faults.status(503, times=2)
    source.faults.status(404)

    async def run() -> None:
        async with local(source.connection()) as connector:
            await connector.get_record("airlines", "AA")

    with pytest.raises(SourceRefused) as raised:
        asyncio.run(run())
    assert raised.value.code == "source_not_found"
    page, _ = get_record("a", {"id": "\0", "x": "\ud800"})
    assert page.records == [Record('["�"]', {"id": "�", "x": "�"})]
