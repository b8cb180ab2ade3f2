"""From a query string to a page of a table."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlencode

from functions._local.source.refusal import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions._local.source.data import Table

DEFAULT_PAGE_SIZE: Final = 500
MAX_PAGE_SIZE: Final = 1000
PARAMETERS: Final = frozenset({"api_key", "page", "per_page", "offset", "limit", "cursor"})
DATES: Final = frozenset({"date_from", "date_to"})


def parse(text: str, *, dated: bool) -> dict[str, str]:
    """The parameters of a query string, none unknown, repeated or of two styles; raises RefusedError."""
    allowed = PARAMETERS | DATES if dated else PARAMETERS
    pairs = parse_qsl(text, keep_blank_values=True)
    query = dict(pairs)
    if len(query) < len(pairs):
        raise RefusedError(400, "a parameter was given twice")
    if unknown := sorted(query.keys() - allowed):
        raise RefusedError(400, f"unknown parameter {unknown[0]}; known are {', '.join(sorted(allowed))}")
    styles = [{"page", "per_page"} & query.keys(), {"offset", "limit", "cursor"} & query.keys()]
    if all(styles) or {"offset", "cursor"} <= query.keys():
        raise RefusedError(400, "parameters of two pagination styles were mixed")
    return query


def page(name: str, rows: Table, query: Mapping[str, str]) -> tuple[bytes, str | None]:
    """The body, and the query string of the next page where pages are numbered; raises RefusedError."""
    asked = _slice(name, rows, query)
    total = asked.bounds[1] - asked.bounds[0]
    tail = f'],"total":{total},"next_cursor":{json.dumps(asked.next_cursor)}}}'
    body = b"".join([b'{"data":[', rows.rows(asked.start, asked.stop), tail.encode()])
    return body, None if asked.next_page is None else urlencode({**query, "page": asked.next_page})


@dataclass(frozen=True)
class _Slice:
    """The rows a query asks for: start..stop of the table, out of the half-open range `bounds`."""

    start: int
    stop: int
    bounds: tuple[int, int]
    scope: str
    next_page: int | None  # None in the item styles, and at the end

    @property
    def next_cursor(self) -> str | None:
        return _encode_cursor(self.scope, self.stop - self.bounds[0]) if self.stop < self.bounds[1] else None


def _slice(name: str, rows: Table, query: Mapping[str, str]) -> _Slice:
    first, last = _date(query, "date_from"), _date(query, "date_to")
    if first and last and first > last:
        raise RefusedError(400, "date_from must not be after date_to")
    bounds = rows.between(first, last)
    scope = f"{name} {first} {last}"
    by_page = not {"offset", "limit", "cursor"} & query.keys()
    size = _whole(query, "per_page" if by_page else "limit", DEFAULT_PAGE_SIZE, 1, MAX_PAGE_SIZE)
    page = _whole(query, "page", 1, 1, 10**9 - 1)
    if by_page:
        skipped = (page - 1) * size
    elif "cursor" in query:
        skipped = _decode_cursor(scope, query["cursor"])
    else:
        skipped = _whole(query, "offset", 0, 0, 10**9 - 1)
    start = min(bounds[0] + skipped, bounds[1])
    stop = min(start + size, bounds[1])
    return _Slice(start, stop, bounds, scope, page + 1 if by_page and stop < bounds[1] else None)


def _whole(query: Mapping[str, str], name: str, default: int, first: int, last: int) -> int:
    text = query.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text) or not first <= int(text) <= last:
        raise RefusedError(400, f"{name} must be a whole number from {first} to {last}")
    return int(text)


def _date(query: Mapping[str, str], name: str) -> str | None:
    text = query.get(name)
    try:
        # date.fromisoformat reads other spellings too, which would not compare as text.
        if text is None or date.fromisoformat(text).isoformat() == text:
            return text
    except ValueError:
        pass
    raise RefusedError(400, f"{name} must be a date written YYYY-MM-DD")


def _encode_cursor(scope: str, start: int) -> str:
    return base64.urlsafe_b64encode(f"{start} {scope}".encode()).decode()


def _decode_cursor(scope: str, cursor: str) -> int:
    try:
        start, _, owner = base64.urlsafe_b64decode(cursor).decode().partition(" ")
    except (binascii.Error, ValueError):
        owner, start = "", ""
    if owner != scope or not start.isdigit():
        raise RefusedError(400, "cursor does not belong to this resource and these dates")
    return int(start)
