"""A connection's secret, as it is now: the one that the database hands out, or what the store outside has."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from functions._connections.errors import SourceRefused, SourceUnavailable
from functions._shared.secret_store import SecretMissing, SecretUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions._shared.secret_store import SecretStore


async def revealed(connection: Mapping[str, Any], secrets: SecretStore | None) -> dict[str, Any]:
    """Raises SourceUnavailable where the store does not answer, SourceRefused where it has none."""
    if "secret_ref" not in connection:
        return dict(connection["secret"])
    try:
        if secrets is None:
            raise SecretUnavailable("the worker has no store of secrets")
        return await asyncio.to_thread(secrets.get, connection["secret_ref"])
    except SecretUnavailable:
        message = "The store of the connection's secret does not answer. Try again later."
        raise SourceUnavailable("secret_unavailable", message) from None
    except SecretMissing:
        message = "The store has no secret of this connection any more. Enter it again."
        raise SourceRefused("secret_missing", message) from None
