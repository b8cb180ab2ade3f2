"""Claim and complete: executions a second at several batch sizes, beside engines that do nothing else."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import psycopg

from functions._local.schema import ROOT
from tests.bench import installed
from tests.bench.figures import Goal, Table, median, paired_ratio
from tests.bench.processes import start, stop

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.bench.stack import BenchStack

JOBS = {1: 300, 10: 1000, 50: 2000}  # by batch size: about a second each
OURS, OURS_PAST = "ours", "ours, with a past"
ENGINES = Path("tests/bench/engines")

Figures = dict[str, dict[int, list[float]]]  # by engine and batch size, executions a second


@dataclass(frozen=True)
class Engine:
    """`python` names the folder of its packages; without it, Node runs it. `batches`: the sizes that it supports."""

    name: str
    file: str
    python: str | None = None
    batches: tuple[int, ...] = tuple(JOBS)

    @property
    def is_installed(self) -> bool:
        if self.python:
            return not installed.missing(installed.folder(self.python))
        return not installed.missing(installed.NODE, installed.ENGINES_NPM / self.name)

    @property
    def command(self) -> list[str | Path]:
        if self.python:
            return [installed.PYTHON, "-m", ".".join((ENGINES / self.file).with_suffix("").parts)]
        return [installed.NODE, ENGINES / self.file]


PEERS = (
    Engine("procrastinate", "procrastinate_.py", "procrastinate", (1,)),
    Engine("pgqueuer", "pgqueuer_.py", "pgqueuer"),
    Engine("graphile-worker", "graphile-worker.js"),
    Engine("pg-boss", "pg-boss.js"),
)


class _Running:
    """An engine's process."""

    def __init__(self, engine: Engine, environment: Mapping[str, str]) -> None:
        self._engine = engine
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        paths = {"PYTHONPATH": installed.python_path(engine.python)} if engine.python else {}
        self._process = start(engine.command, {**environment, **paths}, self._log.fileno(), ROOT, piped=True)

    def per_second(self, batch: int, jobs: int) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"batch": batch, "jobs": jobs}).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise RuntimeError(f"{self._engine.name} failed:\n{self._log.read().decode(errors='replace')[-2000:]}")
        return float(jobs / json.loads(line)["seconds"])

    def close(self) -> None:
        stop(self._process)
        self._process.communicate()
        self._log.close()


def run(stack: BenchStack, old: BenchStack, rounds: int, scale: float) -> Figures:
    """The first round is a warm-up and does not count."""
    with ExitStack() as exit_stack:
        running: dict[Engine, _Running] = {}
        for engine, environment in _contenders(stack, old):
            running[engine] = _Running(engine, environment)
            exit_stack.callback(running[engine].close)
        figures: Figures = {engine.name: {} for engine in running}
        for number in range(rounds + 1):
            for batch, jobs in JOBS.items():
                share = min(scale, 1.0) if number else 0.1
                for engine, process in running.items():
                    if batch in engine.batches:
                        measured = process.per_second(batch, max(round(jobs * share), batch))
                        figures[engine.name].setdefault(batch, []).extend([measured] if number else [])
        return figures


def _contenders(stack: BenchStack, old: BenchStack) -> list[tuple[Engine, dict[str, str]]]:
    found = []
    for name, at in ((OURS, stack), (OURS_PAST, old)):
        found.append(
            (Engine(name, "ours.py", "worker"), {"DATABASE_URL": at.url("authenticator"), "OWNER_URL": at.url()})
        )
    for engine in PEERS:
        if engine.is_installed:
            database = "engine_" + engine.name.replace("-", "_")
            with psycopg.connect(stack.postgres.url(), autocommit=True) as admin:
                admin.execute(f"create database {database} owner postgres".encode())
            found.append((engine, {"DATABASE_URL": stack.postgres.url(database, user="postgres")}))
    return found


def table(figures: Figures) -> Table:
    made = Table(("claim + finish a second", *(f"batch {batch}" for batch in JOBS)))
    for name, by_batch in figures.items():
        made.add(name, *(f"{median(by_batch[batch]):,.0f}" if batch in by_batch else "n/a" for batch in JOBS))
    return made


def goals(figures: Figures) -> list[Goal]:
    found = []
    ours = figures[OURS]
    for batch in JOBS:
        peers = {name: by for name, by in figures.items() if name not in (OURS, OURS_PAST) and batch in by}
        if peers:
            best = max(peers, key=lambda name: median(peers[name][batch]))
            ratio = paired_ratio(ours[batch], peers[best][batch])
            found.append(Goal(f"claim + finish, batch {batch}, beside the fastest ({best})", ratio, at_least=1))
    slowest = max(paired_ratio(ours[batch], figures[OURS_PAST][batch]) for batch in JOBS)
    return [*found, Goal("claim + finish: with a past, the worst batch size", slowest, at_most=1.1)]
