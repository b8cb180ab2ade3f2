"""What a caller adds to a request: query parameters, and the key of one record."""

from __future__ import annotations

import contextlib
import math
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import quote

import httpx

from functions._connections.errors import SourceRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

Params: TypeAlias = "Mapping[str, object]"

MAX_URL_CHARS: Final = 32 * 1024  # half of what httpx accepts, because an API key in the query is added later

# Dot segments, because some servers decode slashes before they resolve a path; control characters.
_UNSAFE: Final = re.compile(r"(?:^|[/\\])\.\.?(?:[/\\]|\Z)|[\0-\x1f\x7f]")


def encode_params(params: Params | None) -> dict[str, list[str]]:
    """The values of each parameter as text: several for a list, none for None. Raises SourceRefused."""
    texts = {name: _texts(name, value) for name, value in (params or {}).items()}
    return {name: values for name, values in texts.items() if values}


def path_segment(resource: str, key: object) -> str:
    """The key, encoded as one segment of a path. Raises SourceRefused for one that would leave that path."""
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise _invalid(f'The key of a record of "{resource}" must be text or a whole number.')
    try:
        text = str(key)
        encoded = quote(text, safe="")
    except ValueError:  # half of a surrogate pair, or a number of thousands of digits
        raise _invalid(f'The key of a record of "{resource}" cannot be written in a URL.') from None
    if not text or _UNSAFE.search(text):
        raise _invalid(
            f'The key of a record of "{resource}" must not be empty, contain dot segments or control characters.'
        )
    return encoded


def make_url(text: str, params: Mapping[str, str | list[str]]) -> httpx.URL:
    """Raises SourceRefused for a URL that is invalid or longer than MAX_URL_CHARS."""
    with contextlib.suppress(httpx.InvalidURL):
        url = httpx.URL(text, params=params)
        if len(url.raw_path) <= MAX_URL_CHARS:
            return url
    raise _invalid(f"The parameters make a URL of more than {MAX_URL_CHARS} characters. Use shorter parameters.")


def _texts(name: str, value: object) -> list[str]:
    shown = name[:100].encode(errors="replace").decode()
    elements = value if isinstance(value, list) else [value]
    try:
        texts = [_text(element) for element in elements if element is not None]
        "".join([name, *texts]).encode()
    except TypeError:
        raise _invalid(f'The parameter "{shown}" must be text, a number, a boolean or a list of these.') from None
    except ValueError:
        raise _invalid(f'The parameter "{shown}" cannot be written in a URL.') from None
    return texts


def _text(value: object) -> str:
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float() | Decimal() if math.isfinite(value):
            return str(value)
    raise TypeError


def _invalid(message: str) -> SourceRefused:
    return SourceRefused("source_params_invalid", message)
