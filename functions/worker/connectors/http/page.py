"""What a connector yields: pages of records, and the position to continue at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

# The request of a page, as JSON that can be stored; each pagination style has its own (pagination.py).
Position: TypeAlias = dict[str, object]


@dataclass(frozen=True)
class Record:
    """`key` is the JSON list of the primary key's values, in the config's order: equal records have equal keys."""

    key: str
    data: dict[str, object]


@dataclass(frozen=True)
class Page:
    """`next` is the position of the following page; None after the last page.

    `size` is the size of the response body, in bytes.
    """

    records: list[Record]
    next: Position | None
    size: int = field(default=0, compare=False)
