"""A model's records, mapped to rows of an object, where the execution's records land.

A row's key is the JSON list of its identity's value, as a connector makes them, so a row that a bulk sync has stored is
found again. The checkpoint is {page, skip, request_hash} (see pages.py); after the last page {complete: true}.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from functions.worker.client import Batch
from functions.worker.connectors.http.records import MAX_KEY_BYTES, key_of
from functions.worker.runners.pages import chunks, get_resource, resume_position

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from functions.worker.client import Execution
    from functions.worker.connectors import OpenSource


async def model_sync(execution: Execution, open_source: OpenSource) -> AsyncGenerator[Batch, None]:
    spec, checkpoint = execution.spec, execution.checkpoint
    if checkpoint and checkpoint.get("complete"):
        return
    async with open_source(execution.connection) as source:
        get_resource(source, spec["resource"])
        begin = resume_position(source, spec["resource"], None, {}, checkpoint)
        async for chunk in chunks(source, spec["resource"], None, begin, {"complete": True}):
            rows, errors = mapped(spec, chunk.records)
            yield Batch(spec["object"], rows, chunk.checkpoint, {}, errors=errors, done=chunk.is_last)


def mapped(spec: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """The records as rows, and a sentence about each that has no identity to be found by."""
    rows, errors = [], []
    identity = spec.get("identity")
    for record in records:
        data = {mapping["target"]: record["data"].get(mapping["source"]["field"]) for mapping in spec["fields"]}
        key = record["key"]
        if identity:
            field = identity["source"]["field"]
            value = record["data"].get(field)
            if not isinstance(value, str | int | Decimal):
                errors.append(f'The record {record["key"][:200]} has no value for its identity "{field}".')
                continue
            data[identity["target"]] = value
            key = key_of([value])
            if len(key.encode()) > MAX_KEY_BYTES:
                errors.append(f'A record\'s identity "{field}" has more than {MAX_KEY_BYTES} bytes.')
                continue
        rows.append({"key": key, "data": data})
    return rows, errors
