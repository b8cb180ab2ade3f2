"""Members of requests: what Postgres cannot store, dates that are dates, and members that do not work yet."""

from __future__ import annotations

import re
from datetime import date
from functools import cache
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from pydantic_core import PydanticCustomError, core_schema

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain NUL characters")
    return text


# Postgres stores every character but this one.
PgText = Annotated[str, AfterValidator(_without_nul)]


def _storable(value: Any) -> Any:  # noqa: ANN401
    """Looks through a JSON value (the parser has bounded its depth)."""
    if isinstance(value, str):
        _without_nul(value)
    elif isinstance(value, float):
        if not isfinite(value):
            raise ValueError("must not contain numbers that are infinite or none")
    elif isinstance(value, dict | list):
        for one in value if isinstance(value, list) else (*value, *value.values()):
            _storable(one)
    return value


# What SQL calls int.
PgInt = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
# Whatever is in it, Postgres stores it.
PgJson = Annotated[dict[str, Any], AfterValidator(_storable)]

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def _calendar_day(value: object) -> object:
    if isinstance(value, str) and _DATE.fullmatch(value):
        return date.fromisoformat(value)
    raise ValueError("should be a date like 2013-01-31")


# Pydantic's own, even its strict one, takes "86400" for the second day of 1970.
Date = Annotated[date, BeforeValidator(_calendar_day)]


class StrictRequest(BaseModel):
    """A request of which no member is ignored: unknown ones, and those that do not work yet, are refused with 422.

    Members that only say what happens anyway (see Only) are taken and not sent on, wherever in the request they are.
    """

    model_config = ConfigDict(extra="forbid")

    @model_serializer(mode="wrap")
    def _sent(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        left_out = unsent(type(self))
        return {name: value for name, value in dump(self).items() if name not in left_out}


class AcceptsOnly:
    """Marks a member of a published contract of which only these values (and null) work; it is not sent on."""

    def __init__(self, *values: object) -> None:
        self._values = values

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:  # noqa: ANN401
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        get_resource = handler(schema)
        works = " or ".join(str(value).lower() for value in (*self._values, "null"))
        return {**get_resource, "description": f"Only {works} works so far."}

    def _check(self, value: object) -> object:
        plain = value.model_dump(exclude_none=True) if isinstance(value, BaseModel) else value
        if plain is None or any(plain == one and type(plain) is type(one) for one in self._values):
            return value
        raise PydanticCustomError("unsupported", "does not work yet")


class SupportedValues(AcceptsOnly):
    """Marks a member of which only these values work so far; it is sent on."""


@cache
def unsent(model: type[BaseModel]) -> frozenset[str]:
    """The members that only say what happens anyway."""
    fields = model.model_fields.items()
    return frozenset(name for name, field in fields if any(type(mark) is AcceptsOnly for mark in field.metadata))
