"""Who is calling: a user whose token was verified, or an agency's server with an API key."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_AGENCY_KEY = re.compile(r"sync_[0-9a-f]{64}")
MAX_ENCODED_KEY_LENGTH = 1024


@dataclass(frozen=True)
class Caller:
    """`token` is a JWT that PostgREST can verify, None for an agency's server and for a project key that is no JWT.

    Only the database can check `agency_key`. The repr shows neither.
    """

    token: str | None = field(repr=False)
    claims: Mapping[str, Any]
    agency_key: str | None = field(default=None, repr=False)


def agency_key(authorization: str | None) -> str | None:
    """The agency's key in an `Authorization` header, None if it holds something else, for example a user's token.

    The published clients send it as Bearer, plain or in base64, or as the user name of Basic.
    """
    scheme, _, rest = (authorization or "").strip(" ").partition(" ")
    text = rest.strip(" ")
    if scheme.lower() == "bearer":
        candidates = [text, _decode(text)]
    elif scheme.lower() == "basic":
        candidates = [_decode(text).partition(":")[0]]
    else:
        return None
    return next((candidate for candidate in candidates if _AGENCY_KEY.fullmatch(candidate)), None)


def is_jwt(key: str) -> bool:
    """Whether a project's key is one of the older JWTs. The newer ones (sb_publishable_…, sb_secret_…) are not."""
    return key.count(".") == 2


def _decode(encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode() if len(encoded) <= MAX_ENCODED_KEY_LENGTH else ""
    except ValueError:
        return ""
