"""How systems are read: each connector turns a connection's config and secret into pages of records."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from functions._connections.errors import SourceRefused
from functions.worker.connectors.http import HttpConnector
from functions.worker.connectors.secret import revealed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from functions._shared.secret_store import SecretStore

OpenSource: TypeAlias = "Callable[[Mapping[str, Any] | None], AbstractAsyncContextManager[HttpConnector]]"


@asynccontextmanager
async def open_source(
    connection: Mapping[str, Any] | None, *, allow_private_addresses: bool = False, secrets: SecretStore | None = None
) -> AsyncIterator[HttpConnector]:
    """The connector of a connection {kind, config, secret or secret_ref}; SourceRefused if it cannot be read from.

    Users write connections: with `allow_private_addresses` one may lead to this machine and its network. `secrets` has
    those that the database does not keep; each is asked for anew, so that one that was replaced is the next one used.
    """
    if connection is None or connection["kind"] != "http":
        raise SourceRefused("source_not_readable", "This connection cannot be read from.")
    secret = await revealed(connection, secrets)

    async def is_rotated() -> bool:
        return await revealed(connection, secrets) != secret

    async with HttpConnector(
        connection["config"], secret, allow_private_addresses=allow_private_addresses, is_rotated=is_rotated
    ) as source:
        yield source
