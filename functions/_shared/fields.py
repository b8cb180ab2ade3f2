"""Types of request fields: what Postgres can store, dates, and fields of published APIs that are not supported yet."""

from __future__ import annotations

import re
from contextlib import suppress
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


def _storable(value: Any) -> Any:  # noqa: ANN401
    """Checks a JSON value of any depth, which the parser has bounded."""
    if isinstance(value, str):
        _without_nul(value)
    elif isinstance(value, float):
        if not isfinite(value):
            raise ValueError("must not contain NaN or infinite numbers")
    elif isinstance(value, dict | list):
        for element in value if isinstance(value, list) else (*value, *value.values()):
            _storable(element)
    return value


_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def _calendar_date(value: object) -> object:
    with suppress(ValueError):
        if isinstance(value, str) and _DATE.fullmatch(value):
            return date.fromisoformat(value)
    raise ValueError("must be a date like 2013-01-31")


# A string without NUL, the one character that Postgres cannot store.
PgText = Annotated[str, AfterValidator(_without_nul)]
# An SQL int.
PgInt = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
# A JSON object that Postgres can store as jsonb.
PgJson = Annotated[dict[str, Any], AfterValidator(_storable)]
# YYYY-MM-DD. Pydantic's own date, even a strict one, accepts "86400" as the second day of 1970.
Date = Annotated[date, BeforeValidator(_calendar_date)]


class StrictRequest(BaseModel):
    """A request that ignores nothing: unknown and unsupported fields are rejected with 422.

    AcceptsOnly fields at any depth are accepted and not sent on.
    """

    model_config = ConfigDict(extra="forbid")

    @model_serializer(mode="wrap")
    def _without_unsent(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        left_out = unsent(type(self))
        return {name: value for name, value in dump(self).items() if name not in left_out}


class AcceptsOnly:
    """Marks a field of a published API that accepts only these values and null. It is not sent on."""

    def __init__(self, *values: object) -> None:
        self._values = values

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:  # noqa: ANN401
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        supported = " or ".join(str(value).lower() for value in (*self._values, "null"))
        return {**handler(schema), "description": f"Only {supported} is supported."}

    def _check(self, value: object) -> object:
        plain = value.model_dump(exclude_none=True) if isinstance(value, BaseModel) else value
        if plain is None or any(plain == each and type(plain) is type(each) for each in self._values):
            return value
        raise PydanticCustomError("unsupported", "is not supported yet")


class SupportedValues(AcceptsOnly):
    """Marks a field of a published API of which only these values are supported. It is sent on."""


@cache
def unsent(model: type[BaseModel]) -> frozenset[str]:
    """The names of the AcceptsOnly fields, which change nothing and are not sent to the database."""
    fields = model.model_fields.items()
    return frozenset(name for name, field in fields if any(type(mark) is AcceptsOnly for mark in field.metadata))
