"""Databases as pg_dump describes them: two that were built in different ways can be compared."""

from __future__ import annotations

import contextlib
import re
import subprocess
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from functions._local import schema
from functions._local.postgres import wheel_bin_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from functions._local.postgres import Postgres

    Key = tuple[str, str, str]
    Entries = dict[Key, "Entry"]

PG_DUMP = wheel_bin_directory() / "pg_dump"  # reads every server from 9.2 on

_HEADING = re.compile(
    r"^--\n-- (?:Data for )?Name: (?P<name>.*); Type: (?P<type>[A-Z ]+); Schema: (?P<schema>.*); Owner: .*\n--\n\n",
    re.MULTILINE,
)
_OWNER = re.compile(r"^ALTER .* OWNER TO \S+;\n*", re.MULTILINE)
_TRAILER = re.compile(r"\s*(?:--\n-- PostgreSQL database dump complete\n.*|(?:SET default_\w+ = .*;\s*)+)\Z", re.DOTALL)


@dataclass(frozen=True)
class Entry:
    """One thing that a database consists of, with the statements that create it. `name` is pg_dump's."""

    type: str
    schema: str
    name: str
    statements: str

    @property
    def key(self) -> Key:
        return self.type, self.schema, self.name

    def __str__(self) -> str:
        return f"{self.type.lower()} {self.schema}.{self.name}"


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
    """The whole database but the CLI's own list of migrations, as SQL: owners, privileges and rows too."""
    return _pg_dump(server.url(name), "--exclude-schema=supabase_migrations")


def dump_table(url: str, table: str) -> str:
    """One table with its privileges, policies, triggers, indexes and rows, as SQL."""
    return _pg_dump(url, f"--table={table}")


def entries(text: str) -> Entries:
    """What a dump consists of, in an order in which it can be created; privileges come last. Owners are left out."""
    headings = [*_HEADING.finditer(text)]
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    found: Entries = {}
    for heading, end in zip(headings, ends, strict=True):
        statements = _OWNER.sub("", _TRAILER.sub("", text[heading.end() : end])).strip() + "\n"
        entry = Entry(heading["type"], heading["schema"], heading["name"], statements)
        if not _is_empty(entry):
            found[entry.key] = entry
    return found


def _is_empty(entry: Entry) -> bool:
    """Rows of a table that has none, and the state of a sequence."""
    return entry.type == "SEQUENCE SET" or (entry.type == "TABLE DATA" and entry.statements.endswith("stdin;\n\\.\n"))


def _pg_dump(url: str, *options: str) -> str:
    # Without a fixed key, the output contains a random one.
    command: list[str | Path] = [PG_DUMP, "--restrict-key=key", *options, url]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
