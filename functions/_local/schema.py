"""The declared schema and the migrations, and how they reach a database.

`sql/config.toml` lists the declared files in order (`schema_paths`), for the Supabase CLI and for this module.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    import psycopg

ROOT = Path(__file__).parents[2]
SQL = ROOT / "sql"
PLAIN_POSTGRES = Path(__file__).with_name("plain_postgres.sql")


def declared(sql: Path = SQL) -> list[Path]:
    """The files of `schemas/` in the order of `schema_paths`; each file once, those of one pattern in path order."""
    config = tomllib.loads((sql / "config.toml").read_text())
    patterns = config["db"]["migrations"]["schema_paths"]
    return list(dict.fromkeys(file for pattern in patterns for file in sorted(sql.glob(pattern))))


def migrations(sql: Path = SQL) -> list[Path]:
    return sorted((sql / "migrations").glob("*.sql"))


def apply(connection: psycopg.Connection[Any], files: list[Path]) -> None:
    """Runs SQL files in order, in the connection's transaction; an error names its file."""
    for file in files:
        try:
            connection.execute(file.read_bytes())
        except Exception as error:
            error.add_note(f"in {file}")
            raise


def install(connection: psycopg.Connection[Any], files: list[Path]) -> None:
    """Makes an empty database a Supabase-like one and builds the schema as the migrations' role, as hosted."""
    with connection.transaction():
        apply(connection, [PLAIN_POSTGRES])
        connection.execute("set local role postgres")
        apply(connection, files)
