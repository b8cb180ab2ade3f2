"""From a source's pages to pieces that can be committed, and where to go on after each.

A position is {page, skip, of} with whatever else its runner keeps there: `page` is the connector's position, `skip` how
many of that page's records are stored already, `of` the question that page answers: where the connection's config or
what is asked of it has changed meanwhile, what it answered to begins anew.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from functions._connections.errors import SourceRefused
from functions.worker.connectors.http.params import written

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence
    from datetime import date

    from functions._connections.http_config import Resource
    from functions.worker.connectors.http import HttpConnector, Page
    from functions.worker.connectors.http.params import Params

BATCH_RECORDS = 1000
BATCH_BYTES = 4 * 1024 * 1024  # of records of average size; worker_commit_batch takes four times as much


@dataclass(frozen=True)
class Piece:
    """Records ({key, data} each) and the checkpoint that follows them; the last may be empty."""

    records: Sequence[dict[str, Any]]
    checkpoint: dict[str, Any]
    is_last: bool


def get_resource(source: HttpConnector, name: str) -> Resource:
    """The resource as the connection describes it now."""
    if name not in source.resources:
        raise SourceRefused("source_resource_gone", "The connection no longer has a resource of this job.")
    return source.resources[name]


def position(  # noqa: PLR0913 (the last by name)
    source: HttpConnector,
    name: str,
    days: tuple[date, date] | None,
    start: dict[str, Any],
    checkpoint: dict[str, Any] | None,
    *,
    params: Params | None = None,
) -> dict[str, Any]:
    """Where to begin: where the checkpoint says, if it says so of this very question, else at `start`."""
    question = f"{name} {days} {source.resources[name].model_dump_json()}"
    if further := written(params):
        question += f" {json.dumps(further, sort_keys=True)}"
    of = hashlib.sha256(question.encode()).hexdigest()[:16]
    return checkpoint if checkpoint and checkpoint.get("of") == of else {**start, "page": None, "skip": 0, "of": of}


async def chunks(  # noqa: PLR0913 (the last by name)
    source: HttpConnector,
    name: str,
    days: tuple[date, date] | None,
    begin: dict[str, Any],
    after: dict[str, Any],
    *,
    params: Params | None = None,
) -> AsyncGenerator[Piece, None]:
    """What there is from `begin` on, at least one piece; `after` is the checkpoint behind the last."""
    async for page in source.pages(name, days, begin["page"], params):
        following = {**begin, "page": page.next, "skip": 0}
        for piece in _pieces_of(page, begin, after if page.next is None else following):
            yield piece
        begin = following


def _pieces_of(page: Page, begin: dict[str, Any], after: dict[str, Any]) -> Iterator[Piece]:
    for records, end in cut(page, begin["skip"]):
        ends_page = end >= len(page.records)
        checkpoint = after if ends_page else {**begin, "skip": end}
        yield Piece(records, checkpoint, ends_page and page.next is None)


def cut(page: Page, skip: int) -> Iterator[tuple[list[dict[str, Any]], int]]:
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
