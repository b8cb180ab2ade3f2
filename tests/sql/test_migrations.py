"""sql/migrations builds the declared schema. Landed files never change; the next one is written from the difference."""

from __future__ import annotations

from functions._build import baseline, migrations
from functions._local import schema


def test_schema_paths__name_every_declared_file_once() -> None:
    declared = schema.declared()
    assert len(declared) == len(set(declared))
    assert set(declared) == set((schema.SQL / "schemas").rglob("*.sql")), "Add the folder to sql/config.toml."


def test_migrations__landed_files_are_unchanged() -> None:
    migrations.check_frozen()


def test_migrations__all_but_the_newest_have_landed() -> None:
    older = [file.name for file in schema.migrations()[:-1]]
    assert set(older) <= set(migrations.frozen_hashes()), "Run: python -m functions._build.migrations freeze"


def test_baseline__is_the_declared_schema_until_it_lands() -> None:
    if baseline.NAME not in migrations.frozen_hashes():
        written = (schema.SQL / "migrations" / baseline.NAME).read_text()
        assert written.splitlines() == baseline.render().splitlines(), (
            "Run: python -m functions._build.migrations baseline"
        )
