"""The transport through PostgREST, on the `postgrest` client: its session, headers and schema, with raw bytes.

`rpc().execute()` is not used, because it parses numbers as floats, encodes the result again and loses the status.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
from postgrest import SyncPostgrestClient

from functions._shared.errors import database_unavailable, from_database
from functions._shared.http_client import make_client
from functions._shared.transports import KEY_HEADER, NO_HEADERS, DatabaseError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions._shared.caller import Caller

CONNECT_SECONDS, READ_SECONDS = 5.0, 15.0
JSON_HEADERS = {"accept": "application/json", "content-type": "application/json"}


class PostgrestTransport:
    """Threads share it. One caller's credentials never reach another's request: they are headers of each call."""

    def __init__(self, supabase_url: str, api_key: str, *, http_transport: httpx.BaseTransport | None = None) -> None:
        self._url = f"{supabase_url}/rest/v1"
        self._api_key = api_key
        self._http_transport = http_transport
        self._urls: dict[str, httpx.URL] = {}
        self._connect()

    def call(
        self, name: str, arguments: Mapping[str, Any], caller: Caller, headers: Mapping[str, str] = NO_HEADERS
    ) -> bytes:
        content = json.dumps(dict(arguments)).encode()
        with_caller = request_headers(caller, headers)
        try:
            response = self._client.session.post(self._url_of(name), content=content, headers=with_caller)
        except httpx.RequestError as error:
            raise database_unavailable() from error
        except UnicodeEncodeError:  # it quotes the header
            raise DatabaseError(f"{name}: a header is not ASCII") from None
        return read_response(name, response)

    def close(self) -> None:
        """Closes the pooled connections. A later call makes new ones."""
        self._client.session.close()
        self._connect()

    def _connect(self) -> None:
        session = make_client(
            self._url, connect_seconds=CONNECT_SECONDS, read_seconds=READ_SECONDS, transport=self._http_transport
        )
        self._client = SyncPostgrestClient(
            self._url,
            schema="public",
            headers={"apikey": self._api_key, **JSON_HEADERS},
            http_client=session,
            retry_enabled=False,
        )
        session.headers.update(self._client.headers)  # once, not with each call

    def _url_of(self, name: str) -> httpx.URL:
        """Parsed once, because that takes longer than anything else in a request."""
        if name not in self._urls:
            self._urls[name] = function_url(self._url, name)
        return self._urls[name]


def function_url(rest_url: str, name: str) -> httpx.URL:
    if not name.isidentifier():
        raise DatabaseError("a function's name is an identifier")
    return httpx.URL(f"{rest_url}/rpc/{quote(name, safe='')}")


def request_headers(caller: Caller, headers: Mapping[str, str]) -> dict[str, str]:
    """Without a token PostgREST, or the gateway in front of it, takes the role from `apikey`."""
    sent = {**headers}
    if caller.token is not None:
        sent["authorization"] = f"Bearer {caller.token}"
    if caller.agency_key is not None:
        sent[KEY_HEADER] = caller.agency_key
    return sent


def read_response(name: str, response: httpx.Response) -> bytes:
    """The body. Raises ApiError or DatabaseError."""
    if response.is_success:
        return response.content
    raise _error(name, response.status_code, response.content)


def _error(name: str, status: int, content: bytes) -> Exception:
    try:
        body = json.loads(content)
        code, message = str(body["code"]), str(body["message"])
    except (ValueError, KeyError, TypeError):
        # Not from PostgREST but from a gateway in front of it, which has its own statuses for a server that is away.
        return database_unavailable() if status == 429 or status >= 500 else DatabaseError(f"{name}: HTTP {status}")
    if not code:  # its connection to Postgres broke before an error arrived: PostgREST reports 400
        return database_unavailable()
    error = from_database(code, message, body.get("details"), body.get("hint"))
    cause = DatabaseError(f"{name}: {code} {message}")
    if error and error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        error.__cause__ = cause  # for the log
    return error or cause
