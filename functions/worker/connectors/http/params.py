"""What a caller asks of a source beside what the config says: query parameters, and the key of one record."""

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

MAX_URL_CHARS: Final = 32 * 1024  # half of what httpx takes: a key in the query is added later

# An encoded slash is one that some servers decode before they look where a path leads.
_ELSEWHERE: Final = re.compile(r"(?:^|[/\\])\.\.?(?:[/\\]|\Z)|[\0-\x1f\x7f]")


def written(params: Params | None) -> dict[str, list[str]]:
    """Each parameter's texts: one, or as many as a list has. None is left out. Raises SourceRefused."""
    texts = {name: _texts(name, value) for name, value in (params or {}).items()}
    return {name: several for name, several in texts.items() if several}


def segment(resource: str, key: object) -> str:
    """The key as one segment of a path, which leads nowhere else. Raises SourceRefused."""
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise _refusal(f'The key of a record of "{resource}" is neither text nor a whole number.')
    try:
        text = str(key)
        encoded = quote(text, safe="")
    except ValueError:  # half of a surrogate pair, or a number of thousands of digits
        raise _refusal(f'The key of a record of "{resource}" cannot be written in an URL.') from None
    if not text or _ELSEWHERE.search(text):
        raise _refusal(f'The key of a record of "{resource}" is empty, leads elsewhere or has control characters.')
    return encoded


def make_url(text: str, params: Mapping[str, str | list[str]]) -> httpx.URL:
    """Raises SourceRefused for one that is too long."""
    with contextlib.suppress(httpx.InvalidURL):
        url = httpx.URL(text, params=params)
        if len(url.raw_path) <= MAX_URL_CHARS:
            return url
    raise _refusal(f"The parameters make an URL of more than {MAX_URL_CHARS} characters. Ask for less at once.")


def _texts(name: str, value: object) -> list[str]:
    shown = name[:100].encode(errors="replace").decode()
    elements = value if isinstance(value, list) else [value]
    try:
        texts = [_text(element) for element in elements if element is not None]
        "".join([name, *texts]).encode()
    except TypeError:
        raise _refusal(f'The parameter "{shown}" is neither text, number nor boolean, nor a list of them.') from None
    except ValueError:
        raise _refusal(f'The parameter "{shown}" cannot be written in an URL.') from None
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


def _refusal(message: str) -> SourceRefused:
    return SourceRefused("source_params_invalid", message)
