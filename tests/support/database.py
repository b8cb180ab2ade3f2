"""Access to one database: users, tokens' claims, connections, and the invariants."""

from __future__ import annotations

import contextlib
import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import ClientCursor, sql
from psycopg.rows import dict_row

from functions._local.schema import ROOT
from functions._shared import exact_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from functions._local.postgres import Postgres

INVARIANTS = (ROOT / "tests" / "chaos" / "invariants.sql").read_text()
VAULT = ROOT / "tests" / "support" / "vault.sql"

# Counts and places of the rows that every change of the schema writes again.
CATALOG = " union all ".join(
    f"select '{catalog}' as name, count(*) as rows, sum(hashtid(ctid)::bigint) as written from {catalog}"
    for catalog in ("pg_proc", "pg_attribute", "pg_trigger", "pg_policy", "pg_constraint", "pg_index")
)

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
OWNER: Mapping[str, Any] = {"role": "postgres"}  # the tables' owner: migrations and the dashboard's SQL editor

# Each family and the event of its cancel: at once, or in two steps.
FAMILIES: Mapping[str, str] = {
    "historical_sync": "cancel",
    "sync_job_run": "cancel",
    "bulk_sync": "request_cancel",
    "model_sync": "request_cancel",
    "bulk_action": "cancel",
    "source_check": "cancel",
}
TWO_STEPS = [family for family, event in FAMILIES.items() if event == "request_cancel"]

# The state machine: the new status by status and event.
TRANSITIONS: Mapping[tuple[str | None, str], str] = {
    (None, "start"): "queued",
    ("queued", "claim"): "running",
    ("queued", "cancel"): "cancelled",
    ("running", "cancel"): "cancelled",
    ("queued", "request_cancel"): "cancelled",
    ("running", "request_cancel"): "cancelling",
    ("cancelling", "acknowledge"): "cancelled",
    ("cancelling", "expire"): "cancelled",
    ("running", "complete"): "completed",
    ("cancelling", "complete"): "completed",
    ("running", "fail"): "failed",
    ("cancelling", "fail"): "failed",
    ("running", "release"): "queued",
}

# The transitions (event, status) that lead to each status. `requeued` is queued again after a start.
TRANSITIONS_TO: Mapping[str, list[tuple[str, str]]] = {
    "queued": [],
    "requeued": [("claim", "running"), ("release", "queued")],
    "running": [("claim", "running")],
    "cancelling": [("claim", "running"), ("request_cancel", "cancelling")],
    "completed": [("claim", "running"), ("complete", "completed")],
    "failed": [("claim", "running"), ("fail", "failed")],
    "cancelled": [("claim", "running"), ("cancel", "cancelled")],
}


@dataclass(frozen=True)
class SqlError:
    """The error of a statement: SQLSTATE, stable code and further fields."""

    sqlstate: str
    code: str
    details: dict[str, Any]

    @classmethod
    def of(cls, error: psycopg.Error) -> SqlError:
        hint = error.diag.message_hint or ""
        details = json.loads(hint) if hint.startswith("{") else {}
        return cls(error.diag.sqlstate or "", error.diag.message_primary or "", details)


class Database:
    """A database of a running server. `admin` is an autocommitting connection of a superuser."""

    def __init__(self, server: Postgres, name: str) -> None:
        self.server = server
        self.name = name
        self.url = server.url(name)
        self.admin = psycopg.connect(self.url, autocommit=True, row_factory=dict_row)

    def connect(self) -> psycopg.Connection[dict[str, Any]]:
        return psycopg.connect(self.url, autocommit=True, row_factory=dict_row)

    def login(self, role: str) -> str:
        """The URL for a role that logs in, as in a Supabase project (`postgres`, `authenticator`)."""
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
            "insert into app.connections (agency_id, kind, name, config, secret_id) values (%s, %s, 'A', %s, %s)"
            " returning id",
            (agency_id, kind, json.dumps(config), self.store_secret(agency_id, secret) if secret else None),
        )
        return str(row["id"])

    def store_secret(self, agency_id: str | None, secret: Mapping[str, Any]) -> str:
        """Stores a secret in the database, as used by a connection. Returns its id."""
        row = self.one(
            "insert into app.secrets (agency_id, storage, value, used_at)"
            " values (%s, 'database', %s, now()) returning id",
            (agency_id, json.dumps(secret)),
        )
        return str(row["id"])

    def secret(self, connection_id: str) -> dict[str, Any]:
        """The stored secret of a connection, or {}."""
        query = (
            "select s.value from app.connections as c left join app.secrets as s on s.id = c.secret_id where c.id = %s"
        )
        return self.one(query, (connection_id,))["value"] or {}

    def bulk_sync(self, user: User, **arguments: Any) -> str:
        """A bulk sync of everything in a new source to a new destination, created by this user."""
        connections = {
            "source_connection_id": self.connection(user.agency_id),
            "destination_connection_id": self.connection(user.agency_id, "records", {}),
        }
        with self.session(user.claims) as session:
            response = session.call("create_bulk_sync", **{"name": "B", **connections, **arguments})
        return str(response["data"]["id"])

    def execute(self, user: User, sync_id: str) -> str:
        """Starts a bulk sync as this user. Returns the queued execution."""
        with self.session(user.claims) as session:
            return str(session.call("start_bulk_sync", sync_id=sync_id)["data"]["id"])

    def api_key(self, user: User) -> str:
        """An API key of the user's agency."""
        with self.session(user.claims) as session:
            return str(session.call("create_api_key", name="K")["key"])

    def agency_server(self, key: str) -> Session:
        """A session of a server with this API key. It is anonymous until app.caller() has read the key."""
        session = self.session({"role": "anon"})
        session.set_headers(**{"x-request-id": "test", "x-agency-key": key})
        return session

    def one(self, query: str | sql.Composed, parameters: Any = None) -> dict[str, Any]:
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
        call = rpc("start_historical_sync", connection_id=connection_id, date_from="2013-01-01", date_to="2013-01-31")
        with self.acting_as("authenticated"):
            self.admin.execute(
                "select set_config('request.jwt.claims', %s, true), set_config('request.headers', %s, true)",
                (json.dumps(user.claims), '{"x-request-id": "test"}'),
            )
            return str(self.one(*call)["result"]["job_id"])

    def worker(self) -> Session:
        return self.session(SERVICE)

    def owner(self) -> Session:
        return self.session(OWNER)

    @contextlib.contextmanager
    def acting_as(self, role: str) -> Iterator[psycopg.Connection[dict[str, Any]]]:
        """A transaction of `admin` as another role. Cheaper than a `session`, which is a connection of its own."""
        with self.admin.transaction():
            self.admin.execute(f"set local role {role}")
            yield self.admin

    def insert(self, agency_id: str | None, family: str = "bulk_sync", **columns: Any) -> str:
        """A queued execution of any family, inserted by the tables' owner."""
        values = {"agency_id": agency_id, "family": family, **columns}
        query = sql.SQL("insert into app.executions ({}) values ({}) returning id").format(
            sql.SQL(", ").join(map(sql.Identifier, values)), sql.SQL(", ").join(map(sql.Placeholder, values))
        )
        with self.acting_as("postgres"):
            return str(self.one(query, values)["id"])

    def put(self, status: str, agency_id: str | None, family: str | None = None, **columns: Any) -> str:
        """An execution in this status (see TRANSITIONS_TO), of a family that can reach it."""
        family = family or ("bulk_sync" if status == "cancelling" else "historical_sync")
        job_id = self.insert(agency_id, family, **columns)
        self.transition(job_id, *TRANSITIONS_TO[status])
        return job_id

    def transition(self, job_id: str, *transitions: tuple[str, str]) -> None:
        for event, status in transitions:
            self.update(job_id, status=status, event=event, leased_by="w", lease_seconds=30)

    def update(self, job_id: str, **columns: Any) -> None:
        """Plain SQL on an execution, as the service role."""
        query = sql.SQL("update app.executions set {} where id = {}").format(
            sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.Identifier(c), sql.Placeholder(c)) for c in columns),
            sql.Literal(job_id),
        )
        with self.acting_as("service_role") as worker:
            worker.execute(query, columns)

    def expire_lease(self, job_id: str) -> None:
        """Expires the lease, as if the worker had stopped."""
        self.update(job_id, lease_expires_at="2001-01-01")

    def fingerprint(self) -> dict[str, Any]:
        """Every row of every table. It is equal before and after a call that must change nothing."""
        tables = self.all(
            "select oid::regclass::text as name from pg_class"
            " where relkind in ('r', 'p') and relnamespace in ('app'::regnamespace, 'public'::regnamespace)"
        )
        one = sql.SQL("select {} as name, jsonb_agg(to_jsonb(t) order by to_jsonb(t)) as rows from {} as t")
        query = sql.SQL(" union all ").join(
            one.format(sql.Literal(table["name"]), sql.Identifier(*table["name"].split("."))) for table in tables
        )
        return {row["name"]: row["rows"] for row in self.admin.execute(query)}

    def execution(self, job_id: str) -> dict[str, Any]:
        return self.one("select * from app.executions where id = %s", (job_id,))

    def events(self, job_id: str) -> list[dict[str, Any]]:
        return self.all("select * from app.execution_events where execution_id = %s order by id", (job_id,))

    def reconnect(self) -> None:
        """Connects again after the server was stopped."""
        self.admin.close()
        self.admin = self.connect()

    def check_invariants(self) -> None:
        violations = self.admin.execute(INVARIANTS, prepare=True).fetchall()
        assert violations == [], violations

    @contextlib.contextmanager
    def emptied_afterwards(self) -> Iterator[None]:
        """The empty database for one test. Empties it afterwards, which is much faster than a clone."""
        before = self._catalog()
        yield
        self.all(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()"
        )
        try:
            self.check_invariants()
            assert self._catalog() == before, "This test changes the schema: mark it with @pytest.mark.fresh_database."
        finally:
            self._empty()

    def _catalog(self) -> list[dict[str, Any]]:
        """A fingerprint of the schema, quick enough for every test."""
        return self.admin.execute(CATALOG, prepare=True).fetchall()

    def _empty(self) -> None:
        tables = self.all(
            "select c.oid::regclass::text as name from pg_class as c join pg_namespace as n on n.oid = c.relnamespace"
            " where c.relkind in ('r', 'p') and n.nspname in ('app', 'auth', 'public')"
        )
        deletes = "; ".join(f"delete from {table['name']}" for table in tables)
        # Without triggers, because the audit allows no deletion, and without a wait for a lock that a test left.
        with self.admin.transaction():
            self.admin.execute(
                f"set local session_replication_role = replica; set local lock_timeout = '10s'; {deletes}"
            )

    def close(self) -> None:
        self.admin.close()


def rpc(name: str, /, **arguments: Any) -> tuple[str, dict[str, Any]]:
    """The statement that calls a function, and its parameters. The column is `result`."""
    values = {key: exact_json.dumps(v) if isinstance(v, dict | list) else v for key, v in arguments.items()}
    named = ", ".join(f'"{key}" => %({key})s' for key in values)
    return f"select public.{name}({named}) as result", values


class Session:
    """A connection with one role and one token's claims, as the transports make. Each call is a transaction."""

    def __init__(self, database: Database, claims: Mapping[str, Any], role: str) -> None:
        self.connection: psycopg.Connection[dict[str, Any]] = psycopg.connect(
            database.url, autocommit=True, row_factory=dict_row, cursor_factory=ClientCursor
        )
        self.set_claims(claims)
        self.set_headers(**{"x-request-id": "test"})
        self.connection.execute(f"set role {role}")

    def set_claims(self, claims: Mapping[str, Any]) -> None:
        """Replaces the claims."""
        self.connection.execute("select set_config('request.jwt.claims', %s, false)", (json.dumps(dict(claims)),))

    def set_headers(self, **headers: str) -> None:
        """Replaces the request's headers."""
        self.connection.execute("select set_config('request.headers', %s, false)", (json.dumps(headers),))

    def execute(self, query: str | sql.Composed, parameters: Any = None) -> list[dict[str, Any]]:
        cursor = self.connection.execute(query, parameters)
        return cursor.fetchall() if cursor.description else []

    def call(self, name: str, /, **arguments: Any) -> Any:
        return self.execute(*rpc(name, **arguments))[0]["result"]

    def error(self, name: str, /, **arguments: Any) -> SqlError:
        """The error of a call that must fail."""
        try:
            response = self.call(name, **arguments)
        except psycopg.Error as error:
            return SqlError.of(error)
        raise AssertionError(f"{name} returned {response}")

    def attempt(self, query: str | sql.Composed, parameters: Any = None) -> SqlError | list[dict[str, Any]]:
        """A statement's rows, or its error."""
        try:
            return self.execute(query, parameters)
        except psycopg.Error as error:
            return SqlError.of(error)

    def source_check(self, connection_id: str, resource: str = "flights") -> str:
        """Starts a source check of this resource. Returns its id."""
        configuration = {"resource": resource}
        response = self.call("create_model", name="x", connection_id=connection_id, configuration=configuration)
        return str(response["check_id"])

    def claim(self, lease_seconds: int = 30, family: str = "historical_sync") -> dict[str, Any]:
        [execution] = self.call(
            "worker_claim", worker="w", families=[family], max_executions=1, lease_seconds=lease_seconds
        )
        return dict(execution)

    def commit_batch(self, execution: Mapping[str, Any], seq: int, *keys: str) -> str:
        response = self.call(
            "worker_commit_batch",
            execution_id=execution["id"],
            lease_token=execution["lease_token"],
            seq=seq,
            resource="flights",
            records=[{"key": key, "data": {"seq": seq}} for key in keys],
            checkpoint={"seq": seq},
            progress={"windows_done": seq, "windows_total": 10},
        )
        return str(response["result"])

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
