"""A project of the baseline is upgraded while its worker runs: the executions end as if nothing had happened."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

import psycopg
import pytest

from functions._build import baseline, migrations
from functions._build.dump import built
from functions._local import schema
from functions._local.source import Source, table
from tests.support.database import Database
from tests.support.historical_syncs import Scenario
from tests.support.wait import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from functions._local.postgres import Postgres

pytestmark = pytest.mark.sql

BASELINE = schema.SQL / "migrations" / baseline.NAME
ATTEMPTS = 20

# A later migration, as (what the file declares, old, new): the worker's functions and tables change, and every policy.
CHANGES = [
    (
        "create table app.executions",
        "\n  unique (agency_id, id),",
        "\n  added_later int not null default 0,\n  unique (agency_id, id),",
    ),
    ("function app.agency_id()", "app.agency_id()", "app.agency_id(later boolean default true)"),
    ("function public.worker_commit_batch(", "\nbegin\n", "\nbegin\n  -- Later.\n"),
    ("function public.worker_reap(", "\nbegin\n", "\nbegin\n  -- Later.\n"),
]


@pytest.fixture(scope="module")
def baseline_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the functions and the worker of the baseline's release."""
    folder = tmp_path_factory.mktemp("baseline")
    commit = _baseline_commit()
    if commit is None:
        # Until the baseline has landed, its release is this tree.
        assert baseline.NAME not in migrations.frozen_hashes(), f"No commit holds {baseline.NAME} as it is here."
        shutil.copytree(schema.ROOT / "functions", folder / "functions")
    else:
        archive = _git("archive", commit, "functions").stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
    return folder


def _baseline_commit() -> str | None:
    """The commit that wrote the baseline; None if there is none, or if the file has changed since."""
    if not (schema.ROOT / ".git").exists() or _git("status", "--porcelain", "--", str(BASELINE)).stdout:
        return None
    shallow = _git("rev-parse", "--is-shallow-repository").stdout.decode().strip()
    assert shallow == "false", "fetch the whole history: git fetch --unshallow"
    return _git("log", "-1", "--format=%H", "--", str(BASELINE)).stdout.decode().strip() or None


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", schema.ROOT, *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def later_migrations(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> list[Path]:
    """What follows the baseline, and one more that changes much of what the worker uses."""
    sql = tmp_path_factory.mktemp("project") / "sql"
    shutil.copytree(schema.SQL, sql)
    migrations.freeze(sql)
    for declaration, old, new in CHANGES:
        [file] = [file for file in schema.declared(sql) if declaration in file.read_text()]
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))
    written = migrations.write_next("later", postgres, sql)
    assert written
    assert written[1].missing == []
    return schema.migrations(sql)[1:]


@pytest.fixture
def project(
    postgres: Postgres, baseline_code: Path, later_migrations: list[Path], tmp_path: Path
) -> Iterator[UpgradedProject]:
    table("flights")
    with built(postgres, [BASELINE]) as name, Source(delay_seconds=0.05) as source:
        database = Database(postgres, name)
        scenario = Scenario(database, source, tmp_path, baseline_code)
        try:
            yield UpgradedProject(scenario, later_migrations)
            scenario.check_logs()
            database.check_invariants()
        finally:
            scenario.close()
            database.close()


class UpgradedProject:
    """A project of the baseline, with a worker of the baseline."""

    def __init__(self, scenario: Scenario, later: list[Path]) -> None:
        self.scenario = scenario
        self._later = later

    def upgrade(self) -> None:
        """Each migration in a transaction, again if it and the worker have locked each other out."""
        with psycopg.connect(self.scenario.database.url, autocommit=True) as connection:
            connection.execute("set role postgres; set lock_timeout = '2s'")
            for file in self._later:
                _apply(connection, file)
        self.scenario.database.reconnect()  # it has prepared statements whose columns are others now

    def is_upgraded(self) -> bool:
        return bool(self.scenario.database.all("select from pg_attribute where attname = 'added_later'"))


def _apply(connection: psycopg.Connection[tuple[object, ...]], file: Path) -> None:
    for _ in range(ATTEMPTS):
        with (
            contextlib.suppress(psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable),
            connection.transaction(),
        ):
            connection.execute(file.read_bytes())
            return
    raise AssertionError(f"{file.name} never got its locks.")


def test_upgrade__running_execution_completes(project: UpgradedProject) -> None:
    scenario = project.scenario
    job_id = scenario.start()
    scenario.start_worker()
    scenario.wait_for_seq(job_id, 3)
    project.upgrade()
    assert scenario.row(job_id)["status"] == "running"
    assert project.is_upgraded()
    scenario.assert_completed(job_id)
    assert scenario.events(job_id) == ["start", "claim", "complete"]


def test_upgrade__queued_execution_is_claimed_and_cancelled(project: UpgradedProject) -> None:
    scenario = project.scenario
    job_id = scenario.start()
    project.upgrade()
    worker = scenario.start_worker()
    scenario.wait_for_seq(job_id, 2)
    assert scenario.cancel(job_id) == {"job_id": job_id, "status": "cancelled"}
    row = scenario.row(job_id)
    until(lambda: [line for line in worker.lines if line["message"].endswith("ended")])  # as the baseline logs it
    assert scenario.row(job_id) == row


def test_upgrade__two_step_cancel_is_acknowledged(project: UpgradedProject) -> None:
    scenario = project.scenario
    config, secret = scenario.source.connection(["flights"], auth="api_key_query", page_size=120)
    source_id = scenario.database.connection(scenario.user.agency_id, config=config, secret=secret)
    sync_id = scenario.database.bulk_sync(scenario.user, source_connection_id=source_id)
    execution_id = scenario.database.execute(scenario.user, sync_id)
    scenario.start_worker()
    scenario.wait_for_seq(execution_id, 2)
    project.upgrade()
    with scenario.database.session(scenario.user.claims) as session:
        session.call("cancel_bulk_sync", sync_id=sync_id)
    until(lambda: scenario.row(execution_id)["finished_at"])
    assert scenario.events(execution_id) == ["start", "claim", "request_cancel", "acknowledge"]


def test_upgrade__dead_worker_is_replaced(project: UpgradedProject) -> None:
    """A second worker of the baseline takes over after the migration, from the checkpoint before it."""
    scenario = project.scenario
    job_id = scenario.start()
    worker = scenario.start_worker()
    scenario.wait_for_seq(job_id, 3)
    worker.close()
    project.upgrade()
    scenario.start_worker()
    scenario.assert_completed(job_id)
    assert scenario.events(job_id) == ["start", "claim", "release", "claim", "complete"]
