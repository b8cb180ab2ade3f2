"""The tests' hold on one database: people, tokens' claims, connections, and the invariants."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import ClientCursor
from psycopg.rows import dict_row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions._local.postgres import Postgres

INVARIANTS = Path(__file__).with_name("invariants.sql").read_text()

HTTP_CONFIG = {
    "base_url": "http://127.0.0.1:9",
    "resources": {
        "flights": {"path": "/flights", "primary_key": ["id"]},
        "weather": {"path": "/w", "primary_key": ["id"]},
    },
}


@dataclass(frozen=True)
class User:
    id: str
    agency_id: str | None
    session_id: str

    @property
    def claims(self) -> dict[str, Any]:
        return {"sub": self.id, "role": "authenticated", "session_id": self.session_id, "aud": "authenticated"}


SERVICE: Mapping[str, Any] = {"role": "service_role"}


class Database:
    """One database of a running server. `admin` is a superuser's autocommitting connection."""

    def __init__(self, server: Postgres, name: str) -> None:
        self.server = server
        self.name = name
        self.url = server.url(name)
        self.admin = psycopg.connect(self.url, autocommit=True, row_factory=dict_row)

    def connect(self) -> psycopg.Connection[dict[str, Any]]:
        return psycopg.connect(self.url, autocommit=True, row_factory=dict_row)

    def login(self, role: str) -> str:
        """The URL of a role that logs in as a Supabase project's would (`postgres`, `authenticator`)."""
        return self.server.url(self.name, user=role)

    def agency(self) -> str:
        row = self.one("insert into public.agencies (name) values ('Agency') returning id")
        return str(row["id"])

    def user(self, agency_id: str | None) -> User:
        user = User(str(uuid.uuid4()), agency_id, str(uuid.uuid4()))
        self.admin.execute("insert into auth.users (id, email) values (%s, %s)", (user.id, f"{user.id}@example.com"))
        self.admin.execute("insert into auth.sessions (id, user_id) values (%s, %s)", (user.session_id, user.id))
        self.admin.execute("insert into public.users (id, agency_id) values (%s, %s)", (user.id, agency_id))
        return user

    def member(self) -> User:
        return self.user(self.agency())

    def connection(
        self, agency_id: str | None, kind: str = "http", config: Mapping[str, Any] = HTTP_CONFIG, secret: Any = None
    ) -> str:
        row = self.one(
            "insert into app.connections (agency_id, kind, name, config, secret) values (%s, %s, 'A', %s, %s)"
            " returning id",
            (agency_id, kind, json.dumps(config), json.dumps(secret or {})),
        )
        return str(row["id"])

    def one(self, query: str, parameters: Any = None) -> dict[str, Any]:
        row = self.admin.execute(query, parameters).fetchone()
        assert row is not None
        return row

    def all(self, query: str, parameters: Any = None) -> list[dict[str, Any]]:
        return self.admin.execute(query, parameters).fetchall()

    def session(self, claims: Mapping[str, Any], role: str | None = None) -> Session:
        return Session(self, claims, role or claims["role"])

    def start(self, user: User, connection_id: str | None = None) -> str:
        """A queued historical sync of January 2013, started by this user."""
        connection_id = connection_id or self.connection(user.agency_id)
        with self.session(user.claims) as session:
            job = session.call(
                "start_historical_sync", connection_id=connection_id, date_from="2013-01-01", date_to="2013-01-31"
            )
        return str(job["job_id"])

    def worker(self) -> Session:
        return self.session(SERVICE)

    def execution(self, job_id: str) -> dict[str, Any]:
        return self.one("select * from app.executions where id = %s", (job_id,))

    def events(self, job_id: str) -> list[dict[str, Any]]:
        return self.all("select * from app.execution_events where execution_id = %s order by id", (job_id,))

    def check_invariants(self) -> None:
        assert self.all(INVARIANTS) == []

    def close(self) -> None:
        self.admin.close()


class Session:
    """A connection that speaks as one role with one token's claims, as the doors do; each call a transaction."""

    def __init__(self, database: Database, claims: Mapping[str, Any], role: str) -> None:
        self.connection: psycopg.Connection[dict[str, Any]] = psycopg.connect(
            database.url, autocommit=True, row_factory=dict_row, cursor_factory=ClientCursor
        )
        self.connection.execute("select set_config('request.jwt.claims', %s, false)", (json.dumps(dict(claims)),))
        self.connection.execute("select set_config('request.headers', %s, false)", ('{"x-request-id": "test"}',))
        self.connection.execute(f"set role {role}")

    def execute(self, query: str, parameters: Any = None) -> list[dict[str, Any]]:
        cursor = self.connection.execute(query, parameters)
        return cursor.fetchall() if cursor.description else []

    def call(self, name: str, /, **arguments: Any) -> Any:
        values = {key: json.dumps(v) if isinstance(v, dict | list) else v for key, v in arguments.items()}
        named = ", ".join(f'"{key}" => %({key})s' for key in values)
        return self.execute(f"select public.{name}({named}) as answer", values)[0]["answer"]

    def claim(self, lease_seconds: int = 30) -> dict[str, Any]:
        [execution] = self.call("claim", worker="w", families=["historical_sync"], limit=1, lease_seconds=lease_seconds)
        return dict(execution)

    def commit_batch(self, execution: Mapping[str, Any], seq: int, *keys: str) -> str:
        answer = self.call(
            "commit_batch",
            execution_id=execution["id"],
            lease=execution["lease"],
            seq=seq,
            resource="flights",
            records=[{"key": key, "data": {"seq": seq}} for key in keys],
            checkpoint={"seq": seq},
            progress={"windows_done": seq, "windows_total": 10},
        )
        return str(answer["answer"])

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
