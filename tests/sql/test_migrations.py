"""sql/migrations builds the declared schema. Landed files never change; the next one is written from the difference."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import psycopg
import pytest

from functions._build import baseline, difference, migrations
from functions._build.dump import built
from functions._local import schema

if TYPE_CHECKING:
    from pathlib import Path

    from functions._local.postgres import Postgres


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


@pytest.mark.sql
def test_public_functions__none_has_overloads(postgres: Postgres) -> None:
    """PostgREST cannot distinguish two functions of one name if arguments have defaults."""
    with built(postgres, schema.migrations()) as name, psycopg.connect(postgres.url(name)) as connection:
        assert difference.overloads(connection) == []


@pytest.fixture
def landed(tmp_path: Path) -> Path:
    """A folder like sql/ with one migration that has landed."""
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / baseline.NAME).write_text("select 1;\n")
    migrations.freeze(tmp_path)
    return tmp_path


def test_freeze__records_what_sha256sum_checks(landed: Path) -> None:
    command = ["sha256sum", "--check", "--strict", migrations.FROZEN]
    assert subprocess.run(command, cwd=landed, check=False, capture_output=True).returncode == 0


def test_frozen_migration__changed(landed: Path) -> None:
    (landed / "migrations" / baseline.NAME).write_text("select 2;\n")
    with pytest.raises(migrations.FrozenError, match=r"Restore it .* write a new migration \(make migration NAME="):
        migrations.check_frozen(landed)
    with pytest.raises(migrations.FrozenError, match="has landed and must not change"):
        migrations.freeze(landed)


def test_frozen_migration__missing(landed: Path) -> None:
    (landed / "migrations" / baseline.NAME).unlink()
    with pytest.raises(migrations.FrozenError, match="has landed and must not change"):
        migrations.check_frozen(landed)


def test_frozen_baseline__not_written_again(landed: Path) -> None:
    with pytest.raises(migrations.FrozenError, match="make migration NAME="):
        migrations.write_baseline(landed)
    assert (landed / "migrations" / baseline.NAME).read_text() == "select 1;\n"


@pytest.mark.sql
def test_migration__refused_while_an_older_one_has_not_landed(landed: Path, postgres: Postgres) -> None:
    (landed / "migrations" / "20300101000000_newer.sql").write_text("select 2;\n")
    with pytest.raises(migrations.FrozenError, match=r"20300101000000_newer\.sql has not landed.*freeze"):
        migrations.write_next("next", postgres, landed)
    assert len(schema.migrations(landed)) == 2
