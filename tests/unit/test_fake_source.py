"""The local data API: the parts of its contract that other tests rely on."""

from __future__ import annotations

import socket
import threading
from datetime import date
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest

from functions._local.source import RESOURCES, Credentials, Source, fields, table
from tests.support.wait import until

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


EACH_STYLE = pytest.mark.parametrize("read", [by_page, by_offset, by_cursor, by_link])


@EACH_STYLE
@pytest.mark.parametrize("name", SMALL)
def test_pages__every_row_once_and_in_order(client: httpx.Client, name: str, read: Callable[..., Any]) -> None:
    rows = list(read(client, f"/{name}"))
    order = sorted(RESOURCES[name].primary_key, key=lambda column: column != "time_hour")
    keys = [[row[column] for column in order] for row in rows]
    assert len(rows) == RESOURCES[name].count
    assert all(before < after for before, after in pairwise(keys))
    assert {tuple(row) for row in rows} == {fields(name)}


@EACH_STYLE
def test_pages__filtered_by_dates_and_fields(client: httpx.Client, read: Callable[..., Any]) -> None:
    rows = list(read(client, "/weather", date_from="2013-03-01", date_to="2013-03-07", origin="EWR"))
    days = {f"2013-03-0{day}" for day in range(1, 8)}
    expected = [row for row in by_page(client, "/weather") if row["time_hour"][:10] in days and row["origin"] == "EWR"]
    assert rows == expected
    assert len(rows) == 168


def test_flights__complete_ordered_and_dated() -> None:
    flights = table("flights")
    assert len(flights) == RESOURCES["flights"].count == max(resource.count for resource in RESOURCES.values())
    assert tuple(date.fromisoformat(flights.dates[end]) for end in (0, -1)) == Source.dates
    assert flights.dates == sorted(set(flights.dates))
    ranges = [flights.between(day, day) for day in flights.dates]
    assert [stop for _, stop in ranges] == [*(start for start, _ in ranges[1:]), len(flights)]
    counts = [RESOURCES[name].count for name in Source.resources]
    assert counts == sorted(counts, reverse=True)


def test_flights__filtered(client: httpx.Client) -> None:
    def total(**query: str) -> int:
        return int(client.get("/flights", params={"limit": "1", **query}).json()["total"])

    carriers = [row["carrier"] for row in client.get("/airlines").json()["data"]]
    assert sum(total(carrier=carrier) for carrier in carriers) == RESOURCES["flights"].count
    assert total(tailnum="N10156") == 153
    assert total(tailnum="N10156' or '1'='1") == 0


def test_values__numbers_text_and_null(client: httpx.Client) -> None:
    flight = client.get("/flights", params={"limit": 1}).json()["data"][0]
    assert (flight["year"], flight["carrier"], flight["time_hour"]) == (2013, "AA", "2013-01-01T10:00:00Z")
    plane = client.get("/planes", params={"limit": 1}).json()["data"][0]
    assert (plane["tailnum"], plane["model"], plane["seats"], plane["speed"]) == ("N10156", "EMB-145XR", 55, None)
    weather = client.get("/weather", params={"limit": 1}).text
    assert '"temp":39.02,' in weather
    assert '"precip":0.0,' in weather
    assert '"hour":1,' in weather


@pytest.mark.parametrize("name", ["planes", "airports", "airlines"])
def test_single_row__by_key(client: httpx.Client, name: str) -> None:
    [column] = RESOURCES[name].primary_key
    rows = list(by_page(client, f"/{name}"))
    for row in (rows[0], rows[len(rows) // 2], rows[-1]):
        assert client.get(f"/{name}/{row[column]}").json() == {"data": row}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/weather?page=0", 400), ("/weather?limit=1001", 400), ("/weather?page=1&limit=5", 400),
        ("/weather?cursor=nonsense", 400), ("/weather?page=1&page=2", 400), ("/weather?colour=red", 400),
        ("/weather?date_from=2013-02-30", 400), ("/weather?hour=one", 400), ("/planes?date_from=2013-01-01", 400),
        ("/trains", 404), ("/airlines/aa", 404), ("/airlines/AA/", 404), ("/weather/EWR", 404),
    ],
)  # fmt: skip
def test_request__rejected(client: httpx.Client, path: str, status: int) -> None:
    response = client.get(path)
    assert (response.status_code, list(response.json())) == (status, ["error"])


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"headers": BEARER}, 200),
        ({"headers": {"X-API-Key": "the-key"}}, 200),
        ({"params": {"api_key": "the-key"}}, 200),
        ({"auth": ("reader", "the:password")}, 200),
        ({}, 401),
        ({"headers": {"Authorization": "Bearer the-key"}}, 401),
        ({"params": {"api_key": ""}}, 401),
        ({"auth": ("reader", "the-token")}, 401),
    ],
)
def test_fake_source__credentials(source: Source, sent: dict[str, Any], status: int) -> None:
    assert httpx.get(f"{source.url}/airlines", trust_env=False, **sent).status_code == status


def test_faults__status_in_order(source: Source, client: httpx.Client) -> None:
    source.faults.status(500, times=2)
    source.faults.status(503, retry_after="Wed, 21 Oct 2015 07:28:00 GMT")
    source.faults.status(429, retry_after=7)
    client.get("/")  # not a resource, so it takes no fault
    responses = [client.get("/airlines") for _ in range(5)]
    assert [response.status_code for response in responses] == [500, 500, 503, 429, 200]
    waits = [response.headers.get("Retry-After") for response in responses]
    assert waits == [None, None, "Wed, 21 Oct 2015 07:28:00 GMT", "7", None]


def test_faults__invalid_and_truncated_bodies(source: Source, client: httpx.Client) -> None:
    source.faults.invalid_json()
    source.faults.truncate()
    with pytest.raises(ValueError, match="Unterminated string"):
        client.get("/airlines").json()
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        client.get("/airlines")
    source.faults.status(500)
    source.faults.delay_seconds = 3600
    source.faults.clear()
    assert client.get("/airlines").json()["total"] == 16


def test_rate_limit__429_with_retry_after() -> None:
    with Source(credentials=CREDENTIALS, requests_per_second=0.001) as limited:
        responses = [httpx.get(f"{limited.url}/airlines", headers=BEARER, trust_env=False) for _ in range(2)]
    assert [response.status_code for response in responses] == [200, 429]
    assert 900 < int(responses[1].headers["Retry-After"]) <= 1000


@pytest.mark.parametrize("whole_server", [True, False])
def test_close__interrupts_a_delay(whole_server: bool) -> None:
    outcomes: list[int | str] = []
    delayed = Source(credentials=CREDENTIALS, delay_seconds=3600 if whole_server else 0).start()
    if not whole_server:
        delayed.faults.delay(3600)

    def get(url: str) -> None:
        try:
            outcomes.append(httpx.get(url, headers=BEARER, timeout=None, trust_env=False).status_code)
        except httpx.TransportError:
            outcomes.append("disconnected")

    thread = threading.Thread(target=get, args=(f"{delayed.url}/airlines",))
    thread.start()
    until(lambda: delayed.requests)
    assert outcomes == []
    delayed.close()
    thread.join()
    assert outcomes in ([503], ["disconnected"])


def test_close__leaves_no_thread_and_no_port() -> None:
    before = set(threading.enumerate())
    with Source(credentials=CREDENTIALS) as brief:
        address = urlsplit(brief.url)
        assert address.hostname == "127.0.0.1"
        kept = socket.create_connection((address.hostname, address.port or 0))
        httpx.get(brief.url, trust_env=False)
    with kept:
        assert kept.recv(1) == b""
    until(lambda: set(threading.enumerate()) <= before)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.hostname, address.port or 0)).close()


def test_start__port_in_use(source: Source) -> None:
    before = set(threading.enumerate())
    second = Source(port=urlsplit(source.url).port or 0)
    with pytest.raises(OSError, match="in use"):
        second.start()
    second.close()
    until(lambda: set(threading.enumerate()) <= before)


def test_requests__logged(source: Source, client: httpx.Client) -> None:
    count = len(source.requests)
    client.get("/airlines?page=1&per_page=3")
    client.post("/nowhere")
    logged = [(entry.method, entry.path, entry.query) for entry in source.requests[count:]]
    assert logged == [("GET", "/airlines", "page=1&per_page=3"), ("POST", "/nowhere", "")]


def test_connection__configuration_and_secret(source: Source) -> None:
    config, secret = source.connection(["weather"], auth="basic", pagination="cursor", page_size=10)
    assert secret == {"username": "reader", "password": "the:password"}
    assert config["base_url"] == source.url
    assert list(config["resources"]) == ["weather"]  # type: ignore[call-overload]
    with pytest.raises(KeyError):
        source.connection(["trains"])
