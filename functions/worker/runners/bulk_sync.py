"""Whole resources, one after the other, to where the execution's records land.

The checkpoint is {schema, page, skip, request_hash} (see pages.py); after the last schema {complete: true}.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from functions.worker.client import Batch
from functions.worker.runners.pages import chunks, get_resource, resume_position

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from functions.worker.client import Execution
    from functions.worker.connectors import OpenSource


async def bulk_sync(execution: Execution, open_source: OpenSource) -> AsyncGenerator[Batch, None]:
    checkpoint = execution.checkpoint or {}
    schemas = execution.spec["schemas"]
    ids = [schema["id"] for schema in schemas]
    if checkpoint.get("complete"):
        return
    done = ids.index(checkpoint["schema"]) if checkpoint else 0
    async with open_source(execution.connection) as source:
        for schema, following in pairwise([*schemas[done:], None]):
            get_resource(source, schema["id"])
            begin = resume_position(source, schema["id"], None, {"schema": schema["id"]}, checkpoint)
            after = {"schema": following["id"]} if following else {"complete": True}
            async for chunk in chunks(source, schema["id"], None, begin, after):
                done += chunk.is_last
                progress = {"schemas_done": done, "schemas_total": len(schemas)}
                yield Batch(schema["output_name"], chunk.records, chunk.checkpoint, progress, done=chunk.is_last)
