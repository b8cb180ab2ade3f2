"""`make bench`: beside what one would otherwise write or use, on one machine, in one run.

ONLY names parts (doors, cold, engine, records, stop), separated by commas. BENCH_HISTORY is how many finished
executions the second database holds; BENCH_SCALE below 1 asks for fewer rounds and calls, to try things out.
With BENCH_README=1 a whole run writes what it prints into README.md.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import ExitStack, closing
from functools import partial

from functions._build.readme import README
from functions._local import postgrest
from functions._local.postgres import Postgres
from tests.bench import cold, engine, history, installed, records, stop, transports, versions
from tests.bench.figures import Goal, Table, goals_table
from tests.bench.stack import SETTINGS, BenchStack, prepare

PARTS = ("transports", "cold", "engine", "records", "stop")
_FIGURES = re.compile(r"(?<=<!-- figures: make bench -->\n).*?(?=<!-- end of figures -->)", re.DOTALL)


class Bench:
    """What the parts share: a server, and a house where one is needed."""

    def __init__(self, exit_stack: ExitStack) -> None:
        self._exit = exit_stack
        self.scale = float(os.environ.get("BENCH_SCALE", "1"))
        self.history = int(os.environ.get("BENCH_HISTORY", "3000000"))
        self.postgres = exit_stack.enter_context(Postgres(settings=SETTINGS))
        prepare(self.postgres)
        self._houses: dict[int, BenchStack] = {}
        self.goals: list[Goal] = []
        self.printed: list[str] = []

    def scaled(self, number: int) -> int:
        return max(round(number * self.scale), 1)

    def house(self, past: int = 0) -> BenchStack:
        """With so many finished executions in it."""
        if past not in self._houses:
            fill = partial(history.fill, total=past) if past else None
            made = BenchStack(self.postgres, f"house_{past}", fill)
            self._houses[past] = self._exit.enter_context(closing(made))
        return self._houses[past]

    def print(self, *chunks: Table | str) -> None:
        for piece in chunks:
            self.printed.append(f"{piece}\n")
            print(piece, end="\n\n", flush=True)

    # The parts

    def transports(self) -> None:
        houses = [self.house(), self.house(self.history)]
        fresh, old = transports.run(houses, self.scaled(8), self.scaled(150))
        self.print(
            transports.table(fresh, "a cancel"),
            transports.table(old, f"with {self.history:,} finished executions"),
            transports.shares(fresh),
        )
        self.goals += transports.goals(fresh) + transports.goals_with_past(fresh, old)

    def cold(self) -> None:
        seconds = cold.run(self.house(), self.scaled(12))
        self.print(cold.table(seconds))
        self.goals += cold.goals(seconds)

    def engine(self) -> None:
        figures = engine.run(self.house(), self.house(self.history), self.scaled(4), self.scale)
        self.print(engine.table(figures))
        self.goals += engine.goals(figures)

    def records(self) -> None:
        figures = records.run(self.house(), self.scaled(3), self.scaled(records.ROWS))
        self.print(records.table(figures))
        self.goals += records.goals(figures)

    def stop(self) -> None:
        taken = stop.run(self.house(), self.scaled(1000), self.scaled(40))
        self.print(stop.table(taken))
        self.goals += stop.goals(taken)


def main() -> None:
    wanted = os.environ.get("ONLY", "").split(",") if os.environ.get("ONLY") else [*PARTS]
    if unknown := set(wanted) - set(PARTS):
        sys.exit(f"ONLY is one of {', '.join(PARTS)}; not {', '.join(sorted(unknown))}.")
    if installed.missing(postgrest.binary()):
        sys.exit(f"There is no {postgrest.binary()}. Install it: npm ci --prefix tests")
    with ExitStack() as exit_stack:
        bench = Bench(exit_stack)
        bench.print(versions.sentence(bench.house().admin))
        for part in wanted:
            getattr(bench, part)()
        bench.print(goals_table(bench.goals))
        if os.environ.get("BENCH_README") == "1" and set(wanted) == set(PARTS):
            README.write_text(_FIGURES.sub(lambda _: "\n".join(bench.printed), README.read_text()))


if __name__ == "__main__":
    main()
