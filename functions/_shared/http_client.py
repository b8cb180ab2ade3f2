"""The HTTP clients that the official Supabase clients run on: pooled, bounded, and without shared state.

What they do not protect against: a server that sends a second response, unasked, in the same read as the first. httpx
hands it to the next caller, and has no public hook to notice it.
"""

from __future__ import annotations

import logging
import os
import ssl
from functools import cache
from http.cookiejar import CookieJar
from typing import TYPE_CHECKING, Any

import certifi
import httpx

if TYPE_CHECKING:
    import urllib.request

# An idle connection is kept this long by the monotonic clock, which stands still while a process is frozen.
KEEP_SECONDS = 5.0
NO_CONTENT, NOT_MODIFIED = 204, 304


class NoCookies(CookieJar):
    """Keeps no cookie: a client serves many callers, and httpx's own jar would share cookies between them."""

    def extract_cookies(self, response: Any, request: urllib.request.Request) -> None:  # noqa: ANN401 (as CookieJar)
        pass

    def add_cookie_header(self, request: urllib.request.Request) -> None:
        pass


def make_client(
    url: str, *, connect_seconds: float, read_seconds: float, transport: httpx.BaseTransport | None = None
) -> httpx.Client:
    """`url` decides only whether TLS is needed. Opens no connection."""
    options = _options(url, connect_seconds, read_seconds)
    return httpx.Client(event_hooks={"response": [_require_whole]}, transport=transport, **options)


def make_async_client(url: str, *, connect_seconds: float, read_seconds: float) -> httpx.AsyncClient:
    options = _options(url, connect_seconds, read_seconds)
    return httpx.AsyncClient(event_hooks={"response": [_require_whole_async]}, **options)


def _options(url: str, connect_seconds: float, read_seconds: float) -> dict[str, Any]:
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it writes a line for each request
    return {
        "cookies": NoCookies(),
        "follow_redirects": False,
        "headers": {"accept-encoding": "identity"},
        # A number would count busy connections too, and close them when it is reached.
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEP_SECONDS),
        "timeout": httpx.Timeout(read_seconds, connect=connect_seconds),
        "trust_env": False,
        "verify": tls() if url.startswith("https:") else _no_tls(),
    }


def _require_whole(response: httpx.Response) -> None:
    """Raises RemoteProtocolError for a body that only the end of the connection ends: it may have been cut short."""
    declared = "content-length" in response.headers or "transfer-encoding" in response.headers
    if not declared and response.status_code not in {NO_CONTENT, NOT_MODIFIED}:
        raise httpx.RemoteProtocolError("the response declares no length", request=response.request)


async def _require_whole_async(response: httpx.Response) -> None:
    _require_whole(response)


@cache
def tls() -> ssl.SSLContext:
    """One for all clients, because each takes 20 ms to read the certificates."""
    return ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())


@cache
def _no_tls() -> ssl.SSLContext:
    """Trusts no certificate. httpx needs a context for plain HTTP too, and would read all certificates to make one."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
