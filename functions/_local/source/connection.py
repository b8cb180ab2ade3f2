"""Credentials of the data API, and the configuration of a connection to it."""

from __future__ import annotations

import base64
import hmac
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from functions._local.source.data import RESOURCES

if TYPE_CHECKING:
    from collections.abc import Iterable

_AUTH: Final[dict[str, dict[str, str]]] = {
    "bearer": {"type": "bearer"},
    "api_key": {"type": "api_key", "in": "header", "name": "X-API-Key"},
    "api_key_query": {"type": "api_key", "in": "query", "name": "api_key"},
    "basic": {"type": "basic"},
}


def _pagination(style: str, size: int) -> dict[str, object]:
    options: dict[str, dict[str, object]] = {
        "page_number": {"param": "page", "first": 1, "size_param": "per_page", "total": "total"},
        "offset": {"param": "offset", "size_param": "limit", "total": "total"},
        "cursor": {"param": "cursor", "next": "next_cursor", "size_param": "limit"},
        "link_header": {"size_param": "per_page"},
    }
    return {"type": style, **options[style], "size": size}


def config(url: str, resources: Iterable[str], auth: str, pagination: str, page_size: int) -> dict[str, object]:
    """Raises KeyError for an unknown name."""
    described = {
        name: {
            "path": f"/{name}",
            "primary_key": list(RESOURCES[name].primary_key),
            "records": "data",
            "params": {},
            "date_filter": {"from": "date_from", "to": "date_to"} if RESOURCES[name].dated else None,
            "window_days": 1,
            "pagination": _pagination(pagination, page_size),
        }
        for name in resources
    }
    return {"base_url": url, "auth": _AUTH[auth], "timeout_seconds": 30, "resources": described}


@dataclass(frozen=True)
class Credentials:
    """The credentials that the server accepts, random by default."""

    token: str = field(default_factory=secrets.token_urlsafe, repr=False)
    api_key: str = field(default_factory=secrets.token_urlsafe, repr=False)
    username: str = "reader"
    password: str = field(default_factory=secrets.token_urlsafe, repr=False)

    def secret(self, auth: str) -> dict[str, str]:
        if auth == "bearer":
            return {"token": self.token}
        if auth == "basic":
            return {"username": self.username, "password": self.password}
        return {"api_key": self.api_key}

    def accepts(self, authorization: str, api_key: str) -> bool:
        basic = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        offered = [(authorization, f"Bearer {self.token}"), (authorization, f"Basic {basic}"), (api_key, self.api_key)]
        return any(hmac.compare_digest(given.encode(), right.encode()) for given, right in offered)
