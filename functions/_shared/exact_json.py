"""JSON whose numbers keep their digits. The worker moves other people's data, and a float has 17 digits.

Reading gives Decimals for numbers with a point or an exponent; writing gives each Decimal as the number it is.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

# What Postgres's numeric takes after the point, and what a float can hold, as readers of the data expect.
MAX_SCALE = 16_000
MAX_EXPONENT = 308


def loads(text: str | bytes) -> Any:  # noqa: ANN401 (any JSON)
    return json.loads(text, parse_float=Decimal)


def loads_storable(text: str | bytes) -> Any:  # noqa: ANN401 (any JSON)
    """Raises ValueError also for NaN, for infinity, and for a number that Postgres cannot store."""
    return json.loads(text, parse_float=storable_number, parse_constant=storable_number)


def dumps(value: object, **options: Any) -> str:  # noqa: ANN401 (as json.dumps)
    import simplejson  # noqa: PLC0415 (only the worker's bundle has it)

    return simplejson.dumps(value, use_decimal=True, encoding=None, **options)  # without encoding: bytes are an error


def storable_number(text: str) -> Decimal:
    """Raises ValueError."""
    if text in {"NaN", "Infinity", "-Infinity"}:
        raise ValueError("not a JSON number")
    number = Decimal(text)
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    if number.adjusted() > MAX_EXPONENT or -exponent > MAX_SCALE:
        raise ValueError("a number that cannot be stored")
    return number
