"""The transport straight to Postgres, as a role like PostgREST's `authenticator`.

A call is one pipeline of two statements (caller's identity; the call): one round trip and one transaction, committed
before its result is read. Claims and arguments are bound, so a server that logs a failed statement logs neither.
Nothing is prepared and no setting outlives the transaction: it works behind a pooler in transaction mode.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from functions._shared import exact_json
from functions._shared.errors import ApiError, database_unavailable, from_database
from functions._shared.transports import KEY_HEADER, NO_HEADERS, DatabaseError
from functions._shared.transports.idle_connections import IdleConnections
from functions._shared.transports.pipeline import execute_pipeline, execute_pipeline_async

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from functions._shared.caller import Caller

    Dumps = Callable[[object], str]

ROLES = ("authenticated", "service_role")
# A frozen server is as good as none. Longer than the longest wait for a lock.
CALL_SECONDS = 20.0
TRANSACTION_TIMEOUT = "15s"
IDLE_SECONDS = 60.0  # an idle connection is kept this long


class PostgresTransport:
    """Threads share it."""

    def __init__(self, database_url: str) -> None:
        """Opens no connection. Raises ValueError for an invalid URL."""
        _require_sound_url(database_url)
        self._url = database_url
        self._idle = IdleConnections(IDLE_SECONDS)

    def call(
        self, name: str, arguments: Mapping[str, Any], caller: Caller, headers: Mapping[str, str] = NO_HEADERS
    ) -> bytes:
        identity, call = _identity(caller, headers), _call(name, arguments, json.dumps)
        with _errors_of(name), self._connection() as connection:
            identify = _identify(connection.info.server_version)
            result = execute_pipeline(connection, [(identify, identity), call], CALL_SECONDS)
        return result if result is not None else b"null"

    async def call_async(
        self, name: str, arguments: Mapping[str, Any], caller: Caller, headers: Mapping[str, str] = NO_HEADERS
    ) -> bytes:
        """`call` for the worker's event loop, with exact numbers. If cancelled, the call may or may not have run."""
        identity, call = _identity(caller, headers), _call(name, arguments, exact_json.dumps)
        with _errors_of(name):
            # A call that is cancelled meanwhile leaves the new connection to the next.
            while (taken := self._idle.take()) is None:
                await asyncio.to_thread(lambda: self._idle.keep(self._connect()))
            with self._returned(taken) as connection:
                identify = _identify(connection.info.server_version)
                result = await execute_pipeline_async(connection, [(identify, identity), call], CALL_SECONDS)
        return result if result is not None else b"null"

    def close(self) -> None:
        """Closes the pooled connections. A later call makes new ones."""
        self._idle.close()

    async def aclose(self) -> None:
        self.close()

    def _connection(self) -> AbstractContextManager[psycopg.Connection[Any]]:
        return self._returned(self._idle.take() or self._connect())

    @contextmanager
    def _returned(self, connection: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
        try:
            yield connection
        finally:
            if connection.closed or connection.broken or connection.info.transaction_status != 0:
                connection.close()
            else:
                self._idle.keep(connection)

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            self._url,
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=5,
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=15_000,
        )


def _require_sound_url(url: str) -> None:
    """Rejects what psycopg would quote in its errors, and so in the log: parts of a password that is not encoded."""
    try:
        is_sound = "@" not in str(conninfo_to_dict(url).get("host", ""))
    except psycopg.ProgrammingError:
        is_sound = False
    if not is_sound:  # not inside the handler: its error quotes the URL
        raise ValueError("DATABASE_URL is not a valid connection string. Percent-encode its password.")


_IDENTIFY = (
    "select set_config('role', $1, true), set_config('request.jwt.claims', $2, true),"
    " set_config('request.headers', $3, true)"
)


def _identify(server_version: int) -> str:
    # The server may run the call before the pipeline's end arrives. A client that stops just there holds the row's lock
    # no longer than this. Before 17 there is no such setting, and only a dead connection ends the transaction.
    if server_version < 170000:
        return _IDENTIFY
    return f"{_IDENTIFY}, set_config('transaction_timeout', '{TRANSACTION_TIMEOUT}', true)"


def _identity(caller: Caller, headers: Mapping[str, str]) -> list[bytes | None]:
    role = caller.claims.get("role")
    if role not in ROLES and not (role == "anon" and caller.agency_key):
        raise DatabaseError("only authenticated callers and the service role reach the database")
    key = {KEY_HEADER: caller.agency_key} if caller.agency_key else {}
    return [_parameter(value, json.dumps) for value in (role, dict(caller.claims), {**headers, **key})]


def _call(name: str, arguments: Mapping[str, Any], dumps: Dumps) -> tuple[str, list[bytes | None]]:
    """Values travel beside the statement. The types of the function's parameters decide how they are read."""
    named = ", ".join(f"{_quoted(key)} => ${number}" for number, key in enumerate(arguments, 1))
    values = [_parameter(value, dumps) for value in arguments.values()]
    return f"select public.{_quoted(name)}({named})::text", values


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _parameter(value: object, dumps: Dumps) -> bytes | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else dumps(value)
    if "\0" in text:  # it would end the value there
        raise ApiError(400, "invalid_value", "A text must not contain NUL characters.")
    return text.encode()


@contextmanager
def _errors_of(name: str) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise _postgres_error(name, error) from error


def _postgres_error(name: str, error: psycopg.Error) -> Exception:
    if error.sqlstate is None and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return database_unavailable()
    diagnostic = error.diag
    failure = from_database(
        error.sqlstate, diagnostic.message_primary or "", diagnostic.message_detail, diagnostic.message_hint
    )
    return failure or DatabaseError(f"{name}: {error.sqlstate} {diagnostic.message_primary}")
