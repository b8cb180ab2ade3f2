"""Requests and responses as endpoints see them, whatever carried them here."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")


@dataclass(frozen=True)
class Request:
    """`path` below /functions/v1; `query` with the last value of a repeated name; header names in lower case."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass
class Response:
    """`body` is JSON, or empty with status 204."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def json_response(status: int, members: Mapping[str, Any]) -> Response:
    return Response(status, json.dumps(members).encode())


def request_id(headers: Mapping[str, str]) -> str:
    """The caller's own `x-request-id` if it is a plain word, so that one id follows a request; else a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
