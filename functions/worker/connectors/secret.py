"""The current secret of a connection, from the claimed execution or from the external store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from functions._connections.errors import SourceRefused, SourceUnavailable
from functions._shared.secret_store import SecretMissing, SecretUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions._shared.secret_store import SecretStore


async def resolve_secret(connection: Mapping[str, Any], secrets: SecretStore | None) -> dict[str, Any]:
    """Raises SourceUnavailable if the store does not respond, SourceRefused if it does not have the secret."""
    if "secret_ref" not in connection:
        return dict(connection["secret"])
    try:
        if secrets is None:
            raise SecretUnavailable("the worker has no secret store")
        return await asyncio.to_thread(secrets.get, connection["secret_ref"])
    except SecretUnavailable:
        message = "The secret store of this connection is unavailable. Try again later."
        raise SourceUnavailable("secret_unavailable", message) from None
    except SecretMissing:
        message = "The secret of this connection no longer exists in the store. Enter it again."
        raise SourceRefused("secret_missing", message) from None
