"""A database connection with one role and one token's claims, as the functions and the worker use it."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg.rows import dict_row

if TYPE_CHECKING:
    from collections.abc import Mapping

UNKNOWN = "unknown"  # the connection broke, so the call may or may not have run

SERVICE: Mapping[str, Any] = {"role": "service_role"}


class ChaosWorker:
    """`call` and `query` return a result (continue, completed, lost …), a status, or the code of an error."""

    def __init__(self, url: str, claims: Mapping[str, Any]) -> None:
        self._url = url
        self._claims = claims
        self._connection: psycopg.AsyncConnection[dict[str, Any]] | None = None

    async def _connected(self) -> psycopg.AsyncConnection[dict[str, Any]]:
        if self._connection is None:
            connection = await psycopg.AsyncConnection.connect(self._url, autocommit=True, row_factory=dict_row)
            headers = json.dumps({"x-request-id": "chaos"})
            await connection.execute(
                "select set_config('request.jwt.claims', %s, false), set_config('request.headers', %s, false),"
                " set_config('role', %s, false)",
                (json.dumps(dict(self._claims)), headers, self._claims["role"]),
            )
            self._connection = connection
        return self._connection

    async def join(self) -> Self:
        await self._connected()
        return self

    @property
    def pid(self) -> int | None:
        """The process id of its backend."""
        return self._connection.info.backend_pid if self._connection else None

    async def call(self, name: str, /, **arguments: Any) -> str:
        values = {key: json.dumps(v) if isinstance(v, dict | list) else v for key, v in arguments.items()}
        named = ", ".join(f'"{key}" => %({key})s' for key in values)
        return await self.query(f"select public.{name}({named}) as result", values)

    async def query(self, statement: str, values: Mapping[str, Any]) -> str:
        try:
            connection = await self._connected()
            cursor = await connection.execute(statement, values)
            row = await cursor.fetchone()
        except psycopg.OperationalError as error:
            if self._connection and not self._connection.closed and error.sqlstate:
                return error.sqlstate
            await self.leave()
            return UNKNOWN
        except psycopg.Error as error:
            return error.diag.message_primary or str(error.sqlstate)
        response = row["result"] if row else None
        if isinstance(response, dict):
            response = response.get("result") or response.get("status")
        return str(response)

    async def leave(self) -> None:
        if self._connection:
            with contextlib.suppress(psycopg.Error):
                await self._connection.close()
        self._connection = None
