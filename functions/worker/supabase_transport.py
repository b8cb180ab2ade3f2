"""The worker's transport without DATABASE_URL: `supabase`'s async client with the service role.

Bytes go in and out as they are, because the client's own `rpc()` parses numbers as floats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
from supabase import AsyncClientOptions, acreate_client

from functions._shared import exact_json
from functions._shared.errors import database_unavailable
from functions._shared.http_client import make_async_client
from functions._shared.transports import NO_HEADERS
from functions._shared.transports.postgrest import (
    CONNECT_SECONDS,
    JSON_HEADERS,
    READ_SECONDS,
    function_url,
    read_response,
    request_headers,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supabase import AsyncClient

    from functions._shared.caller import Caller


async def connect(supabase_url: str, key: str) -> SupabaseTransport:
    """`key` is the project's service role key or a secret key. Sends nothing yet."""
    options = AsyncClientOptions(
        auto_refresh_token=False,
        persist_session=False,
        postgrest_client_retry=False,
        httpx_client=make_async_client(supabase_url, connect_seconds=CONNECT_SECONDS, read_seconds=READ_SECONDS),
    )
    return SupabaseTransport(await acreate_client(supabase_url, key, options))


class SupabaseTransport:
    """An AsyncTransport. Belongs to one event loop."""

    def __init__(self, client: AsyncClient) -> None:
        self._postgrest = client.postgrest
        self._session = client.postgrest.session
        self._session.headers.update({**client.postgrest.headers, **JSON_HEADERS})
        # The client sends every key as Bearer. A key that is no JWT travels in `apikey` alone: each call decides.
        del self._session.headers["authorization"]

    async def call_async(
        self, name: str, arguments: Mapping[str, Any], caller: Caller, headers: Mapping[str, str] = NO_HEADERS
    ) -> bytes:
        """If cancelled, the call may or may not have run."""
        url = function_url(str(self._postgrest.base_url), name)
        content = exact_json.dumps(dict(arguments)).encode()
        try:
            response = await self._session.post(url, content=content, headers=request_headers(caller, headers))
        except httpx.RequestError as error:
            raise database_unavailable() from error
        return read_response(name, response)

    async def aclose(self) -> None:
        await self._session.aclose()
