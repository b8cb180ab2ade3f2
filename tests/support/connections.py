"""Connections and API keys: configurations, keys, and responses that are validated by their models."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from functions.api_key.create_api_key import ApiKeyCreated
from functions.connection.get_connection import OneConnection

if TYPE_CHECKING:
    import httpx

    from tests.support.database import Database, User
    from tests.support.project import Project

PATH = "/api/connections"
UNKNOWN = "00000000-0000-4000-8000-000000000000"
SECRET = {"token": "s3cr3t-of-the-source"}
CONFIG: dict[str, Any] = {
    "base_url": "https://api.example.com/v1",
    "auth": {"type": "bearer"},
    "headers": {"X-Team": "flights"},
    "timeout_seconds": 2.5,
    "requests_per_second": None,
    "resources": {
        "flights": {
            "path": "/flights",
            "primary_key": ["id"],
            "records": "data",
            "params": {"select": "*", "n": 1},
            "date_filter": None,
            "pagination": {"type": "page_number", "param": "page", "size_param": None, "size": 1000},
        },
        "日本語 🛫": {"path": "/w", "primary_key": ["a", "b"], "records": "", "pagination": {"type": "none"}},
    },
}
GOOD: dict[str, Any] = {"name": "Flights", "type": "http", "configuration": {**CONFIG, "secret": SECRET}}


def make_key(project: Project, user: User, name: str = "nightly jobs") -> tuple[str, str]:
    """A new API key of the user's agency, and its id."""
    response = project.request("POST", "/create-api-key", project.token(user), json={"name": name})
    assert response.status_code == 201, response.text
    ApiKeyCreated.model_validate_json(response.content, strict=True, extra="forbid")
    made = response.json()
    return made["key"], made["api_key"]["id"]


def revoke_key(project: Project, user: User, key_id: str) -> httpx.Response:
    return project.request("POST", "/revoke-api-key", project.token(user), json={"api_key_id": key_id})


def created(response: httpx.Response) -> dict[str, Any]:
    """The connection in a successful response of create or get."""
    assert response.status_code == 200, response.text
    OneConnection.model_validate_json(response.content, strict=True, extra="forbid")
    connection: dict[str, Any] = response.json()["data"]
    return connection


def ids(project: Project, token: str) -> list[str]:
    """The ids of all connections that this caller sees, which must fit on one page."""
    response = project.request("GET", PATH, token)
    assert response.status_code == 200, response.text
    return [connection["id"] for connection in response.json()["data"]]


def row(database: Database, connection_id: str) -> dict[str, Any]:
    """The stored connection, with its `secret` as the database stores it."""
    stored = database.one("select * from app.connections where id = %s", (connection_id,))
    return stored | {"secret": database.secret(connection_id)}


def everything_stored(database: Database) -> str:
    """Every row of every table of this project, as text."""
    return json.dumps(database.fingerprint(), default=str)
