"""Validates values by the JSON Schema that pydantic writes for OpenAPI 3.1. An unknown keyword is an error."""

from __future__ import annotations

import datetime as dt
import re
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Schema = dict[str, Any]
TYPES: Mapping[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
FORMATS: Mapping[str, Callable[[str], object]] = {
    "uuid": uuid.UUID,
    "date": dt.date.fromisoformat,
    "date-time": dt.datetime.fromisoformat,
}
COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "const": lambda value, bound: value == bound,
    "enum": lambda value, bound: value in bound,
    "minimum": lambda value, bound: value >= bound,
    "maximum": lambda value, bound: value <= bound,
    "minLength": lambda value, bound: len(value) >= bound,
    "maxLength": lambda value, bound: len(value) <= bound,
    "minItems": lambda value, bound: len(value) >= bound,
    "maxItems": lambda value, bound: len(value) <= bound,
    "maxProperties": lambda value, bound: len(value) <= bound,
    "pattern": lambda value, bound: re.search(bound, value) is not None,
    "required": lambda value, bound: set(bound) <= set(value),
}
MEMBERS = {"properties", "propertyNames", "additionalProperties"}
ANNOTATIONS = {"title", "description", "default", *MEMBERS}


def resolve(document: Schema, ref: str) -> Schema:
    """Follows `ref`, a pointer into the same document."""
    head, *steps = ref.split("/")
    assert head == "#", ref
    found = document
    for step in steps:
        assert step in found, f"{ref} has no target"
        found = found[step]
    return found


def violations(value: Any, schema: Schema, document: Schema, where: str = "") -> Iterator[str]:
    """The violations, as sentences. A field that the schema does not name is one, unless the schema allows others."""
    unknown = set(schema) - ANNOTATIONS - set(COMPARISONS) - {"$ref", "anyOf", "type", "format", "items"}
    assert not unknown, unknown
    if "$ref" in schema:
        yield from violations(value, resolve(document, schema["$ref"]), document, where)
    if "anyOf" in schema and all(any(violations(value, one, document)) for one in schema["anyOf"]):
        yield f"{where} is {value!r}, which matches none of {schema['anyOf']}"
    if "type" in schema and not TYPES[schema["type"]](value):
        yield f"{where} is {value!r}, not of type {schema['type']}"
        return  # the other keywords apply to values of this type
    for keyword in COMPARISONS.keys() & schema.keys():
        if not COMPARISONS[keyword](value, schema[keyword]):
            yield f"{where} is {value!r}, which violates {keyword} {schema[keyword]!r}"
    if "format" in schema and not _reads(FORMATS[schema["format"]], value):
        yield f"{where} is {value!r}, not in the format {schema['format']}"
    if "items" in schema:
        for nth, item in enumerate(value):
            yield from violations(item, schema["items"], document, f"{where}[{nth}]")
    if isinstance(value, dict) and (MEMBERS & schema.keys() or schema.get("type") == "object"):
        yield from _members(value, schema, document, where)


def _members(value: Schema, schema: Schema, document: Schema, where: str) -> Iterator[str]:
    others = schema.get("additionalProperties", False)
    for name, member in value.items():
        yield from violations(name, schema.get("propertyNames", {}), document, f"the name of {where}.{name}")
        if name in schema.get("properties", {}):
            yield from violations(member, schema["properties"][name], document, f"{where}.{name}")
        elif not others:
            yield f"{where}.{name} is not documented"
        elif others is not True:
            yield from violations(member, others, document, f"{where}.{name}")


def _reads(read: Callable[[str], object], value: str) -> bool:
    try:
        read(value)
    except ValueError:
        return False
    return True
