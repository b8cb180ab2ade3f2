"""Queries: pages of a table, and single rows."""

from __future__ import annotations

import base64
import binascii
import json
import re
from bisect import bisect_left
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlencode

from functions._local.source.data import DECIMAL_COLUMNS, RESOURCES, WHOLE_COLUMNS, fields, index, table
from functions._local.source.errors import HttpError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_PAGE_SIZE: Final = 500
MAX_PAGE_SIZE: Final = 1000
PARAMETERS: Final = frozenset({"api_key", "page", "per_page", "offset", "limit", "cursor"})
DATES: Final = frozenset({"date_from", "date_to"})


def parse_query(text: str, name: str, key: str | None) -> dict[str, str]:
    """The parameters of a query string. Raises HttpError for unknown, repeated or mixed ones."""
    allowed = {"api_key"}
    if key is None:
        allowed |= PARAMETERS | set(fields(name)) | (DATES if RESOURCES[name].dated else set())
    pairs = parse_qsl(text, keep_blank_values=True)
    query = dict(pairs)
    if len(query) < len(pairs):
        raise HttpError(400, "a parameter was given twice")
    if unknown := sorted(query.keys() - allowed):
        raise HttpError(400, f"unknown parameter {unknown[0]}; known are {', '.join(sorted(allowed))}")
    styles = [{"page", "per_page"} & query.keys(), {"offset", "limit", "cursor"} & query.keys()]
    if all(styles) or {"offset", "cursor"} <= query.keys():
        raise HttpError(400, "parameters of two pagination styles were mixed")
    return query


def get_row(name: str, key: str) -> bytes:
    """The response body for one key. Raises HttpError."""
    rows = index(name, RESOURCES[name].primary_key[0]).get(key)
    if not rows:
        raise HttpError(404, "no row has this key")
    return b'{"data":' + table(name).picked(rows) + b"}"


def get_page(name: str, query: Mapping[str, str]) -> tuple[bytes, str | None]:
    """The response body, and the query of the next page if pages are numbered. Raises HttpError."""
    selected = _slice(name, query)
    tail = f'],"total":{len(selected.rows)},"next_cursor":{json.dumps(selected.next_cursor)}}}'
    body = b"".join([b'{"data":[', table(name).picked(selected.rows[selected.start : selected.stop]), tail.encode()])
    return body, None if selected.next_page is None else urlencode({**query, "page": selected.next_page})


@dataclass(frozen=True)
class _Slice:
    """The page start..stop of `rows`, the row numbers of all pages of the query."""

    rows: Sequence[int]
    start: int
    stop: int
    scope: str
    next_page: int | None  # None with offsets or cursors, and on the last page

    @property
    def next_cursor(self) -> str | None:
        return _encode_cursor(self.scope, self.stop) if self.stop < len(self.rows) else None


def _slice(name: str, query: Mapping[str, str]) -> _Slice:
    first, last = _date(query, "date_from"), _date(query, "date_to")
    if first and last and first > last:
        raise HttpError(400, "date_from must not be after date_to")
    filters = {field: query[field] for field in fields(name) if field in query}
    rows = _filtered(name, filters, range(*table(name).between(first, last)))
    scope = f"{name} {first} {last} {urlencode(filters)}"
    by_page = not {"offset", "limit", "cursor"} & query.keys()
    size = _whole(query, "per_page" if by_page else "limit", DEFAULT_PAGE_SIZE, 1, MAX_PAGE_SIZE)
    page = _whole(query, "page", 1, 1, 10**9 - 1)
    if by_page:
        skipped = (page - 1) * size
    elif "cursor" in query:
        skipped = _decode_cursor(scope, query["cursor"])
    else:
        skipped = _whole(query, "offset", 0, 0, 10**9 - 1)
    start = min(skipped, len(rows))
    stop = min(start + size, len(rows))
    return _Slice(rows, start, stop, scope, page + 1 if by_page and stop < len(rows) else None)


def _filtered(name: str, filters: Mapping[str, str], dated: range) -> Sequence[int]:
    """The rows in `dated` with these values, in the order of the table."""
    if not filters:
        return dated
    found = [index(name, field).get(_value(field, text), ()) for field, text in filters.items()]
    fewest, *others = sorted(found, key=len)
    within = fewest[bisect_left(fewest, dated.start) : bisect_left(fewest, dated.stop)]
    return [number for number in within if all(_contains(other, number) for other in others)] if others else within


def _contains(numbers: Sequence[int], number: int) -> bool:
    place = bisect_left(numbers, number)
    return place < len(numbers) and numbers[place] == number


def _value(field: str, text: str) -> str | float:
    if field not in WHOLE_COLUMNS | DECIMAL_COLUMNS:
        return text
    if re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]{1,15})?", text):
        return float(text)
    raise HttpError(400, f"{field} must be a number")


def _whole(query: Mapping[str, str], name: str, default: int, first: int, last: int) -> int:
    text = query.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text) or not first <= int(text) <= last:
        raise HttpError(400, f"{name} must be a whole number from {first} to {last}")
    return int(text)


def _date(query: Mapping[str, str], name: str) -> str | None:
    text = query.get(name)
    try:
        # date.fromisoformat accepts other formats too, which do not compare as text.
        if text is None or date.fromisoformat(text).isoformat() == text:
            return text
    except ValueError:
        pass
    raise HttpError(400, f"{name} must be a date written YYYY-MM-DD")


def _encode_cursor(scope: str, start: int) -> str:
    return base64.urlsafe_b64encode(f"{start} {scope}".encode()).decode()


def _decode_cursor(scope: str, cursor: str) -> int:
    try:
        start, _, owner = base64.urlsafe_b64decode(cursor).decode().partition(" ")
    except (binascii.Error, ValueError):
        owner, start = "", ""
    if owner != scope or not start.isdigit():
        raise HttpError(400, "cursor does not belong to this resource, these dates and these filters")
    return int(start)
