"""From a response body to records.

Postgres stores neither U+0000 nor half of a surrogate pair, which JSON may hold in any text. Each becomes U+FFFD, the
replacement character: in keys and data alike, and also in cursors, as those are stored too. Leaving them out would
make two keys one, and one of two records would be lost.
"""

from __future__ import annotations

import json
import re
from decimal import MAX_PREC, Context, Decimal

from functions._connections.errors import malformed
from functions._shared import exact_json
from functions.worker.connectors.http.page import Record

MAX_KEY_BYTES = 2000  # the limit of worker_commit_batch, because the key is indexed
_EXACT = Context(prec=MAX_PREC)
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
# Also finds some storable text: whole pairs, and an escaped backslash before u0000.
_SUSPECT = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")


def parse(resource: str, body: bytes) -> object:
    """Parse the body's JSON, with texts that jsonb can store. Raises SourceRefused."""
    try:
        text = body.decode(json.detect_encoding(body), "surrogatepass")
        parsed: object = exact_json.loads_storable(text)
        # Replacing in every text of a page takes longer than parsing it, and is rarely needed.
        suspect = _SUSPECT.search(text) or (not text.isascii() and _UNSTORABLE.search(text))
        return _storable(parsed) if suspect else parsed
    except (ValueError, RecursionError):
        malformed(f'The response for "{resource}" is not valid JSON. Check the resource\'s path with the source.')


def _storable(value: object) -> object:
    match value:
        case str():
            return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", value)
        case dict():
            return {_storable(name): _storable(member) for name, member in value.items()}
        case list():
            return [_storable(member) for member in value]
    return value


def key_of(values: list[object]) -> str:
    """A record's key: the JSON list of these values. The same values make the same text (1.0 is 1, 1.50 is 1.5)."""
    canonical = [_canonical(value) if isinstance(value, Decimal) else value for value in values]
    return exact_json.dumps(canonical, ensure_ascii=False, separators=(",", ":"))


def _canonical(number: Decimal) -> int | Decimal:
    return int(number) if number == number.to_integral_value() else number.normalize(_EXACT)


def make_record(resource: str, primary_key: list[str], data: object) -> Record:
    """Raises SourceRefused for data that is not an object or lacks a part of its key."""
    if not isinstance(data, dict):
        malformed(f'A record of "{resource}" is not a JSON object. Correct records in the config.')
    key = [data.get(name) for name in primary_key]
    for name, value in zip(primary_key, key, strict=True):
        if not isinstance(value, str | int | Decimal):
            malformed(f'A record of "{resource}" has no value for "{name}". Correct primary_key in the config.')
    text = key_of(key)
    if len(text.encode()) > MAX_KEY_BYTES:
        malformed(f'A record of "{resource}" has a key of more than {MAX_KEY_BYTES} bytes. Choose another primary_key.')
    return Record(text, data)
