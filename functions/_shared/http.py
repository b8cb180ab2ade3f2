"""Requests and responses as endpoints see them, on every platform."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "/functions/v1"  # of every URL; a Request has its path below it

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")


@dataclass(frozen=True)
class Request:
    """`path` is below PREFIX. `query` has the last value of a repeated name. Header names are in lower case."""

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


def make_request(method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Request:
    """From the parts that every platform has. `path` is decoded, `query` is not; header names are in lower case."""
    path = "/" + "/".join(part for part in path.split("/") if part)  # clients join URLs with too many slashes
    return Request(
        method=method,
        path=path.removeprefix(PREFIX),
        query=dict(parse_qsl(query, keep_blank_values=True)),
        headers=headers,
        body=body,
        request_id=request_id(headers),
    )


def json_response(status: int, content: Mapping[str, Any]) -> Response:
    return Response(status, json.dumps(content).encode())


def request_id(headers: Mapping[str, str]) -> str:
    """The caller's own `x-request-id` if it is valid, so that one id follows a request. Otherwise a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
