"""The one way to the database: `call(name, arguments, caller)`, through PostgREST or straight to Postgres.

Both doors hand over who is calling and let the database decide; both answer the function's JSON as bytes, unparsed,
and raise the same `Problem` for the same refusal. Lists and objects among the arguments travel as JSON.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from functions._shared.errors import ApiError, database_unavailable, from_database
from functions._shared.idle import Idle
from functions._shared.pool import Pool, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    import psycopg

    from functions._shared.auth import Caller

ROLES = ("authenticated", "service_role")
KEY_HEADER = "x-agency-key"  # the database asks it who calls, for an anonymous request only
# A frozen server is as good as none. Longer than any lock is waited for.
CALL_SECONDS = 20.0
TRANSACTION_TIMEOUT = "15s"
IDLE_SECONDS = 60.0  # so long an idle connection to Postgres is kept
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class DatabaseError(Exception):
    """A failure that no caller caused: a 500."""


class Rpc(Protocol):
    def call(
        self, name: str, arguments: Mapping[str, Any], caller: Caller, headers: Mapping[str, str] = NO_HEADERS
    ) -> bytes:
        """The JSON that `public.<name>` answers. `headers` are the request's, as far as SQL functions read them.

        Raises Problem, or DatabaseError for what is ours.
        """
        ...

    def close(self) -> None:
        """Closes the pooled connections; a later call makes new ones."""
        ...


class PostgrestRpc:
    """A POST and the answer's bytes: the official client parses them, loses the status, and retries."""

    def __init__(self, supabase_url: str, api_key: str) -> None:
        self._url = f"{supabase_url}/rest/v1/rpc/"
        self._headers = {
            "apikey": api_key,
            "accept": "application/json",
            "content-type": "application/json",
            "content-profile": "public",
        }
        self._pool = Pool(connect_seconds=5, read_seconds=15)

    def call(
        self, name: str, arguments: Mapping[str, Any], caller: Caller, headers: Mapping[str, str] = NO_HEADERS
    ) -> bytes:
        sent = {**self._headers, **headers}
        if caller.token is not None:
            sent["authorization"] = f"Bearer {caller.token}"
        if caller.agency_key is not None:
            sent[KEY_HEADER] = caller.agency_key
        try:
            url = self._url + quote(name, safe="")
            response = self._pool.request("POST", url, sent, json.dumps(dict(arguments)).encode())
        except Unreachable as error:
            raise database_unavailable() from error
        if response.is_success:
            return response.content
        raise _postgrest_error(name, response.status, response.content)

    def close(self) -> None:
        self._pool.close()


def _postgrest_error(name: str, status: int, content: bytes) -> Exception:
    try:
        body = json.loads(content)
        code, message = str(body["code"]), str(body["message"])
    except (ValueError, KeyError, TypeError):
        # Not PostgREST's words: a gateway in front of it, which has its own numbers for a server that is away.
        return database_unavailable() if status == 429 or status >= 500 else DatabaseError(f"{name}: HTTP {status}")
    if not code:  # its connection broke, and Postgres has said nothing: it calls that 400
        return database_unavailable()
    problem = from_database(code, message, body.get("details"), body.get("hint"))
    cause = DatabaseError(f"{name}: {code} {message}")
    if problem and problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        problem.__cause__ = cause  # for the log
    return problem or cause


class PostgresRpc:
    """Straight to Postgres, as a role like PostgREST's `authenticator`: it may become others and is nothing itself.

    A call is one pipeline of two statements (who is calling; the call): one round trip and one transaction, committed
    before its answer is read. Claims and arguments are bound, so that a server that logs a failed statement logs none
    of them. Nothing is prepared and no setting outlives the transaction: it works behind a pooler in transaction mode.
    """

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._idle = Idle["psycopg.Connection[Any]"](IDLE_SECONDS, lambda connection: connection.fileno())

    def call(
        self, name: str, arguments: Mapping[str, Any], caller: Caller, headers: Mapping[str, str] = NO_HEADERS
    ) -> bytes:
        from functions._shared.pipeline import execute_pipeline  # noqa: PLC0415

        identity, call = _identity(caller, headers), _call(name, arguments)
        with _problems_of(name), self._connection() as connection:
            identify = _identify(connection.info.server_version)
            response = execute_pipeline(connection, [(identify, identity), call], CALL_SECONDS)
        return response if response is not None else b"null"

    async def call_async(
        self, name: str, arguments: Mapping[str, Any], caller: Caller, headers: Mapping[str, str] = NO_HEADERS
    ) -> bytes:
        """`call` for an event loop, which goes on meanwhile. Cancelled, nobody knows whether it was heard."""
        import asyncio  # noqa: PLC0415

        from functions._shared.pipeline import execute_pipeline_async  # noqa: PLC0415

        identity, call = _identity(caller, headers), _call(name, arguments)
        with _problems_of(name):
            # Whoever is cancelled meanwhile leaves the new connection to the next.
            while (taken := self._idle.take()) is None:
                await asyncio.to_thread(lambda: self._idle.keep(self._connect()))
            with self._returned(taken) as connection:
                identify = _identify(connection.info.server_version)
                response = await execute_pipeline_async(connection, [(identify, identity), call], CALL_SECONDS)
        return response if response is not None else b"null"

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
        import psycopg  # noqa: PLC0415

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

    def close(self) -> None:
        self._idle.close()


_IDENTIFY = (
    "select set_config('role', $1, true), set_config('request.jwt.claims', $2, true),"
    " set_config('request.headers', $3, true)"
)


def _identify(server_version: int) -> str:
    # The server may have run the call before it has the pipeline's end: a client that stops just there holds the row's
    # lock no longer than this. Before 17 there is no such setting, and only a dead connection ends it.
    if server_version < 170000:
        return _IDENTIFY
    return f"{_IDENTIFY}, set_config('transaction_timeout', '{TRANSACTION_TIMEOUT}', true)"


def _identity(caller: Caller, headers: Mapping[str, str]) -> list[bytes | None]:
    role = caller.claims.get("role")
    if role not in ROLES and not (role == "anon" and caller.agency_key):
        raise DatabaseError("only authenticated callers and the service role reach the database")
    key = {KEY_HEADER: caller.agency_key} if caller.agency_key else {}
    return [_parameter(value) for value in (role, dict(caller.claims), {**headers, **key})]


def _call(name: str, arguments: Mapping[str, Any]) -> tuple[str, list[bytes | None]]:
    """Values travel beside the statement; the function's own types decide how they are read."""
    named = ", ".join(f"{_quoted(key)} => ${number}" for number, key in enumerate(arguments, 1))
    return f"select public.{_quoted(name)}({named})::text", [_parameter(value) for value in arguments.values()]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _parameter(value: object) -> bytes | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    if "\0" in text:  # it would end the value there
        raise ApiError(400, "invalid_value", "A text must not contain NUL characters.")
    return text.encode()


@contextmanager
def _problems_of(name: str) -> Iterator[None]:
    import psycopg  # noqa: PLC0415

    try:
        yield
    except psycopg.Error as error:
        raise _postgres_error(name, error) from error


def _postgres_error(name: str, error: psycopg.Error) -> Exception:
    import psycopg  # noqa: PLC0415

    if error.sqlstate is None and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return database_unavailable()
    diagnostic = error.diag
    problem = from_database(
        error.sqlstate, diagnostic.message_primary or "", diagnostic.message_detail, diagnostic.message_hint
    )
    return problem or DatabaseError(f"{name}: {error.sqlstate} {diagnostic.message_primary}")
