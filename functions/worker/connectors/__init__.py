"""Connectors read external systems: each turns a connection's config and secret into pages of records."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from functions._connections.errors import SourceRefused
from functions.worker.connectors.http import HttpConnector
from functions.worker.connectors.secret import resolve_secret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from functions._shared.secret_store import SecretStore

OpenSource: TypeAlias = "Callable[[Mapping[str, Any] | None], AbstractAsyncContextManager[HttpConnector]]"


@asynccontextmanager
async def open_source(
    connection: Mapping[str, Any] | None, *, allow_private_addresses: bool = False, secrets: SecretStore | None = None
) -> AsyncIterator[HttpConnector]:
    """Open the connector of a connection {kind, config, secret or secret_ref}.

    Users write connections, so only with `allow_private_addresses` may one lead to this machine and its network.
    `secrets` is the external store, read each time, so that a replaced secret is used from the next open on.
    Raises SourceRefused if the connection cannot be read from, and what `resolve_secret` raises.
    """
    if connection is None or connection["kind"] != "http":
        raise SourceRefused("source_not_readable", "This connection cannot be read from.")
    secret = await resolve_secret(connection, secrets)

    async def is_rotated() -> bool:
        return await resolve_secret(connection, secrets) != secret

    async with HttpConnector(
        connection["config"], secret, allow_private_addresses=allow_private_addresses, is_rotated=is_rotated
    ) as source:
        yield source
