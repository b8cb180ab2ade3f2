"""How each pagination style requests a page and finds the next one.

A position identifies a page and can be stored as JSON; None is the first page.

page_number   {"page": the page's number, "seen": records in the pages before it}
offset        {"offset": records before the page}
cursor        {"cursor": the cursor as received}
link_header   {"link": path and query of the page}
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from functions._connections.errors import SourceRefused, malformed
from functions._connections.http_config import Counted, Cursor, LinkHeader, NoPagination, Offset, PageNumber

if TYPE_CHECKING:
    from functions.worker.connectors.http.page import Page, Position

Style: TypeAlias = PageNumber | Offset | Cursor | LinkHeader | NoPagination
T = TypeVar("T")

MAX_EMPTY_PAGES: Final = 100  # in a row


@dataclass(frozen=True)
class PageResponse:
    """The parts of a response from which a style finds the next page."""

    body: object
    count: int  # records in this page
    link: str | None  # path and query of the Link header's rel="next"


def page_params(style: Style, position: Position | None) -> dict[str, object]:
    """The query parameters that request the page. A link contains its own."""
    size: dict[str, object] = {}
    if not isinstance(style, NoPagination) and style.size_param is not None:
        size[style.size_param] = style.size
    match style:
        case PageNumber():
            return {style.param: position_value(position, "page", style.first), **size}
        case Offset():
            return {style.param: position_value(position, "offset", 0), **size}
        case Cursor() if position is not None:
            return {**size, style.param: position_value(position, "cursor", "")}
        case LinkHeader() if position is not None:
            return {}
    return size


def param_names(style: Style) -> set[str]:
    """The names of the parameters that the style sends with any page."""
    return {name for name in (getattr(style, "param", None), getattr(style, "size_param", None)) if name}


def next_position(style: Style, position: Position | None, response: PageResponse) -> Position | None:
    """The position after the page with this response. None: it was the last."""
    match style:
        case PageNumber():
            seen = position_value(position, "seen", 0) + response.count
            page = position_value(position, "page", style.first) + 1
            return None if _ended(style, response, seen) else {"page": page, "seen": seen}
        case Offset():
            # Counts the records received, not the size requested: the server may have sent fewer.
            seen = position_value(position, "offset", 0) + response.count
            return None if _ended(style, response, seen) else {"offset": seen}
        case Cursor():
            cursor = _cursor(style, response)
            return {"cursor": cursor} if cursor else None
        case LinkHeader():
            return {"link": response.link} if response.link else None
    return None


def _ended(style: Counted, response: PageResponse, seen: int) -> bool:
    if response.count == 0 or style.total is None:
        return response.count == 0
    total = get_path(response.body, style.total)
    if type(total) is not int:
        malformed(f'The response has no whole number at "{style.total}". Correct total in the pagination, or omit it.')
    return seen >= total


def _cursor(style: Cursor, response: PageResponse) -> str:
    """The next page's cursor; "" after the last page."""
    cursor = get_path(response.body, style.next)
    if cursor is None:
        return ""
    if type(cursor) not in {str, int}:
        malformed(f'The cursor at "{style.next}" is neither text nor a whole number. Correct next in the pagination.')
    return str(cursor)


def get_path(body: object, path: str) -> object:
    """The value at a dotted path, or None. The empty path is the body itself."""
    for name in path.split(".") if path else ():
        body = body.get(name) if isinstance(body, dict) else None
    return body


def position_value(position: Position | None, name: str, first: T) -> T:
    """The position's value of that name, which has the type of `first`. `first` itself for the first page."""
    if position is None:
        return first
    value = position.get(name)
    if type(value) is not type(first):
        # Most likely the pagination style was changed during a run.
        raise SourceRefused(
            "source_position_invalid", "The stored position does not fit the pagination style. Start a new run."
        )
    return value


class PaginationGuard:
    """Detects a source whose pages never end: it repeats a page, or returns empty ones without end."""

    def __init__(self, name: str, position: Position | None) -> None:
        self._name = name
        self._positions = {json.dumps(position)}
        self._pages: set[int] = set()
        self._empty = 0

    def check(self, page: Page) -> None:
        """Raises SourceRefused."""
        if page.next is None:
            return
        position = json.dumps(page.next)
        content = hash(tuple(record.key for record in page.records))
        self._empty = 0 if page.records else self._empty + 1
        repeated = position in self._positions or (page.records and content in self._pages)
        if repeated or self._empty > MAX_EMPTY_PAGES:
            malformed(f'The source repeats a page of "{self._name}" without end. Correct pagination in the config.')
        self._positions.add(position)
        self._pages.add(content)
