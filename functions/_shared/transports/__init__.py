"""How a function reaches the database: `call(name, arguments, caller)`, through PostgREST or directly to Postgres.

Both transports send the caller's identity, and the database decides. Both return the function's JSON as unparsed bytes,
and raise the same `ApiError` for the same error. Lists and objects among the arguments travel as JSON.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions._shared.caller import Caller

KEY_HEADER = "x-agency-key"  # the database reads it for anonymous requests only
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class DatabaseError(Exception):
    """A failure that no caller caused: a 500."""


class Transport(Protocol):
    def call(
        self, name: str, arguments: Mapping[str, Any], caller: Caller, headers: Mapping[str, str] = NO_HEADERS
    ) -> bytes:
        """The JSON that `public.<name>` returns. `headers` are the request's, as far as SQL functions read them.

        Raises ApiError, or DatabaseError for an internal error.
        """
        ...

    def close(self) -> None:
        """Closes the pooled connections. A later call makes new ones."""
        ...


class AsyncTransport(Protocol):
    """The same for an event loop, which runs on meanwhile. If cancelled, the call may or may not have run."""

    async def call_async(
        self, name: str, arguments: Mapping[str, Any], caller: Caller, headers: Mapping[str, str] = NO_HEADERS
    ) -> bytes: ...

    async def aclose(self) -> None: ...
