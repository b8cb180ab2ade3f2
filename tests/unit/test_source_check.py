"""functions/worker/runners/source_check.py: the fields of a page's records, and the results of checks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from functions._connections.errors import SourceRefused
from functions._local.postgres import free_port
from functions._local.source import RESOURCES, Source
from functions._shared import exact_json
from functions.worker.client import Batch, Execution
from functions.worker.connectors import open_source
from functions.worker.runners import CHECKS, RUNNERS
from functions.worker.runners.source_check import fields, source_check

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NO_END_SECONDS = 3600.0


@pytest.mark.parametrize(
    ("records", "types"),
    [
        ([], {}),
        ([{}], {}),
        ([{}, {"a": 1}, {}], {"a": "number"}),
        ([{"s": "x", "i": 1, "f": 1.5, "b": True, "l": [1], "o": {"x": 1}}], {
            "s": "string", "i": "number", "f": "number", "b": "boolean", "l": "array", "o": "object"}),
        ([{"a": None}], {"a": "unknown"}),
        ([{"a": None}, {"a": "x"}, {"a": None}], {"a": "string"}),
        ([{"a": 1}, {"a": 2.5}, {"a": -0.0}], {"a": "number"}),
        ([{"a": 1}, {"a": "1"}], {"a": "unknown"}),
        ([{"a": True}, {"a": 1}], {"a": "unknown"}),
        ([{"a": False}, {"a": None}], {"a": "boolean"}),
        ([{"a": {}}, {"a": []}], {"a": "unknown"}),
        ([{"a": {"b": {"c": None}}}, {"a": {"d": 1}}], {"a": "object"}),
        ([{"a": [None]}, {"a": []}], {"a": "array"}),
        ([{"a": ""}, {"a": "x" * 10**6}], {"a": "string"}),
        ([{"a": 10**100}, {"a": 1e300}], {"a": "number"}),
        ([{"": 1, " ": "x", "日本 🛫": None, "a.b": []}], {
            "": "number", " ": "string", "日本 🛫": "unknown", "a.b": "array"}),
    ],
    ids=lambda value: json.dumps(value, ensure_ascii=True)[:40],
)  # fmt: skip
def test_fields__types(records: list[dict[str, Any]], types: dict[str, str]) -> None:
    read = exact_json.loads(json.dumps(records))
    assert fields(read) == [{"name": name, "type": type_} for name, type_ in types.items()]


def test_fields__in_order_of_appearance() -> None:
    records: list[dict[str, Any]] = [{"z": 1, "a": 1}, {"m": 1, "a": 2}, {"b": None, "z": 1}]
    assert [field["name"] for field in fields(iter(records))] == ["z", "a", "m", "b"]


def test_checks__own_queue() -> None:
    assert set(CHECKS) == {"source_check"}
    assert not set(CHECKS) & set(RUNNERS)


# The runner


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    with Source() as made:
        yield made


@pytest.fixture(autouse=True)
def no_faults(source: Source) -> Iterator[None]:
    yield
    source.faults.clear()


def check(connection: Mapping[str, Any] | None, resource: str | None = None, **columns: Any) -> list[Batch]:
    """The batches of a check of this connection."""
    identity: dict[str, Any] = {
        "id": "x",
        "agency_id": "a",
        "family": "source_check",
        "lease_token": 1,
        "seq": 0,
        "progress": {},
    }
    values = {"spec": {"resource": resource}, "checkpoint": None, "connection_id": "c"} | columns
    execution = Execution(**identity, **values, connection=None if connection is None else dict(connection))

    async def run() -> list[Batch]:
        async with contextlib.aclosing(
            source_check(execution, partial(open_source, allow_private_addresses=True))
        ) as batches:
            return [batch async for batch in batches]

    return asyncio.run(run())


def connection(source: Source, *resources: str, **changes: Any) -> dict[str, Any]:
    config, secret = source.connection(resources or None)
    return {"kind": "http", "config": config | changes, "secret": secret}


def error_of(connection: Mapping[str, Any] | None, resource: str | None = None) -> SourceRefused:
    with pytest.raises(SourceRefused) as raised:
        check(connection, resource)
    return raised.value


@pytest.mark.parametrize("resource", ["airports", "weather", None])
def test_check__one_page_requested_and_nothing_stored(source: Source, resource: str | None) -> None:
    before = len(source.requests)
    [batch] = check(connection(source, "airports", "weather"), resource)
    assert [request.path for request in source.requests[before:]] == [f"/{resource or 'airports'}"]
    assert (batch.resource, batch.records, batch.done, batch.errors) == (resource or "airports", [], True, ())
    assert batch.checkpoint == {"complete": True}
    names = [field["name"] for field in batch.progress["fields"]]
    assert set(RESOURCES[batch.resource].primary_key) <= set(names)
    assert {field["type"] for field in batch.progress["fields"]} <= {"string", "number", "unknown", "boolean"}


def test_check__taken_over_after_its_end__no_request(source: Source) -> None:
    before = len(source.requests)
    assert check(connection(source), checkpoint={"complete": True}) == []
    assert len(source.requests) == before


def test_source__invalid_json(source: Source) -> None:
    source.faults.invalid_json()
    assert error_of(connection(source), "airports").code == "source_malformed"


def test_source__no_records_at_the_path(source: Source) -> None:
    made = connection(source, "airports")
    made["config"]["resources"]["airports"]["records"] = "nowhere"
    assert error_of(made).code == "source_malformed"


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "source_unauthorized"), (404, "source_not_found"), (302, "source_refused"), (400, "source_refused")],
)
def test_source__error_status(source: Source, status: int, code: str) -> None:
    source.faults.status(status)
    assert error_of(connection(source), "airports").code == code


def test_secret__wrong(source: Source) -> None:
    made = connection(source) | {"secret": {"token": "n0t-the-token"}}
    error = error_of(made, "airports")
    assert error.code == "source_unauthorized"
    assert "n0t" not in error.message


@pytest.mark.parametrize("secret", [{}, {"token": 1}, {"api_key": "x"}], ids=str)
def test_secret__invalid(source: Source, secret: dict[str, Any]) -> None:
    assert error_of(connection(source) | {"secret": secret}).code == "source_config_invalid"


def test_connection__not_readable(source: Source) -> None:
    assert error_of(None).code == "source_not_readable"
    assert error_of({"kind": "records", "config": {}, "secret": {}}).code == "source_not_readable"
    assert error_of({"kind": "http", "config": {}, "secret": {}}).code == "source_config_invalid"
    assert error_of(connection(source, "airports"), "flights").code == "source_resource_gone"


def test_source__unavailable__not_retried(source: Source) -> None:
    """SourceRefused, because a retry would come after the caller has gone."""
    made = connection(source, "airports", base_url=f"http://127.0.0.1:{free_port()}")
    error = error_of(made)
    assert error.code == "source_unavailable"
    assert type(error) is SourceRefused


def test_source__too_slow__bounded(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also below the connection's own timeout, because the next check waits."""
    monkeypatch.setattr(sys.modules[source_check.__module__], "CHECK_SECONDS", 0.05)
    source.faults.delay_seconds = NO_END_SECONDS
    error = error_of(connection(source, "airports", timeout_seconds=3600))
    assert error.code == "source_unavailable"
