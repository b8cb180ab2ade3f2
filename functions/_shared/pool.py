"""Pooled connections to the servers that functions speak to."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    import ssl


def make_pool() -> httpx.HTTPTransport:
    """HTTP/1.1: before one of its connections is used again, whether the server has closed it is looked at.

    With HTTP/2 it is not, and a function has one call under way at a time.
    """
    return httpx.HTTPTransport(verify=_tls())


@cache
def _tls() -> ssl.SSLContext:
    """One for all: each takes 20 ms of a cold start to read the certificates."""
    return httpx.create_ssl_context()
