"""Records a second: `worker_commit_batch` beside loaders, which load the same rows into the same Postgres."""

from __future__ import annotations

import json
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from functions._local.schema import ROOT
from functions._local.source import table as source
from tests.bench import installed
from tests.bench.figures import Goal, Table, median, paired_ratio
from tests.bench.processes import inherited

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.bench.stack import BenchStack

OURS = "ours, worker_commit_batch"
PEERS = {"dlt": "dlt_", "Singer, target-postgres": "singer_"}
ROWS = 50_000


def run(stack: BenchStack, rounds: int, rows: int) -> dict[str, list[float]]:
    """Records a second by loader, for each round."""
    contenders = {OURS: ("ours", "worker", {"DATABASE_URL": stack.url("authenticator"), "OWNER_URL": stack.url()})}
    with psycopg.connect(stack.postgres.url(), autocommit=True) as admin:
        admin.execute("create database loads owner postgres")
    for name, module in PEERS.items():
        folder = module.rstrip("_")
        if not installed.missing(installed.folder(folder)):
            contenders[name] = (module, folder, {"DATABASE_URL": stack.postgres.url("loads", user="postgres")})
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    with closing(tempfile.NamedTemporaryFile(suffix=".jsonl")) as file:
        path = Path(file.name)
        path.write_bytes(b"[" + source("flights").rows(0, rows) + b"]")
        path.write_text("\n".join(json.dumps(row) for row in json.loads(path.read_bytes())))
        for _ in range(rounds):
            for name, (module, folder, environment) in contenders.items():
                figures[name].append(rows / _seconds(module, folder, environment, path))
    return figures


def _seconds(module: str, folder: str, environment: Mapping[str, str], rows: Path) -> float:
    command: list[str | Path] = [installed.PYTHON, "-m", f"tests.bench.loads.{module}", rows]
    paths = {"PYTHONPATH": installed.python_path(folder), "RUNTIME__DLTHUB_TELEMETRY": "false"}
    done = subprocess.run(
        command, env={**inherited(), **environment, **paths}, cwd=ROOT, check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{module} failed:\n{done.stderr[-2000:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def table(figures: Mapping[str, list[float]]) -> Table:
    made = Table(("load", "records a second"))
    for name, values in figures.items():
        made.add(name, f"{median(values):,.0f}")
    return made


def goals(figures: Mapping[str, list[float]]) -> list[Goal]:
    return [
        Goal(f"records a second beside {name}", paired_ratio(figures[OURS], values), at_least=1)
        for name, values in figures.items()
        if name != OURS
    ]
