"""The declared schema and how it is applied to a database. `sql/config.toml` lists the files in loading order."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    import psycopg

ROOT = Path(__file__).parents[2]
SQL = ROOT / "sql"
MIGRATIONS = SQL / "migrations"
PLAIN_POSTGRES = Path(__file__).with_name("plain_postgres.sql")


def declared() -> list[Path]:
    """The files that `schema_paths` matches, each once, sorted within each pattern. Their order is that of loading."""
    patterns = tomllib.loads((SQL / "config.toml").read_text())["db"]["migrations"]["schema_paths"]
    return list(dict.fromkeys(file for pattern in patterns for file in sorted(SQL.glob(pattern))))


def migrations() -> list[Path]:
    return sorted(MIGRATIONS.glob("*.sql"))


def apply(connection: psycopg.Connection[Any], files: list[Path]) -> None:
    """Runs SQL files in order, in the connection's transaction; an error names its file."""
    for file in files:
        try:
            connection.execute(file.read_bytes())
        except Exception as error:
            error.add_note(f"in {file.relative_to(ROOT)}")
            raise


def install(connection: psycopg.Connection[Any], files: list[Path]) -> None:
    """Makes an empty database a Supabase-like one and builds the schema as the migrations' role, as hosted."""
    with connection.transaction():
        apply(connection, [PLAIN_POSTGRES])
        connection.execute("set local role postgres")
        apply(connection, files)


def as_migration() -> str:
    """All of the declared schema as one migration: right until the first release, when migrations become steps."""
    return "".join(f"-- {file.relative_to(SQL)}\n{file.read_text()}\n" for file in declared())


if __name__ == "__main__":
    [file] = migrations() or [MIGRATIONS / "20261122000000_control_plane.sql"]
    file.write_text(as_migration())
