"""functions/worker/runners/historical_sync.py: the plan's arithmetic, and batches from the local source."""

from __future__ import annotations

import asyncio
import copy
import json
from collections import Counter
from datetime import date, timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions._connections.errors import SourceRefused
from functions._local.source import RESOURCES, Source, table
from functions._shared.transports.postgres import PostgresTransport
from functions.worker.client import Batch, Execution, WorkerClient, service_caller
from functions.worker.connectors import open_source
from functions.worker.engine import Engine, Signals
from functions.worker.runners import pages
from functions.worker.runners.historical_sync import Plan, historical_sync

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.database import Database

RUN = partial(historical_sync, open_source=partial(open_source, allow_private_addresses=True))  # the source is local
STYLES = ["page_number", "offset", "cursor", "link_header"]


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    with Source() as running:
        yield running


# The plan


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    first = draw(st.dates())
    span = draw(st.integers(0, 200))
    last = date.max if (date.max - first).days < span else first + timedelta(days=span)
    names = draw(st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=4, unique=True))
    return Plan(first, last, {name: draw(st.none() | st.integers(1, 40)) for name in names})


def days_of(first: date, last: date) -> list[date]:
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


@given(plans())
def test_plan__windows_contain_each_day_once_in_order(plan: Plan) -> None:
    windows = list(plan.windows(None))
    assert [window.number for window in windows] == list(range(plan.total))
    assert list(dict.fromkeys(window.resource for window in windows)) == list(plan.days_per_window)
    for resource, size in plan.days_per_window.items():
        spans = [window.days for window in windows if window.resource == resource]
        if size is None:
            assert spans == [None]
            continue
        dated = [span for span in spans if span is not None]
        assert len(dated) == len(spans)
        assert all(len(days_of(*span)) == size for span in dated[:-1])
        assert 1 <= len(days_of(*dated[-1])) <= size
        assert [day for span in dated for day in days_of(*span)] == days_of(plan.first, plan.last)


@given(plans(), st.data())
def test_plan__resumed_at_any_window__rest_only(plan: Plan, data: st.DataObject) -> None:
    windows = list(plan.windows(None))
    nth = data.draw(st.integers(0, len(windows) - 1))
    stored = json.loads(json.dumps(windows[nth].start))
    assert list(plan.windows(stored)) == windows[nth:]


@given(plans(), st.data())
def test_plan__window_length_changed__no_day_lost(plan: Plan, data: st.DataObject) -> None:
    """The connection's config was changed between two runs."""
    windows = list(plan.windows(None))
    stored = data.draw(st.sampled_from(windows)).start
    names = list(plan.days_per_window)
    other = Plan(plan.first, plan.last, {name: data.draw(st.none() | st.integers(1, 40)) for name in names})
    left = list(other.windows(stored))
    at = names.index(stored["resource"])
    assert list(dict.fromkeys(window.resource for window in left)) == names[at:]
    first = left[0].days
    assert first is None or stored["date"] is None or first[0] <= date.fromisoformat(stored["date"])
    assert [window.number for window in left] == list(range(other.total))[-len(left) :]


@pytest.mark.parametrize("days", [1, 7, 10**12])
def test_plan__long_range__lazy(days: int) -> None:
    plan = Plan(date.min, date.max, {"a": None, "b": days})
    assert plan.total == 1 + -(-3_652_059 // days)
    windows = plan.windows(None)
    assert next(windows).days is None
    second = next(windows).days
    assert second is not None
    assert second[0] == date.min
    *_, last = plan.windows({"resource": "b", "date": "9999-12-31", "page": None, "skip": 0})
    assert last.days is not None
    assert (last.number, last.days[1]) == (plan.total - 1, date.max)


# Batches from the local source


def rows(
    resource: str, first: str = "2013-01-01", last: str = "2014-01-01", parse_float: Any = Decimal
) -> list[dict[str, Any]]:
    """The source's rows, read from its table."""
    held = table(resource)
    start, stop = held.between(first, last) if RESOURCES[resource].dated else (0, len(held))
    return [dict(row) for row in json.loads(b"[" + held.rows(start, stop) + b"]", parse_float=parse_float)]


def execution(
    source: Source, first: str, last: str, *resources: str, checkpoint: dict[str, Any] | None = None, **options: Any
) -> Execution:
    config, secret = source.connection(resources, **options)
    return Execution(
        id="00000000-0000-4000-8000-000000000000",
        agency_id="00000000-0000-4000-8000-000000000001",
        family="historical_sync",
        lease_token=1,
        seq=0,
        spec={"date_from": first, "date_to": last, "resources": list(resources)},
        checkpoint=checkpoint,
        progress={},
        connection_id=None,
        connection={"kind": "http", "config": config, "secret": secret},
    )


def batches(one: Execution) -> list[Batch]:
    async def collect() -> list[Batch]:
        return [batch async for batch in RUN(one)]

    return asyncio.run(collect())


def data(some: list[Batch], resource: str) -> list[dict[str, Any]]:
    return [record["data"] for batch in some if batch.resource == resource for record in batch.records]


def with_resource(one: Execution, name: str, **changes: Any) -> Execution:
    """The execution with another config of its connection."""
    connection = copy.deepcopy(one.connection)
    assert connection is not None
    connection["config"]["resources"][name] |= changes
    return Execution(**(vars(one) | {"connection": connection}))


def resumed(one: Execution, checkpoint: dict[str, Any]) -> Execution:
    return Execution(**(vars(one) | {"checkpoint": json.loads(json.dumps(checkpoint))}))


def test_runner__every_row_once_with_its_key(source: Source) -> None:
    found = batches(execution(source, "2013-02-01", "2013-02-02", "flights", "weather", "airlines", page_size=400))
    for resource, first, last in [
        ("flights", "2013-02-01", "2013-02-02"),
        ("weather", "2013-02-01", "2013-02-02"),
        ("airlines", "", ""),
    ]:
        assert data(found, resource) == rows(resource, first, last)
        members = RESOURCES[resource].primary_key
        records = [record for batch in found if batch.resource == resource for record in batch.records]
        assert [json.loads(record["key"]) for record in records] == [
            [record["data"][member] for member in members] for record in records
        ]


def test_runner__progress_counts_windows(source: Source) -> None:
    found = batches(execution(source, "2013-02-01", "2013-02-03", "flights", "airlines", page_size=400))
    done = [batch.progress["windows_done"] for batch in found]
    assert done == sorted(done)
    assert set(done) == {0, 1, 2, 3, 4}
    assert {batch.progress["windows_total"] for batch in found} == {4}
    assert found[-1].checkpoint == {"complete": True}
    assert done[-1] == 4


@pytest.mark.parametrize("style", STYLES)
def test_runner__resumed_after_any_batch__rest_only(
    source: Source, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the middle of a page, because a batch is smaller than a page here."""
    monkeypatch.setattr(pages, "BATCH_RECORDS", 150)
    one = execution(
        source, "2013-02-02", "2013-02-03", "flights", "weather", "airlines", pagination=style, page_size=400
    )
    found = batches(one)
    sizes = [len(batch.records) for batch in found]
    assert max(sizes) == 150
    assert any(batch.checkpoint.get("skip") for batch in found)
    assert sum(sizes) == len(rows("flights", "2013-02-02", "2013-02-03")) + 2 * 72 + 16
    for nth, batch in enumerate(found):
        assert batches(resumed(one, batch.checkpoint)) == found[nth + 1 :]


def test_chunks__page_of_full_batches__no_empty_batch(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "BATCH_RECORDS", 24)
    found = batches(execution(source, "2013-02-02", "2013-02-02", "weather", page_size=72))
    assert [len(batch.records) for batch in found] == [24, 24, 24]


def test_chunks__large_records__split_by_bytes(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of flights has about 300 bytes, so 500 of them exceed one batch here."""
    monkeypatch.setattr(pages, "BATCH_BYTES", 10_000)
    found = batches(execution(source, "2013-02-02", "2013-02-02", "flights", page_size=500))
    assert sum(len(batch.records) for batch in found) == len(rows("flights", "2013-02-02", "2013-02-02"))
    assert max(len(batch.records) for batch in found) < 60


def test_runner__empty_window__checkpoint_advances(source: Source) -> None:
    found = batches(execution(source, "2012-12-30", "2013-01-01", "weather"))
    assert [(len(batch.records), batch.checkpoint.get("date")) for batch in found] == [
        (0, "2012-12-31"),
        (0, "2013-01-01"),
        (len(rows("weather", "2013-01-01", "2013-01-01")), None),
    ]
    assert [batch.progress["windows_done"] for batch in found] == [1, 2, 3]


def test_runner__complete__connection_not_opened(source: Source) -> None:
    done = execution(source, "2013-02-01", "2013-02-03", "flights", checkpoint={"complete": True})
    before = len(source.requests)
    assert batches(done) == []
    assert batches(Execution(**(vars(done) | {"connection": None}))) == []
    assert len(source.requests) == before


def test_runner__resource_removed_from_config__source_resource_gone(source: Source) -> None:
    one = execution(source, "2013-02-01", "2013-02-03", "flights")
    one.spec["resources"] = ["flights", "weather"]
    with pytest.raises(SourceRefused) as error:
        batches(one)
    assert error.value.code == "source_resource_gone"


@pytest.mark.parametrize("kind", ["records", None])
def test_open_source__connection_not_readable__refused(source: Source, kind: str | None) -> None:
    one = execution(source, "2013-02-01", "2013-02-03", "flights")
    connection = {"kind": kind, "config": {}, "secret": {}} if kind else None
    with pytest.raises(SourceRefused) as error:
        batches(Execution(**(vars(one) | {"connection": connection})))
    assert error.value.code == "source_not_readable"


@pytest.mark.parametrize(
    ("style", "changes"),
    [
        ("page_number", {"window_days": 3}),
        ("offset", {"window_days": 3}),
        ("page_number", {"window_days": 2}),
        ("page_number", {"pagination": "page_number 900"}),
        ("offset", {"pagination": "page_number 400"}),
        ("page_number", {"pagination": "cursor 400"}),
    ],
    ids=str,
)
def test_resume_position__config_changed__window_begins_again(
    source: Source, style: str, changes: dict[str, Any]
) -> None:
    """A position is valid only for the request that returned it."""
    if pagination := changes.get("pagination"):
        other_style, size = pagination.split()
        config: Any = source.connection(["weather"], pagination=other_style, page_size=int(size))[0]
        changes = {"pagination": config["resources"]["weather"]["pagination"]}
    one = execution(source, "2013-02-01", "2013-02-04", "weather", pagination=style, page_size=30)
    found = batches(one)
    expected = Counter(row["time_hour"] for row in rows("weather", "2013-02-01", "2013-02-04"))
    for nth, batch in enumerate(found):
        rest = batches(with_resource(resumed(one, batch.checkpoint), "weather", **changes))
        landed = {record["key"]: record["data"] for some in (*found[: nth + 1], *rest) for record in some.records}
        times = Counter(row["time_hour"] for row in landed.values() if row["time_hour"][:10] < "2013-02-05")
        assert {time: times[time] for time in expected} == expected


def test_resume_position__secret_or_other_resource_changed__kept(source: Source) -> None:
    one = execution(source, "2013-02-01", "2013-02-02", "flights", "weather", page_size=400)
    found = batches(one)
    middle = next(nth for nth, batch in enumerate(found) if batch.checkpoint["page"])
    edited = with_resource(resumed(one, found[middle].checkpoint), "weather", window_days=2)
    assert batches(edited)[0].records == found[middle + 1].records


# With the engine, into app.records


@pytest.mark.parametrize(
    ("style", "auth"), list(zip(STYLES, ["bearer", "api_key", "basic", "api_key_query"], strict=True))
)
def test_engine__stores_exactly_the_source_rows(database: Database, source: Source, style: str, auth: str) -> None:
    user = database.member()
    config, secret = source.connection(["flights", "weather", "airlines"], auth=auth, pagination=style, page_size=350)
    connection_id = database.connection(user.agency_id, config=config, secret=secret)
    with database.session(user.claims) as session:
        started = session.call(
            "start_historical_sync", connection_id=connection_id, date_from="2013-07-03", date_to="2013-07-04"
        )
    client = WorkerClient(PostgresTransport(database.login("authenticator")), service_caller(""))

    async def scenario() -> str:
        [claimed] = await client.claim("w", ["historical_sync"], 1, 30)
        return await Engine(client, 5).run(claimed, RUN, Signals())

    assert asyncio.run(scenario()) == "completed"
    asyncio.run(client.aclose())
    total = 0
    for resource in ("flights", "weather", "airlines"):
        expected = rows(resource, "2013-07-03", "2013-07-04", float)
        members = RESOURCES[resource].primary_key
        stored = database.all("select key, data from app.records where resource = %s", (resource,))
        assert {row["key"]: row["data"] for row in stored} == {
            json.dumps([row[member] for member in members], separators=(",", ":")): row for row in expected
        }
        total += len(expected)
    assert database.execution(started["job_id"])["records"] == total
