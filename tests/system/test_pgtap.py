"""sql/tests is the pgTAP suite that `supabase test db` runs in Docker. Here the same pg_prove runs without Docker."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import psycopg.conninfo
import pytest

from functions._local import schema
from tests.support.installed import pg_prove

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.support.database import Database

SUITE = sorted((schema.ROOT / "sql" / "tests").rglob("*.sql"))

# What `supabase start` and `supabase test db` prepare.
AS_ON_SUPABASE = """
create schema extensions;
grant usage on schema extensions to postgres, anon, authenticated, service_role;
create extension pgtap with schema extensions;
grant insert on auth.users, auth.sessions to postgres;
"""


@pytest.fixture(scope="module")
def prepared(debian_clone: Callable[[], AbstractContextManager[Database]]) -> Iterator[Database]:
    with debian_clone() as made:
        made.admin.execute(AS_ON_SUPABASE)
        yield made


@pytest.mark.parametrize("file", SUITE, ids=lambda file: file.name)
def test_pgtap__passes_and_changes_nothing(prepared: Database, file: Path) -> None:
    before = prepared.fingerprint()
    parameters = psycopg.conninfo.conninfo_to_dict(prepared.login("postgres"))
    result = subprocess.run(
        [pg_prove(), "--failures", "--comments", file],
        env={
            "PATH": os.environ["PATH"],
            "PGHOST": str(parameters["host"]),
            "PGPORT": str(parameters["port"]),
            "PGUSER": str(parameters["user"]),
            "PGPASSWORD": str(parameters["password"]),
            "PGDATABASE": str(parameters["dbname"]),
            "PGOPTIONS": "-c search_path=public,extensions",
        },
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert prepared.fingerprint() == before


def test_pgtap__every_file_is_found() -> None:
    assert {file.name for file in SUITE} == {"grants.test.sql", "next_status.test.sql", "tenancy.test.sql"}
