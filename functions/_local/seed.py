"""The embedded stack's data: two agencies with a user each, and a user without an agency."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from psycopg.types.json import Jsonb

from functions._local.schema import ROOT

if TYPE_CHECKING:
    import psycopg

    from functions._local.fake_auth import AuthServer
    from functions._local.source import Source

# A day, so that no user is signed out during a demo.
TOKEN_SECONDS = 24 * 3600
NAMES = {"http": "Flights of 2013", "records": "Records"}


def create(connection: psycopg.Connection[Any], auth: AuthServer, source: Source) -> list[dict[str, str | None]]:
    """The users of the `ready` line: {email, agency_id, connection_id, records_connection_id, access_token}."""
    connection.execute((ROOT / "sql" / "seed.sql").read_bytes())
    [north], [south] = connection.execute("select id from public.agencies order by id").fetchall()
    config, secret = source.connection()
    users: list[dict[str, str | None]] = []
    for email, agency_id in [("ada@north.example", north), ("sol@south.example", south), ("new@nowhere.example", None)]:
        connections: dict[str, str | None] = {"connection_id": None, "records_connection_id": None}
        if agency_id:
            connections = {
                "connection_id": connect(connection, agency_id, "http", config, secret),
                "records_connection_id": connect(connection, agency_id, "records", {}, {}),
            }
        token = user(connection, auth, email, agency_id)
        users.append({"email": email, "agency_id": agency_id and str(agency_id), **connections, "access_token": token})
    return users


def user(connection: psycopg.Connection[Any], auth: AuthServer, email: str, agency_id: uuid.UUID | None) -> str:
    """The access token of a new user's new session."""
    user_id, session_id = uuid.uuid4(), uuid.uuid4()
    connection.execute("insert into auth.users (id, email) values (%s, %s)", (user_id, email))
    connection.execute("insert into auth.sessions (id, user_id) values (%s, %s)", (session_id, user_id))
    connection.execute("insert into public.users (id, agency_id) values (%s, %s)", (user_id, agency_id))
    return auth.mint(user_id, session_id=session_id, email=email, lifetime=TOKEN_SECONDS)


def connect(
    connection: psycopg.Connection[Any], agency_id: uuid.UUID | str, kind: str, config: object, secret: object
) -> str | None:
    row = connection.execute(
        "with secret as ("
        "  insert into app.secrets (agency_id, storage, value, used_at)"
        "  select %(agency_id)s, 'database', %(secret)s, now() where %(secret)s <> '{}' returning id)"
        " insert into app.connections (agency_id, kind, name, config, secret_id)"
        " values (%(agency_id)s, %(kind)s, %(name)s, %(config)s, (select id from secret)) returning id",
        {"agency_id": agency_id, "kind": kind, "name": NAMES[kind], "config": Jsonb(config), "secret": Jsonb(secret)},
    ).fetchone()
    return str(row[0]) if row else None
