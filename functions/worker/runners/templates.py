"""Texts that stand for values: `{{path}}`, as the published sync jobs have them in their resources.

{{a.b.0.c}}                 a value of the scope: members by name, elements by number
{{a|b}}                     the first that there is; null is a value
{{a:type}}                  str if not said, int, num, bool, json, any
{{a:null}}                  null if there is none; {{a:undefined}}: the member or element goes, a text has nothing there
{{a|b:ignore-empty-str}}    an empty text is none
{{a?:text}} {{a?:text:type}}

What has no value is left as it is written. Only a placeholder that is the whole text gives what is no text. A value is
data whatever it looks like: it is put in once and never read again, and a path leads to members of objects and elements
of lists alone.
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
# Characters and members that one fill may make or read: a short template can name a long value any number of times.
MAX_MADE: Final = 4 * 1024 * 1024
MERGE: Final = "$truto_merge"

_PLACEHOLDER: Final = re.compile(r"\{\{([A-Za-z0-9_./|:?\s-]+)\}\}")
_TYPE: Final = re.compile(r":(?=[A-Za-z0-9_\s])")  # an URL in a default keeps its colon
_INDEX: Final = re.compile(r"[0-9]{1,9}")
_INT: Final = re.compile(r"([+-]?)(?:0[xX]([0-9a-fA-F]+)|([0-9]+))")
_NUM: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NONE: Final = object()


class PlaceholderError(Exception):
    """A template that cannot be filled; `message` quotes the template, never a value."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def fill(template: object, scope: Mapping[str, Any]) -> object:
    """The template with its placeholders' values; null where the whole of it is an `:undefined` that has none.

    The objects under "$truto_merge", one or a list of them, are merged into the object around it: objects member by
    member, lists one after the other, and of other values the later wins. What is no object there is passed over.

    Values are the scope's own, not copies. Raises PlaceholderError for an unknown type, for a template deeper than
    MAX_DEPTH, for more than MAX_MADE, and for a value that is no JSON where it has to become text.
    """
    filled = _Filling(scope).of(template, 0)
    return None if filled is _NONE else filled


def looked_up(path: str, scope: Mapping[str, Any]) -> object:
    """The value at a dot path, without braces; null where there is none."""
    value = _found(path, scope)
    return None if value is _NONE else value


def names(template: object) -> set[str]:
    """The paths that a template mentions, alternatives included, whether or not there is anything at them."""
    return {
        path for text in _texts(template) for match in _PLACEHOLDER.finditer(text) for path, _ in _read(match).asked
    }


@dataclass(frozen=True)
class _Placeholder:
    text: str
    asked: list[tuple[str, list[str]]]  # path and types of each alternative
    default: str
    default_types: list[str]

    def says(self, flag: str) -> bool:
        return any(flag in types for _, types in self.asked)


def _read(match: re.Match[str]) -> _Placeholder:
    inside: str = match[1]
    asked, default, *_ = [*inside.split("?:"), ""]
    alternatives = [[part.strip() for part in _TYPE.split(one)] for one in asked.split("|")]
    default, *default_types = _TYPE.split(default)
    return _Placeholder(
        match[0],
        [(path, types or ["str"]) for path, *types in alternatives],
        default,
        [one.strip() for one in default_types] or ["str"],
    )


class _Filling:
    def __init__(self, scope: Mapping[str, Any]) -> None:
        self._scope = scope
        self._made = 0

    def of(self, template: object, depth: int) -> object:
        """_NONE where it is to go."""
        match template:
            case str():
                whole = _PLACEHOLDER.fullmatch(template)
                return self._value(_read(whole), whole=True) if whole else _PLACEHOLDER.sub(self._within, template)
            case list():
                _check_depth(depth)
                filled = [self.of(element, depth + 1) for element in template]
                return [element for element in filled if element is not _NONE]
            case dict():
                _check_depth(depth)
                members = {name: self.of(member, depth + 1) for name, member in template.items()}
                merge = members.pop(MERGE, None)
                result: dict[Any, Any] = {name: member for name, member in members.items() if member is not _NONE}
                for other in merge if isinstance(merge, list) else [merge]:
                    if isinstance(other, dict):
                        result = self._merged(result, other, depth)
                return result
        return template

    def _within(self, match: re.Match[str]) -> str:
        value = self._value(_read(match), whole=False)
        text = "" if value is _NONE else _text(value)
        self._spend(len(text))
        return text

    def _value(self, placeholder: _Placeholder, *, whole: bool) -> object:
        for path, types in placeholder.asked:
            value = _found(path, self._scope)
            if value is _NONE or (value == "" and placeholder.says("ignore-empty-str")):
                continue
            return self._converted(value, types, placeholder, whole=whole)
        if placeholder.default:
            return self._converted(placeholder.default, placeholder.default_types, placeholder, whole=whole)
        if placeholder.says("undefined"):
            return _NONE
        return None if placeholder.says("null") else placeholder.text

    def _converted(self, value: object, types: list[str], placeholder: _Placeholder, *, whole: bool) -> object:
        for kind in types:
            if kind not in _CONVERSIONS:
                raise PlaceholderError(f'"{placeholder.text[:200]}" names the type "{kind[:50]}", which there is not.')
        if value is None or (types[0] == "json" and not whole):
            return value
        if types[0] == "str":
            text = _text(value)
            self._spend(0 if text is value else len(text))
            return text
        if isinstance(value, str):
            self._spend(len(value))
            value = value.strip()
        return _CONVERSIONS[types[0]](value)

    def _merged(self, one: dict[Any, Any], other: dict[Any, Any], depth: int) -> dict[Any, Any]:
        _check_depth(depth)
        self._spend(len(one) + len(other))
        result = dict(one)
        for name, value in other.items():
            before = one.get(name)
            if isinstance(before, dict) and isinstance(value, dict):
                result[name] = self._merged(before, value, depth + 1)
            elif isinstance(before, list) and isinstance(value, list):
                self._spend(len(before) + len(value))
                result[name] = [*before, *value]
            else:
                result[name] = value
        return result

    def _spend(self, count: int) -> None:
        self._made += count
        if self._made > MAX_MADE:
            raise PlaceholderError(
                f"The values of a template's placeholders are more than {MAX_MADE} characters together."
            )


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise PlaceholderError(f"The template, or what is merged into it, is more than {MAX_DEPTH} levels deep.")


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


def _found(path: str, scope: Mapping[str, Any]) -> object:
    """_NONE where there is nothing."""
    value: object = scope
    for segment in path.strip().split("."):
        if isinstance(value, Mapping) and segment in value:
            value = value[segment]
        elif isinstance(value, list) and _INDEX.fullmatch(segment) and int(segment) < len(value):
            value = value[int(segment)]
        else:
            return _NONE
    return value


def _text(value: object) -> str:
    """A list's elements with commas between them, as an URL takes them; an object as JSON."""
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
        raise PlaceholderError("A placeholder's value is not JSON, or too deep to be written as text.") from None


def _whole(number: float | Decimal) -> float | Decimal | int:
    """As JSON's only kind of number is written: 1, not 1.0."""
    return int(number) if -1e21 < number < 1e21 and number == int(number) else number


def _int(value: object) -> object:
    """The whole number that a text begins with, or the value."""
    match value:
        case float() | Decimal() if math.isfinite(value):
            return int(value)
        case str() if found := _INT.match(value):
            sign, hexadecimal, digits = found.groups()
            with contextlib.suppress(ValueError):  # thousands of digits
                return int(sign + (hexadecimal or digits), 16 if hexadecimal else 10)
    return value


def _num(value: object) -> object:
    """The number that a text begins with, or the value; a whole one to its last digit."""
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
