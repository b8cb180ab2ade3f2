"""The files of sql/schemas: their places, and that only the order of the stages matters."""

from __future__ import annotations

import itertools
import random
import re
import tomllib
from typing import TYPE_CHECKING

import psycopg
import pytest

from functions._local import schema

if TYPE_CHECKING:
    from pathlib import Path

    from functions._local.postgres import Postgres

pytestmark = [pytest.mark.sql, pytest.mark.conventions]


def stages() -> list[list[Path]]:
    """The declared files by the patterns of sql/config.toml, each file in the first pattern that matches."""
    patterns = tomllib.loads((schema.SQL / "config.toml").read_text())["db"]["migrations"]["schema_paths"]
    seen: set[Path] = set()
    found = []
    for pattern in patterns:
        files = [file for file in sorted(schema.SQL.glob(pattern)) if file not in seen]
        seen.update(files)
        found.append(files)
    return found


def test_layout__every_file_is_declared() -> None:
    missing = set((schema.SQL / "schemas").rglob("*.sql")) - set(schema.declared())
    assert missing == set(), "move these files to a folder that sql/config.toml lists in schema_paths"
    assert [file for stage in stages() for file in stage] == schema.declared()


def test_layout__numbers_in_tables_only() -> None:
    """A number means that the order matters. Functions need none, because plpgsql resolves names at run time."""
    numbered = [file for file in schema.declared() if re.match(r"\d", file.name) and file.parent.name != "tables"]
    assert numbered == [], "remove the number from the file name"
    unnumbered = [file for file in schema.declared() if file.parent.name == "tables" and not re.match(r"\d", file.name)]
    assert unnumbered == [], "begin the file name with a number that places it after the tables it refers to"


@pytest.mark.parametrize("file", sorted((schema.SQL / "schemas" / "tables").glob("*.sql")), ids=lambda file: file.stem)
def test_layout__table_documents_its_limits(file: Path) -> None:
    text = file.read_text()
    if "create table" in text:
        for label in ("Bound", "Purge", "Deletion"):
            assert re.search(rf"^-- {label}: ", text, re.MULTILINE), (
                f"{file.name}: add a comment line `-- {label}: …` that describes "
                + {"Bound": "how many rows there can be", "Purge": "what deletes old rows"}.get(
                    label, "what happens to a row when its execution, definition, connection or agency is deleted"
                )
            )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_layout__any_order_within_a_stage_installs(postgres: Postgres, seed: int) -> None:
    """The tables keep their numbers' order."""
    shuffled = random.Random(seed)
    tables, *others = stages()
    for stage in others:
        shuffled.shuffle(stage)
    name = f"shuffled_{seed}"
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute(f"create database {name}")
        try:
            with psycopg.connect(postgres.url(name), autocommit=True) as connection:
                schema.install(connection, [*tables, *itertools.chain(*others)])
        finally:
            admin.execute(f"drop database {name} with (force)")
