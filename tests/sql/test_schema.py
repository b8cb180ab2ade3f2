"""sql/schemas, the declared schema, equals the schema that sql/migrations build."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from functions._build.dump import built, dump
from functions._local import schema

if TYPE_CHECKING:
    from functions._local.postgres import Postgres

pytestmark = [pytest.mark.sql, pytest.mark.conventions]

FUNCTION = "create or replace function "


def test_schema__migrations_build_it(postgres: Postgres) -> None:
    with built(postgres, schema.declared()) as declared, built(postgres, schema.migrations()) as migrated:
        assert dump(postgres, migrated).splitlines() == dump(postgres, declared).splitlines(), (
            "sql/schemas has changed. Write the migration: make migration NAME=…"
        )


def test_schema__functions_can_be_applied_again(postgres: Postgres) -> None:
    functions = [file for file in schema.declared() if FUNCTION in file.read_text()]
    with built(postgres, schema.declared()) as name:
        before = dump(postgres, name)
        with psycopg.connect(postgres.url(name)) as connection:
            connection.execute("set role postgres")
            schema.apply(connection, functions)
        assert dump(postgres, name).splitlines() == before.splitlines(), (
            "Applying the functions' files again changed the schema. Leave only `create or replace function`, `revoke`"
            " and `grant` in them, and move other statements to sql/schemas/tables/"
        )


def test_schema__functions_are_create_or_replace() -> None:
    declared = [file.read_text().lower() for file in schema.declared()]
    assert sum(text.count(FUNCTION) for text in declared) > 0
    assert [text for text in declared if "create function" in text or "create procedure" in text] == [], (
        "Write `create or replace function` in these files of sql/schemas"
    )
