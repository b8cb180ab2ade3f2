"""A date range, resource by resource and window by window.

The checkpoint is where to go on: {resource, date, page, skip, request_hash}, `date` the first day of the window (null
for a resource without dates), the rest as pages.py says. After the last window it is {complete: true}.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

from functions.worker.client import Batch
from functions.worker.runners.pages import chunks, get_resource, resume_position

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from functions.worker.client import Execution
    from functions.worker.connectors import OpenSource
    from functions.worker.connectors.http import HttpConnector


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


async def historical_sync(execution: Execution, open_source: OpenSource) -> AsyncGenerator[Batch, None]:
    checkpoint = execution.checkpoint
    if checkpoint and checkpoint.get("complete"):
        return
    async with open_source(execution.connection) as source:
        plan = make_plan(execution.spec, source)
        counts = {"windows_total": plan.total, "windows_before": execution.progress.get("windows_before", 0)}
        for window, following in pairwise(chain(plan.windows(checkpoint), [None])):
            assert window is not None
            begin = resume_position(source, window.resource, window.days, window.start, checkpoint)
            after = following.start if following else {"complete": True}
            ends_resource = not following or following.resource != window.resource
            async for chunk in chunks(source, window.resource, window.days, begin, after):
                progress = {"windows_done": window.number + chunk.is_last, **counts}
                done = ends_resource and chunk.is_last
                yield Batch(window.resource, chunk.records, chunk.checkpoint, progress, done=done)


def make_plan(spec: dict[str, Any], source: HttpConnector) -> Plan:
    days: dict[str, int | None] = {}
    for name in spec["resources"]:
        resource = get_resource(source, name)
        days[name] = resource.window_days if resource.date_filter else None
    return Plan(date.fromisoformat(spec["date_from"]), date.fromisoformat(spec["date_to"]), days)
