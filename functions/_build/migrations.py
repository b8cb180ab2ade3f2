"""`python -m functions._build.migrations`: writes the files of sql/migrations."""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psycopg

from functions._build import baseline, difference
from functions._build.dump import built, dump
from functions._local import schema
from functions._local.postgres import Postgres

if TYPE_CHECKING:
    from pathlib import Path

FROZEN = "frozen.sha256"  # in sql/: the CLI names every file of migrations/ that it skips

_HEADER = """\
-- Written by `make migration`. Read it before it lands; to write it again, delete it and run the command again.
"""
_STUB = """\
-- Write what is missing below, then delete this statement and the next comment. `make test` compares the result.
do $$ begin
  raise exception 'This migration is not complete: see the comment in its file.';
end $$;

"""


class FrozenError(Exception):
    """A migration that has landed was changed, or would be."""


def frozen_hashes(sql: Path = schema.SQL) -> dict[str, str]:
    """The SHA-256 of every landed migration, by file name; `sha256sum --check` reads the same file."""
    file = sql / FROZEN
    lines = file.read_text().splitlines() if file.exists() else []
    return {path.removeprefix("migrations/"): digest for digest, path in (line.split("  ") for line in lines)}


def check_frozen(sql: Path = schema.SQL) -> None:
    """Raises FrozenError if a landed migration was changed or is missing."""
    for name, digest in frozen_hashes(sql).items():
        file = sql / "migrations" / name
        if not file.exists() or _sha256(file) != digest:
            raise FrozenError(
                f"{name} has landed and must not change, because projects that have applied it never apply it again."
                f" Restore it (git checkout main -- sql/migrations/{name}) and write a new migration"
                " (make migration NAME=...)."
            )


def freeze(sql: Path = schema.SQL) -> None:
    """Records every migration as landed."""
    check_frozen(sql)
    lines = [f"{_sha256(file)}  migrations/{file.name}\n" for file in schema.migrations(sql)]
    (sql / FROZEN).write_text("".join(lines))


def write_baseline(sql: Path = schema.SQL) -> Path:
    """Writes the declared schema as the baseline, as long as that has not landed."""
    if baseline.NAME in frozen_hashes(sql):
        raise FrozenError(f"{baseline.NAME} has landed and must not change. Write a migration: make migration NAME=...")
    file = sql / "migrations" / baseline.NAME
    file.write_text(baseline.render(sql))
    return file


@dataclass(frozen=True)
class Migration:
    """The text of a migration. It is a stub if something has to be added by hand, which `missing` names."""

    text: str
    missing: list[str]


def from_difference(server: Postgres, sql: Path = schema.SQL) -> Migration | None:
    """What turns a database built from the migrations into one built from the declared schema; None if they are equal.

    The statements are applied here, and the result is compared with the declared schema.
    """
    with built(server, schema.migrations(sql)) as old, built(server, schema.declared(sql)) as new:
        return _difference(server, old, new)


def _difference(server: Postgres, old: str, new: str) -> Migration | None:
    """Applies the difference to the database `old`, as far as possible."""
    migrated, declared = dump(server, old), dump(server, new)
    if migrated == declared:
        return None
    with (
        psycopg.connect(server.url(old), autocommit=True) as connection,
        psycopg.connect(server.url(new), autocommit=True) as new_connection,
    ):
        connection.execute("set role postgres")
        structure = difference.structure(connection, migrated, new_connection, declared)
        statements, missing = structure.statements, structure.unsupported
        try:
            _apply(connection, statements)
            attachments = difference.attachments(dump(server, old), declared).statements
            _apply(connection, attachments)
        except psycopg.Error as error:
            missing = [*missing, f"Postgres rejects these statements: {error}"]
            return Migration(_render(statements, missing), missing)
        statements = statements + attachments
        missing = missing + [f"function public.{name} has overloads." for name in difference.overloads(connection)]
    if not missing and dump(server, old) != declared:
        missing = ["The result is not the declared schema. tests/sql/test_schema.py shows how the dumps differ."]
    return Migration(_render(statements, missing), missing)


def _apply(connection: psycopg.Connection[tuple[object, ...]], statements: list[str]) -> None:
    with connection.transaction():
        connection.execute("set local check_function_bodies = off")
        for statement in statements:
            connection.execute(statement.encode())


def _render(statements: list[str], missing: list[str]) -> str:
    text = "\n".join(statements)
    if re.search(r"^CREATE (?:OR REPLACE )?FUNCTION", text, re.MULTILINE):
        # A body may name what is created below.
        text = f"set check_function_bodies = off;\n\n{text}\nreset check_function_bodies;\n"
    todo = "".join(f"-- {line}\n" for entry in missing for line in entry.splitlines())
    stub = f"{_STUB}-- Missing:\n{todo}\n" if missing else ""
    return f"{_HEADER}\n{stub}{text}\n{baseline.RELOAD}"


def write_next(name: str, server: Postgres, sql: Path = schema.SQL) -> tuple[Path, Migration] | None:
    """Writes the next migration, complete or a stub; None if the declared schema has not changed."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"NAME must be in lower case, such as add_priority, not {name!r}.")
    check_frozen(sql)
    files = schema.migrations(sql)
    for file in files:
        if file.name not in frozen_hashes(sql):
            raise FrozenError(
                f"{file.name} has not landed. To change it, delete it (the baseline: run the command `baseline`) and"
                " run this again. If it has landed, record that: python -m functions._build.migrations freeze"
            )
    migration = from_difference(server, sql)
    if migration is None:
        return None
    stamp = max(int(datetime.now(UTC).strftime("%Y%m%d%H%M%S")), int(files[-1].name[:14]) + 1)
    path = sql / "migrations" / f"{stamp}_{name}.sql"
    path.write_text(migration.text)
    return path, migration


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m functions._build.migrations", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("baseline", help="write the declared schema as the baseline, until that is frozen")
    new = commands.add_parser("new", help="write the next migration from what the declared schema has changed")
    new.add_argument("name", help="for example add_priority (make migration NAME=add_priority)")
    commands.add_parser("freeze", help="record every migration as landed: it must not change any more")
    options = parser.parse_args()
    try:
        _run(options)
    except (FrozenError, ValueError) as error:
        sys.exit(str(error))


def _run(options: argparse.Namespace) -> None:
    if options.command == "baseline":
        print(f"Written: {write_baseline()}")
    elif options.command == "freeze":
        freeze()
    else:
        with Postgres() as server:
            written = write_next(options.name, server)
        if written is None:
            print("Nothing to do: the migrations build the declared schema.")
        else:
            _report(*written)


def _report(path: Path, migration: Migration) -> None:
    if not migration.missing:
        print(f"Written: {path}. Its result is the declared schema.")
        return
    missing = "\n".join(f"  {line}" for line in migration.missing)
    sys.exit(f"Written as a stub: {path}. Complete it by hand:\n{missing}")


if __name__ == "__main__":
    main()
