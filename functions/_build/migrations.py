"""`python -m functions._build.migrations`: writes the files of sql/migrations."""

from __future__ import annotations

import argparse
import hashlib
import sys
from typing import TYPE_CHECKING

from functions._build import baseline
from functions._local import schema

if TYPE_CHECKING:
    from pathlib import Path

FROZEN = "frozen.sha256"


class FrozenError(Exception):
    """A migration that has landed was changed, or would be."""


def frozen_hashes(sql: Path = schema.SQL) -> dict[str, str]:
    """The SHA-256 of every landed migration, by file name; `sha256sum --check` reads the same file."""
    file = sql / "migrations" / FROZEN
    lines = file.read_text().splitlines() if file.exists() else []
    return {name: digest for digest, name in (line.split("  ") for line in lines)}


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
    lines = [f"{_sha256(file)}  {file.name}\n" for file in schema.migrations(sql)]
    (sql / "migrations" / FROZEN).write_text("".join(lines))


def write_baseline(sql: Path = schema.SQL) -> Path:
    """Writes the declared schema as the baseline, as long as that has not landed."""
    if baseline.NAME in frozen_hashes(sql):
        raise FrozenError(f"{baseline.NAME} has landed and must not change. Write a migration: make migration NAME=...")
    file = sql / "migrations" / baseline.NAME
    file.write_text(baseline.render(sql))
    return file


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m functions._build.migrations", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("baseline", help="write the declared schema as the baseline, until that is frozen")
    commands.add_parser("freeze", help="record every migration as landed: it must not change any more")
    options = parser.parse_args()
    try:
        if options.command == "baseline":
            print(f"Written: {write_baseline()}")
        else:
            freeze()
    except FrozenError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
