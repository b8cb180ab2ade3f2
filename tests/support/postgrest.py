"""A real PostgREST in front of a test's database. Without it the test is skipped; in CI it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from functions._local import postgrest
from tests.support.installed import installed

if TYPE_CHECKING:
    from tests.support.database import Database


def serve(database: Database, jwks: str) -> postgrest.Postgrest:
    """`jwks` is AuthServer.jwks_for_postgrest()."""
    installed("PostgREST", postgrest.binary())
    return postgrest.Postgrest(database.login("authenticator"), jwks)
