"""The real Supabase CLI pushes, lints, advises and generates types through `.supabase`, without Docker."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from functions._build.dump import built, dump
from functions._local import schema
from tests.support.database import VAULT
from tests.support.installed import NODE_MODULES, installed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from functions._local.postgres import Postgres
    from tests.support.database import Database

FROM_NPM = NODE_MODULES / "@supabase" / "cli-linux-x64" / "bin" / "supabase"
PROJECT = schema.ROOT / ".supabase"  # its folder `supabase` is a link to sql/

# No telemetry and no check for updates.
QUIET = {"DO_NOT_TRACK": "1", "SUPABASE_TELEMETRY_DISABLED": "1", "SUPABASE_NO_UPDATE_NOTIFIER": "1"}


class Supabase:
    """The CLI on this project, with a home of its own."""

    def __init__(self, home: Path) -> None:
        self._binary = installed("Supabase CLI", Path(os.environ.get("SUPABASE_CLI") or FROM_NPM))
        self._home = home

    def __call__(self, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._binary, "--workdir", PROJECT, "--output-format=json", *arguments, f"--remote={url}"],
            env={"PATH": os.defpath, "HOME": str(self._home), "PGSSLMODE": "disable", **QUIET},
            stdin=subprocess.DEVNULL,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def response(self, url: str, *arguments: str) -> dict[str, Any]:
        """The JSON output of a command that succeeds, without its target."""
        result = self(url, *arguments)
        response = json.loads(result.stdout) if result.stdout.startswith("{") else {"said": result.stdout}
        assert result.returncode == 0, (response, result.stderr)
        response.pop("target")
        return dict(response)


@pytest.fixture(scope="module")
def supabase(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supabase]:
    before = sorted((PROJECT / "supabase").rglob("*"))
    yield Supabase(tmp_path_factory.mktemp("home"))
    assert sorted((PROJECT / "supabase").rglob("*")) == before


@pytest.fixture(scope="module")
def pushed(postgres: Postgres, supabase: Supabase) -> Iterator[str]:
    """The name of a database that `supabase db push` has built, as a role that is not a superuser."""
    with built(postgres, []) as name:
        response = supabase.response(postgres.url(name, user="postgres"), "db", "push", "--yes")
        assert response["migrations"] == [file.name for file in schema.migrations()]
        yield name


@pytest.mark.sql
def test_push__builds_the_declared_schema(postgres: Postgres, pushed: str) -> None:
    with built(postgres, schema.declared()) as declared:
        assert dump(postgres, pushed).splitlines() == dump(postgres, declared).splitlines()


@pytest.mark.sql
def test_push__second_time_has_nothing_to_do(postgres: Postgres, pushed: str, supabase: Supabase) -> None:
    response = supabase.response(postgres.url(pushed, user="postgres"), "db", "push", "--yes")
    assert (response["upToDate"], response["migrations"]) == (True, [])


@pytest.mark.sql
def test_push__stops_at_tables_that_cannot_be_adopted(postgres: Postgres, supabase: Supabase) -> None:
    with built(postgres, []) as name:
        with psycopg.connect(postgres.url(name), autocommit=True) as connection:
            connection.execute("set role postgres; create table public.users (id uuid primary key, agency_id uuid)")
        result = supabase(postgres.url(name, user="postgres"), "db", "push", "--yes")
        assert result.returncode != 0
        assert "alter table public.users enable row level security;" in result.stdout + result.stderr
        with psycopg.connect(postgres.url(name)) as connection:
            assert connection.execute("select to_regnamespace('app')").fetchone() == (None,)


@pytest.mark.sql
def test_advisors__no_warning(postgres: Postgres, pushed: str, supabase: Supabase) -> None:
    url = postgres.url(pushed, user="postgres")
    assert supabase.response(url, "db", "advisors", "--fail-on=warn")["results"] == []


@pytest.mark.sql
def test_generated_types__public_objects_only(postgres: Postgres, pushed: str, supabase: Supabase) -> None:
    types = supabase(postgres.url(pushed, user="postgres"), "gen", "types", "--lang=typescript", "--schema=public")
    assert types.returncode == 0, types.stderr
    assert '"cancel_sync_job"' in types.stdout
    assert '"historical_sync_jobs"' in types.stdout
    assert '"executions"' not in types.stdout


@pytest.fixture(scope="module")
def checked(debian_clone: Callable[[], AbstractContextManager[Database]]) -> Iterator[Database]:
    """With plpgsql_check, which also checks functions that no test calls, and with Supabase Vault."""
    with debian_clone() as made:
        made.admin.execute(VAULT.read_bytes())
        made.admin.execute("create extension plpgsql_check")
        yield made


def test_lint__no_error_in_functions(checked: Database, supabase: Supabase) -> None:
    response = supabase.response(checked.login("postgres"), "db", "lint", "--level=error", "--fail-on=error")
    assert response["results"] == []


def test_lint__no_error_in_trigger_functions(checked: Database) -> None:
    """The CLI does not check trigger functions, because that needs their table."""
    found = checked.all(
        "select tgname, relation::text, finding.* from pg_trigger, lateral (select tgrelid::regclass) as r (relation),"
        " lateral plpgsql_check_function_tb(tgfoid, tgrelid) as finding where not tgisinternal and level = 'error'"
    )
    assert found == []
