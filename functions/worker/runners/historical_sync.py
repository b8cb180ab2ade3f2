"""A date range, resource by resource and window by window; one batch is (at most) one page of the source.

The checkpoint is where to go on: {resource, date, page, skip, of}, `date` the first day of the window (null for a
resource without dates), `page` the connector's position in it, `skip` how many of that page's records are stored
already, `of` the question that page answers: where the config has changed meanwhile, the window begins anew. After the
last it is {complete: true}.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

from functions.worker.connectors import open_source
from functions.worker.connectors.errors import SourceRefused
from functions.worker.protocol import Batch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

    from functions.worker.connectors.http import HttpConnector, Page
    from functions.worker.protocol import Execution

BATCH_RECORDS = 1000
BATCH_BYTES = 4 * 1024 * 1024  # of records of average size; commit_batch takes four times as much


@dataclass(frozen=True)
class Window:
    """The `number`th of all, from 0. `days` is first and last, both included; None for a resource without dates."""

    number: int
    resource: str
    days: tuple[date, date] | None

    @property
    def start(self) -> dict[str, Any]:
        first = self.days[0].isoformat() if self.days else None
        return {"resource": self.resource, "date": first, "page": None, "skip": 0}


@dataclass(frozen=True)
class Plan:
    """All windows of a job, made as they are needed: a range may be long."""

    first: date
    last: date
    days_per_window: dict[str, int | None]  # by resource, in order; None for one without dates

    @property
    def total(self) -> int:
        return sum(self._count(days) for days in self.days_per_window.values())

    def windows(self, checkpoint: dict[str, Any] | None) -> Iterator[Window]:
        """From the checkpoint's window on."""
        number = 0
        found = checkpoint is None
        for resource, days in self.days_per_window.items():
            if not found and checkpoint is not None and checkpoint.get("resource") != resource:
                number += self._count(days)
                continue
            skipped = self._skipped(days, None if found else checkpoint)
            found = True
            for nth in range(skipped, self._count(days)):
                yield Window(number + nth, resource, self._days(days, nth))
            number += self._count(days)

    def _count(self, days: int | None) -> int:
        return 1 if days is None else -(-((self.last - self.first).days + 1) // days)

    def _skipped(self, days: int | None, checkpoint: dict[str, Any] | None) -> int:
        if days is None or checkpoint is None or checkpoint["date"] is None:
            return 0
        return (date.fromisoformat(checkpoint["date"]) - self.first).days // days

    def _days(self, days: int | None, nth: int) -> tuple[date, date] | None:
        if days is None:
            return None
        first = self.first + timedelta(days=nth * days)
        return first, self.last if (self.last - first).days < days else first + timedelta(days=days - 1)


async def historical_sync(execution: Execution) -> AsyncGenerator[Batch, None]:
    checkpoint = execution.checkpoint
    if checkpoint and checkpoint.get("complete"):
        return
    async with open_source(execution.connection) as source:
        plan = make_plan(execution.spec, source)
        counts = {"windows_total": plan.total, "windows_before": execution.progress.get("windows_before", 0)}
        for window, following in pairwise(chain(plan.windows(checkpoint), [None])):
            assert window is not None
            after = following.start if following else {"complete": True}
            position = _position(source, window, checkpoint)
            async for batch in _window_batches(source, window, position, after, counts):
                yield batch


def make_plan(spec: dict[str, Any], source: HttpConnector) -> Plan:
    days: dict[str, int | None] = {}
    for name in spec["resources"]:
        if name not in source.resources:
            raise SourceRefused("source_resource_gone", "The connection no longer has a resource of this job.")
        resource = source.resources[name]
        days[name] = resource.window_days if resource.date_filter else None
    return Plan(date.fromisoformat(spec["date_from"]), date.fromisoformat(spec["date_to"]), days)


def _position(source: HttpConnector, window: Window, checkpoint: dict[str, Any] | None) -> dict[str, Any]:
    """Where to begin in a window: where the checkpoint says, if it says so of this very question."""
    question = f"{window.resource} {window.days} {source.resources[window.resource].model_dump_json()}"
    of = hashlib.sha256(question.encode()).hexdigest()[:16]
    return checkpoint if checkpoint and checkpoint.get("of") == of else {**window.start, "of": of}


async def _window_batches(
    source: HttpConnector, window: Window, position: dict[str, Any], after: dict[str, Any], counts: dict[str, int]
) -> AsyncGenerator[Batch, None]:
    async for page in source.pages(window.resource, window.days, position["page"]):
        following = {**position, "page": page.next, "skip": 0}
        for batch in _page_batches(page, window, position, after if page.next is None else following, counts):
            yield batch
        position = following


def _page_batches(
    page: Page, window: Window, position: dict[str, Any], after: dict[str, Any], counts: dict[str, int]
) -> Iterator[Batch]:
    """One batch for a page of usual size, also for an empty one: its checkpoint moves on."""
    records: Sequence[dict[str, Any]] = [{"key": record.key, "data": record.data} for record in page.records]
    skip = position["skip"]
    most = _most_per_batch(page)
    while True:
        end = skip + most
        is_last = end >= len(records)
        checkpoint = after if is_last else {**position, "skip": end}
        done = window.number + (is_last and page.next is None)
        yield Batch(window.resource, records[skip:end], checkpoint, {"windows_done": done, **counts})
        if is_last:
            return
        skip = end


def _most_per_batch(page: Page) -> int:
    average = page.size // max(len(page.records), 1)
    return max(1, min(BATCH_RECORDS, BATCH_BYTES // max(average, 1)))
