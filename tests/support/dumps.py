"""What a database is made of, as pg_dump tells it: two that were built in different ways can be compared."""

from __future__ import annotations

import contextlib
import subprocess
import uuid
from typing import TYPE_CHECKING

import psycopg

from functions._local import schema
from functions._local.postgres import wheel_bin_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from functions._local.postgres import Postgres

PG_DUMP = wheel_bin_directory() / "pg_dump"  # reads every server from 9.2 on


@contextlib.contextmanager
def built(server: Postgres, files: list[Path]) -> Iterator[str]:
    """The name of a database like a new Supabase project's, with these files applied as on one."""
    name = f"built_{uuid.uuid4().hex}"
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"create database {name}")
        try:
            with psycopg.connect(server.url(name), autocommit=True) as connection:
                schema.install(connection, files)
            yield name
        finally:
            admin.execute(f"drop database {name} with (force)")


def dump(server: Postgres, name: str) -> str:
    """Everything in the database but the CLI's own list of migrations, as SQL: owners, privileges and rows too."""
    # The key, else a random one, is in the output.
    command: list[str | Path] = [
        PG_DUMP,
        "--restrict-key=key",
        "--exclude-schema=supabase_migrations",
        server.url(name),
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def dump_table(url: str, table: str) -> str:
    """One table with its privileges, policies, triggers, indexes and rows, as SQL."""
    command: list[str | Path] = [PG_DUMP, "--restrict-key=key", f"--table={table}", url]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
