"""Renders the placeholders `{{path}}` of the published sync jobs' resources.

{{a.b.0.c}}                 a value of the scope: members by name, elements by number
{{a|b}}                     the first that exists; null exists
{{a:type}}                  the type: str (the default), int, num, bool, json or any
{{a:null}}                  null if the value is missing
{{a:undefined}}             if the value is missing, so is the member or element; within a text it is ""
{{a|b:ignore-empty-str}}    "" counts as missing
{{a?:text}} {{a?:text:type}}  a default

A placeholder without a value stays as it is written. Only a placeholder that is the whole text can become a value other
than text. Values are not rendered again, even if they look like placeholders. A path reaches members of objects and
elements of lists only.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from functions._shared import exact_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_DEPTH: Final = 64
# Characters and members that one call may make or read, because a short template can repeat a long value.
MAX_SIZE: Final = 4 * 1024 * 1024
MERGE: Final = "$truto_merge"

_PLACEHOLDER: Final = re.compile(r"\{\{([A-Za-z0-9_./|:?\s-]+)\}\}")
_TYPE: Final = re.compile(r":(?=[A-Za-z0-9_\s])")  # a URL in a default keeps its colon
_INDEX: Final = re.compile(r"[0-9]{1,9}")
_INT: Final = re.compile(r"([+-]?)(?:0[xX]([0-9a-fA-F]+)|([0-9]+))")
_NUM: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_MISSING: Final = object()


class PlaceholderError(Exception):
    """The template cannot be rendered. `message` quotes the template, never a value."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def render(template: object, scope: Mapping[str, Any]) -> object:
    """Return the template with its placeholders' values. None if the whole template is `:undefined` and missing.

    The objects under "$truto_merge", one or a list of them, are merged into the object around it: objects member by
    member, lists concatenated, of other values the later. Anything but objects there is ignored.

    Values are the scope's own, not copies. Raises PlaceholderError for an unknown type, for a template deeper than
    MAX_DEPTH, for a result larger than MAX_SIZE, and for a value that is not JSON where it has to become text.
    """
    rendered = _Renderer(scope).of(template, 0)
    return None if rendered is _MISSING else rendered


def look_up(path: str, scope: Mapping[str, Any]) -> object:
    """The value at a dotted path without braces, or None."""
    value = _find(path, scope)
    return None if value is _MISSING else value


def names(template: object) -> set[str]:
    """The paths that a template contains, alternatives included, whether or not they exist."""
    return {
        path
        for text in _texts(template)
        for match in _PLACEHOLDER.finditer(text)
        for path, _ in _read(match).alternatives
    }


@dataclass(frozen=True)
class _Placeholder:
    text: str
    alternatives: list[tuple[str, list[str]]]  # path and types of each alternative
    default: str
    default_types: list[str]

    def has_type(self, type_: str) -> bool:
        return any(type_ in types for _, types in self.alternatives)


def _read(match: re.Match[str]) -> _Placeholder:
    inside: str = match[1]
    paths, default, *_ = [*inside.split("?:"), ""]
    alternatives = [[part.strip() for part in _TYPE.split(alternative)] for alternative in paths.split("|")]
    default, *default_types = _TYPE.split(default)
    return _Placeholder(
        match[0],
        [(path, types or ["str"]) for path, *types in alternatives],
        default,
        [type_.strip() for type_ in default_types] or ["str"],
    )


class _Renderer:
    def __init__(self, scope: Mapping[str, Any]) -> None:
        self._scope = scope
        self._size = 0

    def of(self, template: object, depth: int) -> object:
        """The rendered template; _MISSING if it has to be left out."""
        match template:
            case str():
                whole = _PLACEHOLDER.fullmatch(template)
                return self._value(_read(whole), whole=True) if whole else _PLACEHOLDER.sub(self._within, template)
            case list():
                _check_depth(depth)
                rendered = [self.of(element, depth + 1) for element in template]
                return [element for element in rendered if element is not _MISSING]
            case dict():
                _check_depth(depth)
                members = {name: self.of(member, depth + 1) for name, member in template.items()}
                merge = members.pop(MERGE, None)
                result: dict[Any, Any] = {name: member for name, member in members.items() if member is not _MISSING}
                for other in merge if isinstance(merge, list) else [merge]:
                    if isinstance(other, dict):
                        result = self._merge(result, other, depth)
                return result
        return template

    def _within(self, match: re.Match[str]) -> str:
        value = self._value(_read(match), whole=False)
        text = "" if value is _MISSING else _text(value)
        self._count(len(text))
        return text

    def _value(self, placeholder: _Placeholder, *, whole: bool) -> object:
        for path, types in placeholder.alternatives:
            value = _find(path, self._scope)
            if value is _MISSING or (value == "" and placeholder.has_type("ignore-empty-str")):
                continue
            return self._convert(value, types, placeholder, whole=whole)
        if placeholder.default:
            return self._convert(placeholder.default, placeholder.default_types, placeholder, whole=whole)
        if placeholder.has_type("undefined"):
            return _MISSING
        return None if placeholder.has_type("null") else placeholder.text

    def _convert(self, value: object, types: list[str], placeholder: _Placeholder, *, whole: bool) -> object:
        for type_ in types:
            if type_ not in _CONVERSIONS:
                raise PlaceholderError(f'"{placeholder.text[:200]}" has the unknown type "{type_[:50]}".')
        if value is None or (types[0] == "json" and not whole):
            return value
        if types[0] == "str":
            text = _text(value)
            self._count(0 if text is value else len(text))
            return text
        if isinstance(value, str):
            self._count(len(value))
            value = value.strip()
        return _CONVERSIONS[types[0]](value)

    def _merge(self, base: dict[Any, Any], added: dict[Any, Any], depth: int) -> dict[Any, Any]:
        _check_depth(depth)
        self._count(len(base) + len(added))
        result = dict(base)
        for name, value in added.items():
            before = base.get(name)
            if isinstance(before, dict) and isinstance(value, dict):
                result[name] = self._merge(before, value, depth + 1)
            elif isinstance(before, list) and isinstance(value, list):
                self._count(len(before) + len(value))
                result[name] = [*before, *value]
            else:
                result[name] = value
        return result

    def _count(self, count: int) -> None:
        self._size += count
        if self._size > MAX_SIZE:
            raise PlaceholderError(f"The values of a template's placeholders exceed {MAX_SIZE} characters together.")


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise PlaceholderError(f"The template, with what is merged into it, is more than {MAX_DEPTH} levels deep.")


def _texts(template: object) -> Iterator[str]:
    rest = [template]
    while rest:
        match rest.pop():
            case str() as text:
                yield text
            case list() as elements:
                rest.extend(elements)
            case dict() as members:
                rest.extend(members.values())


def _find(path: str, scope: Mapping[str, Any]) -> object:
    """The value at a path; _MISSING if it does not exist."""
    value: object = scope
    for segment in path.strip().split("."):
        if isinstance(value, Mapping) and segment in value:
            value = value[segment]
        elif isinstance(value, list) and _INDEX.fullmatch(segment) and int(segment) < len(value):
            value = value[int(segment)]
        else:
            return _MISSING
    return value


def _text(value: object) -> str:
    """The value as text: a list's elements separated by commas, as in a URL; an object as JSON."""
    if isinstance(value, list):
        return ",".join(map(_plain, value))
    return _plain(value)


def _plain(value: object) -> str:
    match value:
        case str():
            return value
        case float() | Decimal() if math.isfinite(value):
            return str(_whole(value))
    try:
        return exact_json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (RecursionError, TypeError, ValueError):
        raise PlaceholderError("A placeholder's value is not JSON, or nested too deeply for text.") from None


def _whole(number: float | Decimal) -> float | Decimal | int:
    """1 instead of 1.0, because JSON has one kind of number."""
    return int(number) if -1e21 < number < 1e21 and number == int(number) else number


def _int(value: object) -> object:
    """The whole number at the beginning of a text, or the value itself."""
    match value:
        case float() | Decimal() if math.isfinite(value):
            return int(value)
        case str() if found := _INT.match(value):
            sign, hexadecimal, digits = found.groups()
            with contextlib.suppress(ValueError):  # thousands of digits
                return int(sign + (hexadecimal or digits), 16 if hexadecimal else 10)
    return value


def _num(value: object) -> object:
    """The number at the beginning of a text, or the value itself. Whole numbers keep all digits."""
    if not isinstance(value, str) or not (found := _NUM.match(value)):
        return value
    try:
        number = exact_json.storable_number(found[0])
    except ValueError:
        return value
    return _int(found[0]) if found[0].lstrip("+-").isdigit() else _whole(number)


def _bool(value: object) -> object:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def _json(value: object) -> object:
    if isinstance(value, str):
        with contextlib.suppress(ValueError, RecursionError):
            return exact_json.loads_storable(value)
    return value


def _same(value: object) -> object:
    return value


_CONVERSIONS: Final[Mapping[str, Callable[[Any], object]]] = {
    "str": _text,
    "int": _int,
    "num": _num,
    "bool": _bool,
    "json": _json,
    "any": _same,
    "null": lambda value: None if value == "null" else value,
    "undefined": _same,
    "ignore-empty-str": _same,
}
