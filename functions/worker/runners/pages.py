"""From a source's pages to chunks that can be committed, and where to go on after each.

A position is {page, skip, request_hash} with whatever else its runner keeps there: `page` is the connector's position,
`skip` how many of that page's records are stored already, `request_hash` the hash of the request for it: where the
connection's config or what is requested has changed since, reading begins anew.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from functions._connections.errors import SourceRefused
from functions.worker.connectors.http.params import encode_params

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence
    from datetime import date

    from functions._connections.http_config import Resource
    from functions.worker.connectors.http import HttpConnector, Page
    from functions.worker.connectors.http.params import Params

BATCH_RECORDS = 1000
BATCH_BYTES = 4 * 1024 * 1024  # of records of average size; worker_commit_batch takes four times as much


@dataclass(frozen=True)
class Chunk:
    """Records ({key, data} each) and the checkpoint that follows them; the last may be empty."""

    records: Sequence[dict[str, Any]]
    checkpoint: dict[str, Any]
    is_last: bool


def get_resource(source: HttpConnector, name: str) -> Resource:
    """The resource as the connection describes it now."""
    if name not in source.resources:
        raise SourceRefused("source_resource_gone", "The connection no longer has a resource of this job.")
    return source.resources[name]


def resume_position(  # noqa: PLR0913 (the last by name)
    source: HttpConnector,
    name: str,
    days: tuple[date, date] | None,
    start: dict[str, Any],
    checkpoint: dict[str, Any] | None,
    *,
    params: Params | None = None,
) -> dict[str, Any]:
    """Where to begin: where the checkpoint says, if it says so of this very request, else at `start`."""
    request = f"{name} {days} {source.resources[name].model_dump_json()}"
    if encoded := encode_params(params):
        request += f" {json.dumps(encoded, sort_keys=True)}"
    request_hash = hashlib.sha256(request.encode()).hexdigest()[:16]
    if checkpoint and checkpoint.get("request_hash") == request_hash:
        return checkpoint
    return {**start, "page": None, "skip": 0, "request_hash": request_hash}


async def chunks(  # noqa: PLR0913 (the last by name)
    source: HttpConnector,
    name: str,
    days: tuple[date, date] | None,
    begin: dict[str, Any],
    after: dict[str, Any],
    *,
    params: Params | None = None,
) -> AsyncGenerator[Chunk, None]:
    """What there is from `begin` on, at least one chunk; `after` is the checkpoint behind the last."""
    async for page in source.pages(name, days, begin["page"], params):
        following = {**begin, "page": page.next, "skip": 0}
        for chunk in _chunks_of(page, begin, after if page.next is None else following):
            yield chunk
        begin = following


def _chunks_of(page: Page, begin: dict[str, Any], after: dict[str, Any]) -> Iterator[Chunk]:
    for records, end in split_page(page, begin["skip"]):
        ends_page = end >= len(page.records)
        checkpoint = after if ends_page else {**begin, "skip": end}
        yield Chunk(records, checkpoint, ends_page and page.next is None)


def split_page(page: Page, skip: int) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """The page's records from `skip` on, as many at a time as a batch may hold, each with where the next begin.

    Once for a page of usual size, also for an empty one: its checkpoint moves on.
    """
    most = _most_per_batch(page)
    while True:
        end = min(skip + most, len(page.records))
        yield [{"key": record.key, "data": record.data} for record in page.records[skip:end]], end
        if end >= len(page.records):
            return
        skip = end


def _most_per_batch(page: Page) -> int:
    average = page.size // max(len(page.records), 1)
    return max(1, min(BATCH_RECORDS, BATCH_BYTES // max(average, 1)))
