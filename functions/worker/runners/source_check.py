"""One page of a resource, for a caller who waits: whether the source responds, and which fields its records have."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from functions._connections.errors import SourceRefused, SourceUnavailable
from functions.worker.client import Batch
from functions.worker.runners.pages import get_resource

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping

    from functions.worker.client import Execution
    from functions.worker.connectors import OpenSource
    from functions.worker.connectors.http import Page

TYPES: Mapping[type, str] = {
    bool: "boolean",
    int: "number",
    Decimal: "number",
    str: "string",
    list: "array",
    dict: "object",
}

# Retries included, and less than the caller waits (_shared/source_check.py): a slow source must not delay other checks.
CHECK_SECONDS = 8.0


async def source_check(execution: Execution, open_source: OpenSource) -> AsyncGenerator[Batch, None]:
    if execution.checkpoint:
        return
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            name, page = await first_page(execution, open_source)
    except SourceUnavailable as error:  # reported to the caller, who waits, instead of retried
        raise SourceRefused(error.code, error.message) from error
    except TimeoutError:
        raise SourceRefused("source_unavailable", "The source took too long. Try again later.") from None
    progress = {"fields": fields(record.data for record in page.records)}
    yield Batch(name, [], {"complete": True}, progress, done=True)


async def first_page(execution: Execution, open_source: OpenSource) -> tuple[str, Page]:
    async with open_source(execution.connection) as source:
        name = execution.spec["resource"] or next(iter(source.resources))
        get_resource(source, name)
        async with aclosing(source.pages(name, None)) as pages:
            return name, await anext(pages)


def fields(records: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The members of these records in the order of their appearance, each with its type: {name, type}.

    A member that holds values of several types, or none but null, is of type `unknown`.
    """
    found: dict[str, set[str]] = {}
    for record in records:
        for name, value in record.items():
            types = found.setdefault(name, set())
            if value is not None:
                types.add(TYPES[type(value)])
    return [{"name": name, "type": types.pop() if len(types) == 1 else "unknown"} for name, types in found.items()]
