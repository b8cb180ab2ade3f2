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
    with httpx.Client(base_url=source.url, headers=BEARER, trust_env=False) as pooled:
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
    answer = client.get(path, params={**params, "per_page": 400})
    yield from answer.json()["data"]
    while "next" in answer.links:
        answer = client.get(answer.links["next"]["url"])
        yield from answer.json()["data"]


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
    answer = client.get(f"/weather?{query}")
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]


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
    answer = httpx.get(source.url, trust_env=False)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    for name, resource in RESOURCES.items():
        assert f"/{name}</a><td>{resource.count:,}<td>{', '.join(resource.primary_key)}<td>" in answer.text
    assert not {CREDENTIALS.token, CREDENTIALS.api_key, CREDENTIALS.password} & set(answer.text.split())


def test_a_rate_limit_answers_429_and_says_when() -> None:
    with Source(credentials=CREDENTIALS, requests_per_second=0.001) as limited:
        answers = [httpx.get(f"{limited.url}/airlines", headers=BEARER, trust_env=False) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert 900 < int(answers[1].headers["Retry-After"]) <= 1000


def test_status_faults_are_met_in_order_and_then_end(source: Source, client: httpx.Client) -> None:
    source.faults.status(500, times=2)
    source.faults.status(503, retry_after="Wed, 21 Oct 2015 07:28:00 GMT")
    source.faults.status(429, retry_after=7)
    client.get("/")  # not a resource, so it meets none
    answers = [client.get("/airlines") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [500, 500, 503, 429, 200]
    waits = [answer.headers.get("Retry-After") for answer in answers]
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
