"""The one way to the database: `call(name, arguments, caller)`, through PostgREST or straight to Postgres.

Both doors hand over who is calling and let the database decide; both answer the function's JSON as bytes, unparsed,
and raise the same `Problem` for the same refusal. Lists and objects among the arguments travel as JSON.
"""

from __future__ import annotations

import json
import select
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from functions._shared.errors import database_unavailable, from_database

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import psycopg
    from psycopg.sql import Composed

    from functions._shared.auth import Caller

ROLES = ("authenticated", "service_role")


class DatabaseError(Exception):
    """A failure that no caller caused: a 500."""


class Rpc(Protocol):
    def call(self, name: str, arguments: Mapping[str, Any], caller: Caller, request_id: str = "") -> bytes:
        """The JSON that `public.<name>` answers. Raises Problem, or DatabaseError for what is ours."""
        ...

    def close(self) -> None: ...


class PostgrestRpc:
    """Through the official client's pooled session. Its own `execute` parses, loses the status and retries."""

    def __init__(self, supabase_url: str, api_key: str) -> None:
        import httpx  # noqa: PLC0415 (a function pays at its cold start for the imports of its own door only)
        from postgrest import SyncPostgrestClient  # noqa: PLC0415

        self._transport_error = httpx.TransportError
        session = httpx.Client(base_url=f"{supabase_url}/rest/v1", timeout=httpx.Timeout(15, connect=5), http2=True)
        self._client = SyncPostgrestClient(
            f"{supabase_url}/rest/v1", headers={"apikey": api_key}, http_client=session, retry_enabled=False
        )

    def call(self, name: str, arguments: Mapping[str, Any], caller: Caller, request_id: str = "") -> bytes:
        headers = {**self._client.headers, "authorization": f"Bearer {caller.token}", "x-request-id": request_id}
        try:
            response = self._client.session.post(f"/rpc/{name}", json=dict(arguments), headers=headers)
        except self._transport_error as error:
            raise database_unavailable() from error
        if response.is_success:
            return response.content
        raise _postgrest_error(name, response.status_code, response.content)

    def close(self) -> None:
        self._client.session.close()


def _postgrest_error(name: str, status: int, content: bytes) -> Exception:
    try:
        body = json.loads(content)
        code, message = str(body["code"]), str(body["message"])
    except (ValueError, KeyError, TypeError):
        # Not PostgREST's words: a gateway in front of it.
        return database_unavailable() if status in {429, 502, 503, 504} else DatabaseError(f"{name}: HTTP {status}")
    problem = from_database(code, message, body.get("details"), body.get("hint"))
    return problem or DatabaseError(f"{name}: {code} {message}")


class PostgresRpc:
    """Straight to Postgres, as a role like PostgREST's `authenticator`: it may become others and is nothing itself.

    A call is one simple-query message of two statements (who is calling; the call) and so one transaction, committed
    before its answer is read. The server has all of it or none: a client that stops half-way holds no lock. Nothing is
    prepared and no setting outlives the transaction, so it works behind a pooler in transaction mode.
    """

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._idle: deque[psycopg.Connection[Any]] = deque()  # the last used first: the least likely to have gone

    def call(self, name: str, arguments: Mapping[str, Any], caller: Caller, request_id: str = "") -> bytes:
        import psycopg  # noqa: PLC0415

        try:
            with self._connection() as connection:
                cursor = connection.execute(_statement(name, arguments, caller, request_id))
                cursor.nextset()
                [answer] = cursor.fetchone() or [None]
        except psycopg.Error as error:
            raise _postgres_error(name, error) from error
        return answer.encode() if answer is not None else b"null"

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[Any]]:
        connection = self._take()
        try:
            yield connection
        finally:
            if connection.closed or connection.broken or connection.info.transaction_status != 0:
                connection.close()
            else:
                self._idle.append(connection)

    def _take(self) -> psycopg.Connection[Any]:
        import psycopg  # noqa: PLC0415

        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            # An idle server says nothing: something to read is its farewell. (`select` ends at 1024 open files.)
            waiting = select.poll()
            waiting.register(connection.fileno(), select.POLLIN)
            if not waiting.poll(0):
                return connection
            connection.close()
        return psycopg.connect(
            self._url,
            autocommit=True,
            cursor_factory=psycopg.ClientCursor,
            prepare_threshold=None,
            connect_timeout=5,
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=15_000,
        )

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


def _statement(name: str, arguments: Mapping[str, Any], caller: Caller, request_id: str) -> Composed:
    from psycopg.sql import SQL, Identifier, Literal  # noqa: PLC0415

    role = caller.claims.get("role")
    if role not in ROLES:
        raise DatabaseError("only authenticated callers and the service role reach the database")
    named = SQL(", ").join(
        SQL("{} => {}").format(Identifier(key), Literal(json.dumps(value) if isinstance(value, dict | list) else value))
        for key, value in arguments.items()
    )
    return SQL(
        "select set_config('role', {}, true), set_config('request.jwt.claims', {}, true),"
        " set_config('request.headers', {}, true), set_config('idle_in_transaction_session_timeout', '10s', true);"
        " select {}({})::text"
    ).format(
        Literal(role),
        Literal(json.dumps(dict(caller.claims))),
        Literal(json.dumps({"x-request-id": request_id})),
        Identifier("public", name),
        named,
    )


def _postgres_error(name: str, error: psycopg.Error) -> Exception:
    import psycopg  # noqa: PLC0415

    if error.sqlstate is None and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return database_unavailable()
    diagnostic = error.diag
    # psycopg itself refuses a NUL, and without an SQLSTATE: here is the server's.
    state = "22021" if error.sqlstate is None and isinstance(error, psycopg.DataError) else error.sqlstate
    problem = from_database(state, diagnostic.message_primary or "", diagnostic.message_detail, diagnostic.message_hint)
    return problem or DatabaseError(f"{name}: {error.sqlstate} {diagnostic.message_primary}")
