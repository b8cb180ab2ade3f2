"""Lists with filters: any number of `field=value` or `field[operator]=value` in the query, beside paging.

Source of the syntax: the published API of sync jobs.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from functions._shared.error_catalog import (
    INVALID_CURSOR,
    INVALID_VALUE,
    UNKNOWN_FILTER,
    UNKNOWN_OPERATOR,
    UNKNOWN_SORT,
)
from functions._shared.fields import PgText

OPERATORS = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "exists", "like", "ilike")
MAX_FILTERS = 20
FILTER_ERRORS = (UNKNOWN_FILTER, UNKNOWN_OPERATOR, INVALID_VALUE, UNKNOWN_SORT, INVALID_CURSOR)

_FILTER = re.compile(r"(?P<field>\w+)(?:\[(?P<op>\w*)\])?", re.ASCII)
_PAGING = {"limit", "next_cursor", "prev_cursor", "sort"}


def _number(value: object) -> object:
    return int(value) if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}", value) else value


class Filter(BaseModel):
    field: PgText
    op: PgText = "eq"
    value: PgText


class FilteredList(BaseModel):
    """Every other parameter of the query is a filter by one of `filterable`, which are columns of the listed view."""

    filterable: ClassVar[tuple[str, ...]] = ()

    filters: SkipJsonSchema[Annotated[list[Filter], Field(max_length=MAX_FILTERS)]] = []
    limit: Annotated[int | None, BeforeValidator(_number)] = None
    next_cursor: PgText | None = None
    prev_cursor: PgText | None = None
    sort: PgText | None = None

    @model_validator(mode="before")
    @classmethod
    def _collect_filters(cls, query: dict[str, str]) -> dict[str, Any]:
        paging = {name: value for name, value in query.items() if name in _PAGING}
        return {**paging, "filters": [_filter(name, value) for name, value in query.items() if name not in _PAGING]}


class Page(BaseModel):
    """The cursors are null if there is no further page."""

    next_cursor: str | None
    prev_cursor: str | None
    limit: int


def parameter(request: type[FilteredList], example: dict[str, Any]) -> dict[str, Any]:
    """The filters in OpenAPI: an object whose members are query parameters under their own names."""
    fields, operators = ("|".join(names) for names in (request.filterable, OPERATORS))
    return {
        "name": "filters",
        "in": "query",
        "required": False,
        "style": "form",
        "explode": True,
        "description": (
            "Not a parameter of this name. Every other parameter is a filter, `field=value` or `field[operator]=value`."
            f" The list has what passes all filters, of which there may be {MAX_FILTERS}."
            f" Fields: {', '.join(request.filterable)}."
            f" Operators: {', '.join(OPERATORS)}; without one, eq. `in` and `nin` take values separated by commas,"
            " `exists` true or false, `like` and `ilike` a pattern with `%` and `_`."
        ),
        "schema": {
            "type": "object",
            "propertyNames": {"pattern": rf"^({fields})(\[({operators})?\])?$"},
            "additionalProperties": {"type": "string"},
            "maxProperties": MAX_FILTERS,
        },
        "example": example,
    }


def _filter(name: str, value: str) -> dict[str, str]:
    match = _FILTER.fullmatch(name)
    if not match:  # SQL rejects the field
        return {"field": name, "value": value}
    return {"field": match["field"], "op": match["op"] or "eq", "value": value}
