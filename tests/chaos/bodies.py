"""Invalid request bodies, and hostile values for fields."""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

TOO_LARGE: Final = 1024 * 1024 + 1

# Hostile values. Each may be valid text to an endpoint: then it is stored as it is, and nothing else happens.
INJECTIONS: Final = (
    "'; drop table app.executions; --",
    "x' or '1'='1",
    "1); select pg_sleep(30); --",
    "%s %(name)s {0} {} $1 :x ?",
    "{{args.since}} {{resources.flights.id}} {{ 7*7 }} ${7*7} <%= 7*7 %>",
    "{{args.__class__.__mro__}}",
    "../../../../etc/passwd",
    "..%2f..%2f%00",
    "eq.1&or=(id.gt.0)",
    "*,agencies(*)",
    "\u0000",
    "a\u0000b",
    "\ud800",
    "\ufffe\uffff",
    "\u202e\u200b\u0301" * 50,
    "💥" * 300,
    "<script>alert(1)</script>",
    "a\r\nset-cookie: x=y\r\n\r\n",
    "x" * 100_000,
    "9" * 400,
    "-1",
    "1e309",
    "NaN",
    "0x10",
    "",
    " ",
    "null",
    "\\",
    '"',
)
_NUMBERS: Final = (-1, 0, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 1e308, -0.0, 0.1)
_OTHERS: Final[tuple[Any, ...]] = (None, True, False, [], {}, [[]], {"": ""}, [None], {"a": {"b": []}})


def odd_value(chance: Random) -> Any:
    kind = chance.random()
    return chance.choice(INJECTIONS if kind < 0.6 else _NUMBERS if kind < 0.8 else _OTHERS)


def _deep(_: bytes, chance: Random) -> bytes:
    depth = chance.choice((100, 1_000, 100_000, 500_000))
    opening, closing = chance.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return opening * depth + b"1" + closing * depth * chance.randint(0, 1)


def _many(_: bytes, chance: Random) -> bytes:
    return json.dumps({f"m{n}": n for n in range(chance.choice((1_000, 50_000)))}).encode()


# How a valid body is made invalid.
BAD: Final[Mapping[str, Callable[[bytes, Random], bytes]]] = {
    "oversized": lambda body, chance: b" " * (TOO_LARGE + chance.randrange(1000)) + body,
    "deep": _deep,
    "UTF-16": lambda body, chance: body.decode().encode(chance.choice(("utf-16", "utf-16-le", "utf-16-be", "utf-32"))),
    "not UTF-8": lambda body, chance: (
        body[:1] + b'"\xff\xfe":"\xc3\x28\xed\xa0\x80",' + body[1:] + b"\xff" * chance.randint(0, 3)
    ),
    "compressed": lambda body, _: zlib.compress(body),
    "cut off": lambda body, chance: body[: chance.randrange(1, len(body))],
    "two": lambda body, _: body + body,
    "not JSON": lambda _, chance: chance.choice(
        (b"NaN", b"{'a': 1}", b"a=1&b=2", b"<xml/>", b"\x00", b"\xef\xbb\xbf", b"{,}")
    ),
    "not an object": lambda _, chance: chance.choice((b"[]", b'"x"', b"1", b"true", b"[{}]", b"1e999")),
    "many fields": _many,
}
# Those that may still be valid JSON objects.
GOOD_JSON: Final = ("deep", "many fields")
