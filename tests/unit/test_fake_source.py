from __future__ import annotations

import asyncio
import json
import socket
import threading
from array import array
from datetime import date
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest

from functions._connections.errors import SourceRefused
from functions._local.source import RESOURCES, Credentials, Source, data, fields, table
from functions.worker.connectors.http import HttpConnector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CREDENTIALS = Credentials(token="the-token", api_key="the-key", username="reader", password="the:password")
BEARER = {"Authorization": "Bearer the-token"}
SMALL = [name for name in RESOURCES if name != "flights"]


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    with Source(credentials=CREDENTIALS) as running:
        yield running


@pytest.fixture(scope="module")
def client(source: Source) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=source.url, headers=BEARER, trust_env=False, timeout=60) as pooled:
        yield pooled


@pytest.fixture(autouse=True)
def _no_faults_left(source: Source) -> Iterator[None]:
    yield
    source.faults.clear()


def by_page(client: httpx.Client, path: str, **params: Any) -> Iterator[dict[str, Any]]:
    page = 1
    while data := client.get(path, params={**params, "page": page, "per_page": 400}).json()["data"]:
        yield from data
        page += 1


def by_offset(client: httpx.Client, path: str, **params: Any) -> Iterator[dict[str, Any]]:
    offset = 0
    while data := client.get(path, params={**params, "offset": offset, "limit": 400}).json()["data"]:
        yield from data
        offset += len(data)


def by_cursor(client: httpx.Client, path: str, **params: Any) -> Iterator[dict[str, Any]]:
    query = {**params, "limit": 400}
    while True:
        body = client.get(path, params=query).json()
        yield from body["data"]
        if body["next_cursor"] is None:
            return
        query["cursor"] = body["next_cursor"]


def by_link(client: httpx.Client, path: str, **params: Any) -> Iterator[dict[str, Any]]:
    response = client.get(path, params={**params, "per_page": 400})
    yield from response.json()["data"]
    while "next" in response.links:
        response = client.get(response.links["next"]["url"])
        yield from response.json()["data"]


STYLES: list[Callable[..., Iterator[dict[str, Any]]]] = [by_page, by_offset, by_cursor, by_link]


@pytest.mark.parametrize("walk", STYLES)
@pytest.mark.parametrize("name", SMALL)
def test_every_style_reads_every_row_once_and_in_order(
    client: httpx.Client, name: str, walk: Callable[..., Any]
) -> None:
    rows = list(walk(client, f"/{name}"))
    order = sorted(RESOURCES[name].primary_key, key=lambda column: column != "time_hour")
    keys = [[row[column] for column in order] for row in rows]
    assert len(rows) == RESOURCES[name].count
    assert all(before < after for before, after in pairwise(keys))
    assert {tuple(row) for row in rows} == {fields(name)}


@pytest.mark.parametrize("walk", STYLES)
def test_every_style_keeps_to_the_dates(client: httpx.Client, walk: Callable[..., Any]) -> None:
    rows = list(walk(client, "/weather", date_from="2013-03-01", date_to="2013-03-07"))
    days = {row["time_hour"][:10] for row in rows}
    assert days == {f"2013-03-0{day}" for day in range(1, 8)}
    assert len(rows) == sum(row["time_hour"][:10] in days for row in by_page(client, "/weather"))


def test_flights_are_complete_ordered_and_dated_as_stated() -> None:
    flights = table("flights")
    assert len(flights) == RESOURCES["flights"].count == max(resource.count for resource in RESOURCES.values())
    assert tuple(date.fromisoformat(flights.dates[end]) for end in (0, -1)) == Source.dates
    assert flights.dates == sorted(set(flights.dates))
    ranges = [flights.between(day, day) for day in flights.dates]
    assert [stop for _, stop in ranges] == [*(start for start, _ in ranges[1:]), len(flights)]


def test_resources_are_named_largest_first() -> None:
    counts = [RESOURCES[name].count for name in Source.resources]
    assert counts == sorted(counts, reverse=True)


def test_cells_become_numbers_text_and_null(client: httpx.Client) -> None:
    flight = client.get("/flights", params={"limit": 1}).json()["data"][0]
    assert (flight["year"], flight["carrier"], flight["time_hour"]) == (2013, "AA", "2013-01-01T10:00:00Z")
    plane = client.get("/planes", params={"limit": 1}).json()["data"][0]
    assert (plane["tailnum"], plane["model"], plane["seats"], plane["speed"]) == ("N10156", "EMB-145XR", 55, None)
    weather = client.get("/weather", params={"limit": 1}).text
    assert '"temp":39.02,' in weather
    assert '"precip":0.0,' in weather
    assert '"hour":1,' in weather


def test_one_open_side_of_the_dates(client: httpx.Client) -> None:
    def total(**dates: str) -> int:
        return int(client.get("/weather", params=dates).json()["total"])

    assert total(date_to="2013-06-30") + total(date_from="2013-07-01") == total() == RESOURCES["weather"].count
    assert total(date_from="2020-01-01") == total(date_to="2000-01-01") == 0


def test_a_page_has_500_rows_unless_told(client: httpx.Client) -> None:
    assert len(client.get("/planes").json()["data"]) == 500


def test_the_link_keeps_the_query_but_not_the_key(client: httpx.Client) -> None:
    query = {"date_from": "2013-03-01", "date_to": "2013-03-02", "per_page": "100", "api_key": "the-key"}
    link = client.get("/weather", params=query).links["next"]["url"]
    assert link.endswith("/weather?date_from=2013-03-01&date_to=2013-03-02&per_page=100&page=2")
    assert "next" not in client.get(link).links


@pytest.mark.parametrize(
    "query",
    [
        "page=0",
        "page=-1",
        "page=one",
        "page=",
        "per_page=0",
        "per_page=1001",
        "limit=1001",
        "limit=1e3",
        "offset=-1",
        "page=1&limit=5",
        "offset=0&cursor=MA==",
        "cursor=nonsense",
        "cursor=%ff",
        "page=1&page=2",
        "colour=red",
        "date_from=2013-02-30",
        "date_from=20130201",
        "date_from=2013-02-02&date_to=2013-02-01",
    ],
)
def test_bad_parameters_are_refused(client: httpx.Client, query: str) -> None:
    response = client.get(f"/weather?{query}")
    assert response.status_code == 400
    assert list(response.json()) == ["error"]


def test_undated_resources_take_no_dates(client: httpx.Client) -> None:
    assert client.get("/planes", params={"date_from": "2013-01-01"}).status_code == 400


def test_a_cursor_belongs_to_its_query(client: httpx.Client) -> None:
    cursor = client.get("/weather", params={"limit": 1}).json()["next_cursor"]
    assert client.get("/weather", params={"limit": 1, "cursor": cursor}).status_code == 200
    assert client.get("/planes", params={"limit": 1, "cursor": cursor}).status_code == 400
    assert client.get("/weather", params={"cursor": cursor, "date_from": "2013-02-01"}).status_code == 400


def test_unknown_resource_and_wrong_method(client: httpx.Client) -> None:
    assert client.get("/trains").status_code == 404
    refused = client.post("/planes")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize(
    "sent",
    [
        {"headers": BEARER},
        {"headers": {"X-API-Key": "the-key"}},
        {"params": {"api_key": "the-key"}},
        {"auth": ("reader", "the:password")},
    ],
)
def test_each_kind_of_credentials_is_accepted(source: Source, sent: dict[str, Any]) -> None:
    assert httpx.get(f"{source.url}/airlines", trust_env=False, **sent).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"headers": {"Authorization": "Bearer the-key"}},
        {"headers": {"Authorization": "the-token"}},
        {"headers": {"X-API-Key": "the-token"}},
        {"params": {"api_key": ""}},
        {"auth": ("reader", "the-token")},
    ],
)
def test_other_credentials_are_not(source: Source, sent: dict[str, Any]) -> None:
    assert httpx.get(f"{source.url}/airlines", trust_env=False, **sent).status_code == 401


def test_made_up_credentials_differ_and_stay_out_of_the_repr() -> None:
    one, other = Credentials(), Credentials()
    assert len({one.token, one.api_key, one.password, other.token, other.api_key, other.password}) == 6
    assert one.token not in repr(one)


def test_the_documentation_is_open_and_names_every_resource(source: Source) -> None:
    response = httpx.get(source.url, trust_env=False)
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    for name, resource in RESOURCES.items():
        assert f"/{name}</a><td>{resource.count:,}<td>{', '.join(resource.primary_key)}<td>" in response.text
    assert not {CREDENTIALS.token, CREDENTIALS.api_key, CREDENTIALS.password} & set(response.text.split())


def test_a_rate_limit_answers_429_and_says_when() -> None:
    with Source(credentials=CREDENTIALS, requests_per_second=0.001) as limited:
        answers = [httpx.get(f"{limited.url}/airlines", headers=BEARER, trust_env=False) for _ in range(2)]
    assert [response.status_code for response in answers] == [200, 429]
    assert 900 < int(answers[1].headers["Retry-After"]) <= 1000


def test_status_faults_are_met_in_order_and_then_end(source: Source, client: httpx.Client) -> None:
    source.faults.status(500, times=2)
    source.faults.status(503, retry_after="Wed, 21 Oct 2015 07:28:00 GMT")
    source.faults.status(429, retry_after=7)
    client.get("/")  # not a resource, so it meets none
    answers = [client.get("/airlines") for _ in range(5)]
    assert [response.status_code for response in answers] == [500, 500, 503, 429, 200]
    waits = [response.headers.get("Retry-After") for response in answers]
    assert waits == [None, None, "Wed, 21 Oct 2015 07:28:00 GMT", "7", None]


def test_invalid_json_and_a_truncated_body(source: Source, client: httpx.Client) -> None:
    source.faults.invalid_json()
    source.faults.truncate()
    with pytest.raises(ValueError, match="Unterminated string"):
        client.get("/airlines").json()
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        client.get("/airlines")
    assert client.get("/airlines").json()["total"] == 16


def test_clear_drops_the_queue_and_the_delay(source: Source, client: httpx.Client) -> None:
    source.faults.status(500)
    source.faults.delay_seconds = 3600
    source.faults.clear()
    assert client.get("/airlines").status_code == 200


@pytest.mark.parametrize("whole_server", [True, False])
def test_closing_interrupts_a_delay(whole_server: bool) -> None:
    answers: list[int | str] = []
    before = set(threading.enumerate())
    held = Source(credentials=CREDENTIALS, delay_seconds=3600 if whole_server else 0).start()
    if not whole_server:
        held.faults.delay(3600)

    def ask(url: str) -> None:
        try:
            answers.append(httpx.get(url, headers=BEARER, timeout=None, trust_env=False).status_code)
        except httpx.TransportError:
            answers.append("disconnected")

    thread = threading.Thread(target=ask, args=(f"{held.url}/airlines",))
    thread.start()
    while not held.requests:
        threading.Event().wait(0.002)
    assert answers == []
    held.close()
    thread.join()
    assert answers in ([503], ["disconnected"])
    assert set(threading.enumerate()) == before


def test_closing_leaves_no_thread_and_no_port() -> None:
    before = set(threading.enumerate())
    with Source(credentials=CREDENTIALS) as brief:
        address = urlsplit(brief.url)
        assert address.hostname == "127.0.0.1"
        kept = socket.create_connection((address.hostname, address.port or 0))
        httpx.get(brief.url, trust_env=False)
        assert set(threading.enumerate()) > before
    with kept:
        assert kept.recv(1) == b""
    assert set(threading.enumerate()) == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.hostname, address.port or 0)).close()


def test_a_source_starts_once_at_a_time() -> None:
    again = Source()
    with pytest.raises(RuntimeError, match="not started"):
        _ = again.url
    again.close()
    for _ in range(2):
        with again, pytest.raises(RuntimeError, match="already started"):
            again.start()


def test_a_port_that_is_taken_is_reported_and_nothing_is_left(source: Source) -> None:
    before = set(threading.enumerate())
    second = Source(port=urlsplit(source.url).port or 0)
    with pytest.raises(OSError, match="in use"):
        second.start()
    second.close()
    assert set(threading.enumerate()) == before


def test_requests_are_logged_as_sent(source: Source, client: httpx.Client) -> None:
    count = len(source.requests)
    client.get("/airlines?page=1&per_page=3")
    client.post("/nowhere")
    logged = source.requests[count:]
    assert [(entry.method, entry.path, entry.query) for entry in logged] == [
        ("GET", "/airlines", "page=1&per_page=3"),
        ("POST", "/nowhere", ""),
    ]
    assert logged[0].time <= logged[1].time


def test_a_connection_names_its_resources_and_fits_its_secret(source: Source) -> None:
    config, secret = source.connection(["weather"], auth="basic", pagination="cursor", page_size=10)
    assert secret == {"username": "reader", "password": "the:password"}
    assert config["base_url"] == source.url
    assert config["resources"] == {
        "weather": {
            "path": "/weather",
            "primary_key": ["origin", "time_hour"],
            "records": "data",
            "params": {},
            "date_filter": {"from": "date_from", "to": "date_to"},
            "window_days": 1,
            "pagination": {
                "type": "cursor",
                "param": "cursor",
                "next": "next_cursor",
                "size_param": "limit",
                "size": 10,
            },
        }
    }
    with pytest.raises(KeyError):
        source.connection(["trains"])


def by_hand(client: httpx.Client, name: str, **equal: object) -> list[dict[str, Any]]:
    return [row for row in by_page(client, f"/{name}") if all(row[field] == value for field, value in equal.items())]


@pytest.mark.parametrize("walk", STYLES)
@pytest.mark.parametrize(
    ("name", "equal"),
    [
        ("weather", {"origin": "EWR", "hour": 5}),
        ("weather", {"day": 1}),
        ("weather", {"precip": 0.0, "origin": "JFK", "month": 3}),
        ("planes", {"manufacturer": "BOEING"}),
        ("planes", {"manufacturer": "BOEING", "engines": 2, "seats": 55}),
        ("planes", {"tailnum": "N10156"}),
        ("airports", {"tz": -5, "dst": "A"}),
        ("airports", {"tzone": "America/New_York"}),
    ],
)
def test_every_style_keeps_to_the_filters(
    client: httpx.Client, name: str, equal: dict[str, Any], walk: Callable[..., Any]
) -> None:
    expected = by_hand(client, name, **equal)
    assert list(walk(client, f"/{name}", **equal)) == expected
    sizes = [client.get(f"/{name}", params={**equal, "limit": size}).json() for size in (1, 1000)]
    assert [response["total"] for response in sizes] == [len(expected)] * 2
    assert [len(response["data"]) for response in sizes] == [min(1, len(expected)), min(1000, len(expected))]


@pytest.mark.parametrize("walk", STYLES)
def test_filters_and_dates_both_hold(client: httpx.Client, walk: Callable[..., Any]) -> None:
    dates = {"date_from": "2013-03-01", "date_to": "2013-03-31"}
    rows = list(walk(client, "/weather", origin="EWR", **dates))
    expected = [row for row in by_hand(client, "weather", origin="EWR") if row["time_hour"][:7] == "2013-03"]
    assert rows == expected
    assert len(rows) > 700
    two = client.get("/weather", params={"origin": "EWR", "hour": "5", "limit": 1000, **dates}).json()
    assert two["data"] == [row for row in expected if row["hour"] == 5]
    assert two["total"] == len(two["data"])


def test_flights_are_filtered_too(client: httpx.Client) -> None:
    def total(**query: str) -> int:
        return int(client.get("/flights", params={"limit": "1", **query}).json()["total"])

    carriers = [row["carrier"] for row in client.get("/airlines").json()["data"]]
    assert sum(total(carrier=carrier) for carrier in carriers) == RESOURCES["flights"].count
    assert total(carrier="AA") == 32_729
    days = {"date_from": "2013-07-04", "date_to": "2013-07-04"}
    day = client.get("/flights", params={"limit": "1000", **days}).json()["data"]
    assert total(carrier="AA", origin="JFK", **days) == sum(
        (row["carrier"], row["origin"]) == ("AA", "JFK") for row in day
    )
    assert total(tailnum="N10156") == 153


@pytest.mark.parametrize(
    "query",
    [
        {"manufacturer": "boeing"},
        {"manufacturer": "BOEING "},
        {"manufacturer": ""},
        {"manufacturer": "null"},
        {"speed": "0"},
        {"tailnum": "N10156' or '1'='1"},
        {"tailnum": 'N10156","year":2004'},
        {"model": ".*"},
        {"model": "é\0\n😀"},
        {"model": "x" * 50_000},
        {"manufacturer": "BOEING", "tailnum": "N10156"},
    ],
)
def test_no_row_is_equal_to_that(client: httpx.Client, query: dict[str, str]) -> None:
    for style in ({"limit": 5}, {"per_page": 5}):
        response = client.get("/planes", params={**query, **style})
        assert response.json() == {"data": [], "total": 0, "next_cursor": None}
        assert "next" not in response.links


def test_numbers_are_equal_however_they_are_written(client: httpx.Client) -> None:
    def total(**query: str) -> int:
        return int(client.get("/weather", params=query).json()["total"])

    assert total(temp="39.02") == total(temp="39.020") == total(temp="039.02") > 0
    assert total(hour="1") == total(hour="1.0") == total(hour="01") > 0
    assert total(precip="0") == total(precip="0.0") == total(precip="-0") > 0


@pytest.mark.parametrize(
    "query",
    [
        "hour=",
        "hour=one",
        "hour=1e0",
        "hour=nan",
        "hour=inf",
        "hour=+1",
        "hour=1_0",
        "hour=%D9%A1",
        "hour=" + "9" * 5000,
        "temp=",
        "origin=EWR&origin=JFK",
        "Origin=EWR",
        "carrier=AA",
        "origin[]=EWR",
        "=EWR",
    ],
)
def test_bad_filters_are_refused(client: httpx.Client, query: str) -> None:
    response = client.get(f"/weather?{query}")
    assert response.status_code == 400
    assert list(response.json()) == ["error"]


def test_a_cursor_belongs_to_its_filters(client: httpx.Client) -> None:
    query = {"origin": "EWR", "hour": "5", "limit": "1"}
    cursor = client.get("/weather", params=query).json()["next_cursor"]
    assert client.get("/weather", params={"hour": "5", "cursor": cursor, "origin": "EWR"}).status_code == 200
    for other in ({}, {"origin": "EWR"}, {"origin": "JFK", "hour": "5"}, {"origin": "5", "hour": "EWR"}):
        assert client.get("/weather", params={**other, "cursor": cursor}).status_code == 400


def test_the_link_keeps_the_filters(client: httpx.Client) -> None:
    query = {"tzone": "America/New_York", "dst": "A", "per_page": "100"}
    response = client.get("/airports", params=query)
    assert response.links["next"]["url"].endswith("/airports?tzone=America%2FNew_York&dst=A&per_page=100&page=2")


@pytest.mark.parametrize("name", ["planes", "airports", "airlines"])
def test_one_row_by_its_key(client: httpx.Client, name: str) -> None:
    [column] = RESOURCES[name].primary_key
    rows = list(by_page(client, f"/{name}"))
    for row in (rows[0], rows[len(rows) // 2], rows[-1]):
        response = client.get(f"/{name}/{row[column]}")
        assert response.json() == {"data": row}
        assert response.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    "path",
    [
        "/airlines/",
        "/airlines/aa",
        "/airlines/AA/",
        "/airlines/AA%2F",
        "/airlines/AA/x",
        "/airlines/%00",
        "/airlines/%FF",
        "/airlines/%F0%9F%98%80",
        "/airlines/" + "A" * 5000,
        "/airlines/%2e%2e/planes",
        "/planes/null",
        "/planes/AA",
        "/flights/AA",
        "/weather/EWR",
        "/flights/",
        "/trains/AA",
        "/%2FAA",
    ],
)
def test_no_row_has_that_key(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert list(response.json()) == ["error"]


def test_one_row_takes_credentials_and_no_other_parameters(source: Source, client: httpx.Client) -> None:
    url = f"{source.url}/airlines/AA"
    assert httpx.get(f"{url}?api_key=the-key", trust_env=False).status_code == 200
    assert httpx.get(url, trust_env=False).status_code == 401
    assert httpx.get(f"{source.url}/airlines/none", trust_env=False).status_code == 401
    for query in ("carrier=AA", "page=1", "limit=1"):
        assert client.get(f"{url}?{query}").status_code == 400
    assert client.post("/airlines/AA").status_code == 405
    source.faults.status(503)
    assert [client.get("/airlines/AA").status_code for _ in range(2)] == [503, 200]


@pytest.mark.parametrize("name", SMALL)
def test_an_index_finds_every_row_by_every_field(client: httpx.Client, name: str) -> None:
    rows = list(by_page(client, f"/{name}"))
    for field in fields(name):
        expected: dict[object, list[int]] = {}
        for number, row in enumerate(rows):
            expected.setdefault(row[field], []).append(number)
        assert {value: list(numbers) for value, numbers in data.index(name, field).items()} == expected


def test_an_index_takes_no_value_for_a_field() -> None:
    values = ['a,b}"', '"y":1,', 'x":"', "\\", '\\"y":', "é\0{", "", None, 7, -1.5]
    encoded = [json.dumps({"x": value, "y": number}, separators=(",", ":")) for number, value in enumerate(values)]
    offsets = array("L", accumulate((len(row) + 1 for row in encoded), initial=0))
    rows = data.Table("".join(f"{row}," for row in encoded).encode(), offsets, [], [len(values)])
    assert data._build_index(rows, "x") == {value: array("L", [number]) for number, value in enumerate(values)}
    assert data._build_index(rows, "y") == {number: array("L", [number]) for number in range(len(values))}
    assert json.loads(rows.picked([3])) == {"x": "\\", "y": 3}
    assert rows.picked(range(1, 3)) == rows.picked([1, 2]) == ",".join(encoded[1:3]).encode()
    assert rows.picked([]) == rows.picked(range(0)) == b""


def test_an_index_is_made_once_and_only_for_what_is_asked(
    monkeypatch: pytest.MonkeyPatch, client: httpx.Client
) -> None:
    made: list[str] = []

    def build(rows: data.Table, field: str) -> data.Index:
        made.append(field)
        return real(rows, field)

    real = data._build_index
    monkeypatch.setattr(data, "_build_index", build)
    monkeypatch.setattr(data, "_indexes", {})
    for _ in range(3):
        client.get("/planes", params={"limit": 1})
        client.get("/planes", params={"engines": 2, "type": "Fixed wing multi engine"})
        client.get("/airlines/AA")
    assert made == ["type", "engines", "carrier"]


def test_the_documentation_tells_of_filters_and_single_rows(client: httpx.Client) -> None:
    text = client.get("/").text
    for example in ("/flights?carrier=AA&origin=JFK", "/airlines/AA"):
        assert f"<code>{example.replace('&', '&amp;')}</code>" in text
        assert client.get(example).status_code == 200
    assert "<code>/planes</code>, <code>/airports</code> and <code>/airlines</code> answer one row" in text


@pytest.mark.parametrize("style", ["page_number", "offset", "cursor", "link_header"])
def test_the_connector_reads_children_and_single_rows(source: Source, style: str) -> None:
    connection = source.connection(pagination=style, page_size=100)

    async def run() -> None:
        async with HttpConnector(*connection, allow_private_addresses=True) as connector:
            walk = connector.pages("weather", (date(2013, 3, 1), date(2013, 3, 7)), None, {"origin": "EWR"})
            origins = [record.data["origin"] async for page in walk for record in page.records]
            assert origins == ["EWR"] * 168
            [record] = (await connector.get_record("airlines", "AA")).records
            assert (record.key, record.data["name"]) == ('["AA"]', "American Airlines Inc.")
            with pytest.raises(SourceRefused) as refused:
                await connector.get_record("airlines", "A/A")
            assert refused.value.code == "source_not_found"

    asyncio.run(run())
