"""Lists that can be filtered: `field=value` or `field[op]=value`, as many as one likes, besides the paging itself."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from functions._shared.errors import ErrorSpec
from functions._shared.fields import PgText

OPERATORS = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "exists", "like", "ilike")
MOST = 20

_FILTER = re.compile(r"(?P<field>\w+)(?:\[(?P<op>\w*)\])?", re.ASCII)

REFUSALS = (
    ErrorSpec(400, "unknown_filter", "The list has no such field.", {"field": "nme", "available": ["id", "status"]}),
    ErrorSpec(400, "unknown_operator", "There is no such operator.", {"operator": "between"}),
    ErrorSpec(400, "invalid_value", "A filter's value is not of its field's type."),
    ErrorSpec(400, "unknown_sort", "`sort` is neither created_at nor -created_at."),
    ErrorSpec(400, "invalid_cursor", "The cursor is not one that a list has given."),
)


def _number(value: object) -> object:
    return int(value) if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}", value) else value


class Filter(BaseModel):
    field: PgText
    op: PgText = "eq"
    value: PgText


class FilteredList(BaseModel):
    """Any further parameter is a filter by one of `filterable`, the plain columns of the view that is listed."""

    filterable: ClassVar[tuple[str, ...]] = ()

    filters: SkipJsonSchema[Annotated[list[Filter], Field(max_length=MOST)]] = []
    limit: Annotated[int | None, BeforeValidator(_number)] = None
    next_cursor: PgText | None = None
    prev_cursor: PgText | None = None
    sort: PgText | None = None

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, query: dict[str, str]) -> dict[str, Any]:
        paging = {"limit", "next_cursor", "prev_cursor", "sort"}
        known = {name: value for name, value in query.items() if name in paging}
        return {**known, "filters": [_filter(name, value) for name, value in query.items() if name not in paging]}


def parameter(request: type[FilteredList], example: dict[str, Any]) -> dict[str, Any]:
    """The filters as OpenAPI has them: an object whose members are parameters of the query, under their own names."""
    fields, operators = ("|".join(names) for names in (request.filterable, OPERATORS))
    return {
        "name": "filters",
        "in": "query",
        "required": False,
        "style": "form",
        "explode": True,
        "description": (
            "Not a parameter of this name: every further parameter is a filter, `field=value` or `field[op]=value`,"
            f" and what is listed passes all of them, at most {MOST}. Fields: {', '.join(request.filterable)}."
            f" Operators: {', '.join(OPERATORS)}; eq without one. `in` and `nin` take values with commas between them,"
            " `exists` true or false, `like` and `ilike` a pattern with `%` and `_`."
        ),
        "schema": {
            "type": "object",
            "propertyNames": {"pattern": rf"^({fields})(\[({operators})?\])?$"},
            "additionalProperties": {"type": "string"},
            "maxProperties": MOST,
        },
        "example": example,
    }


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
