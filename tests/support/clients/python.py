"""supabase-py with `create_client`."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import supabase
from supabase_functions.errors import FunctionsError

from tests.support.clients import CallResult

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.clients import Call


@contextmanager
def connected(call: Call, **http_options: Any) -> Iterator[tuple[supabase.Client, httpx.Client]]:
    """The client of a call, and its HTTP client, which is closed at the end."""
    with httpx.Client(http2=True, follow_redirects=True, **http_options) as http:
        options = supabase.ClientOptions(httpx_client=http, auto_refresh_token=False)
        if call.token and call.token_as == "headers":
            options.headers["Authorization"] = f"Bearer {call.token}"
        client = supabase.create_client(call.url, call.key, options)
        if call.token and call.token_as == "session":
            client.auth.set_session(call.token, "none")
        elif call.token and call.token_as == "accessToken":
            client.functions.set_auth(call.token)
        yield client, http


def invoke(call: Call) -> CallResult:
    assert call.function is not None
    options = {**call.options, **({} if call.body is None else {"body": call.body})}
    data: Any = None
    failure: FunctionsError | None = None
    responses: list[httpx.Response] = []
    with connected(call) as (client, http):
        http.event_hooks["response"] = [responses.append]
        try:
            data = client.functions.invoke(call.function, {**options, "responseType": "json"})
        except FunctionsError as error:
            failure = error
    [response] = responses
    if failure is None:
        return CallResult(data=data, status=response.status_code, headers=response.headers)
    assert failure.status == response.status_code
    assert failure.message == response.json()["error"]
    return CallResult(type(failure).__name__, status=failure.status, headers=response.headers, body=response.json())
