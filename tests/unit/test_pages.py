from __future__ import annotations

import asyncio
import hashlib
from datetime import date
from typing import Any

import pytest

from functions._connections.errors import SourceRefused
from functions._local.source import Source
from functions.worker.connectors.http import HttpConnector
from functions.worker.runners.pages import chunks, resume_position

WEEK = (date(2013, 3, 1), date(2013, 3, 7))


def connector() -> HttpConnector:
    config = {
        "base_url": "https://api.example",
        "auth": {"type": "none"},
        "resources": {
            name: {"path": f"/{name}", "primary_key": ["id"], "records": "data", "pagination": {"type": "none"}}
            for name in ("a", "b")
        },
    }
    return HttpConnector(config, {})


def position(
    source: HttpConnector, params: Any = None, name: str = "a", days: Any = None, checkpoint: Any = None
) -> Any:
    return resume_position(source, name, days, {"start": True}, checkpoint, params=params)


def test_resume_position__other_request__begins_again() -> None:
    source = connector()
    stored = {**position(source, {"carrier": "AA", "x": [1, 2]}), "page": {"page": 7}, "skip": 3}
    assert position(source, {"carrier": "AA", "x": [1, 2]}, checkpoint=stored) == stored
    assert position(source, {"x": ["1", 2, None], "carrier": "AA", "y": None, "z": []}, checkpoint=stored) == stored
    others: list[Any] = [
        None,
        {},
        {"carrier": "AA"},
        {"carrier": "UA", "x": [1, 2]},
        {"carrier": "AA", "x": [2, 1]},
        {"carrier": "AA", "x": "12"},
        {"carrier": "AA", "x": [1, 2], "y": ""},
    ]
    for params in others:
        again = position(source, params, checkpoint=stored)
        assert (again["page"], again["skip"], again["start"]) == (None, 0, True)
        assert again["request_hash"] != stored["request_hash"]
    assert len({position(source, params)["request_hash"] for params in others[1:]}) == len(others) - 1


def test_resume_position__no_parameters__same_request() -> None:
    source = connector()
    assert position(source) == position(source, {}) == position(source, {"x": None, "y": []})
    positions = [
        position(source),
        position(source, name="b"),
        position(source, days=WEEK),
        position(source, {"days": str(WEEK)}),
    ]
    assert len({position_["request_hash"] for position_ in positions}) == len(positions)


def test_resume_position__request_hash_without_parameters() -> None:
    source = connector()
    request = f"a None {source.resources['a'].model_dump_json()}"
    stored = {"page": {"page": 2}, "skip": 0, "request_hash": hashlib.sha256(request.encode()).hexdigest()[:16]}
    assert position(source, checkpoint=stored) == stored


def test_resume_position__invalid_parameter__refused() -> None:
    with pytest.raises(SourceRefused) as refused:
        position(connector(), {"x": {"y": 1}})
    assert refused.value.code == "source_params_invalid"


def test_chunks__read_with_the_parameters() -> None:
    with Source() as server:
        config, secret = server.connection(["weather"], page_size=10)

        async def run() -> list[str]:
            async with HttpConnector(config, secret, allow_private_addresses=True) as source:
                params = {"origin": "EWR"}
                begin = resume_position(source, "weather", WEEK, {}, None, params=params)
                read = chunks(source, "weather", WEEK, begin, {"complete": True}, params=params)
                return [record["data"]["origin"] async for chunk in read for record in chunk.records]

        origins = asyncio.run(run())
        assert set(origins) == {"EWR"}
        assert all("origin=EWR" in request.query for request in server.requests)
        assert len(server.requests) > 1
