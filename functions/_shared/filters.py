"""Lists that can be filtered: `field=value` or `field[op]=value`, as many as one likes, besides the paging itself."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from functions._shared.errors import Refusal
from functions._shared.members import Text

_FILTER = re.compile(r"(?P<field>\w+)(?:\[(?P<op>\w*)\])?", re.ASCII)

REFUSALS = (
    Refusal(400, "unknown_filter", "The list has no such field.", {"field": "nme", "available": ["id", "status"]}),
    Refusal(400, "unknown_operator", "There is no such operator.", {"operator": "between"}),
    Refusal(400, "invalid_value", "A filter's value is not of its field's type."),
    Refusal(400, "unknown_sort", "`sort` is neither created_at nor -created_at."),
    Refusal(400, "invalid_cursor", "The cursor is not one that a list has given."),
)


def _number(value: object) -> object:
    return int(value) if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}", value) else value


class Filter(BaseModel):
    field: Text
    op: Text = "eq"
    value: Text


class FilteredList(BaseModel):
    """Any further parameter is a filter; op: eq, ne, gt, gte, lt, lte, in, nin (comma lists), exists, like, ilike."""

    filters: SkipJsonSchema[Annotated[list[Filter], Field(max_length=20)]] = []
    limit: Annotated[int | None, BeforeValidator(_number)] = None
    next_cursor: Text | None = None
    prev_cursor: Text | None = None
    sort: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, query: dict[str, str]) -> dict[str, Any]:
        paging = {"limit", "next_cursor", "prev_cursor", "sort"}
        known = {name: value for name, value in query.items() if name in paging}
        return {**known, "filters": [_filter(name, value) for name, value in query.items() if name not in paging]}


def _filter(name: str, value: str) -> dict[str, str]:
    match = _FILTER.fullmatch(name)
    return (
        {"field": match["field"], "op": match["op"] or "eq", "value": value}
        if match
        else {"field": name, "value": value}
    )


class Page(BaseModel):
    """The cursors are null where there is no further page."""

    next_cursor: str | None
    prev_cursor: str | None
    limit: int
