"""`make bench`: beside what one would otherwise write or use, on one machine, in one run."""

from __future__ import annotations

import os
from contextlib import closing

from functions._local.bench import doors, installed
from functions._local.bench.figures import goals_table
from functions._local.bench.house import SETTINGS, House, prepare
from functions._local.postgres import Postgres


def _doors() -> None:
    rounds, calls = int(os.environ.get("ROUNDS", "6")), int(os.environ.get("CALLS", "100"))
    with Postgres(settings=SETTINGS) as postgres:
        prepare(postgres)
        with closing(House(postgres, "bench")) as house:
            contenders = [
                house.ours(doors.OURS),
                house.ours(doors.OURS_HS256, "HS256"),
                house.ours(doors.DIRECT, door="postgres"),
                house.floor(doors.FLOOR),
            ]
            if not installed.missing(installed.DENO):
                contenders.append(house.edge(doors.EDGE))
            if not installed.missing(installed.folder("plain")):
                contenders.append(house.plain(doors.PLAIN))
            measured = doors.run(house, contenders, rounds, (calls, 3 * calls))
    for table in (doors.table(measured), doors.shares(measured), goals_table(doors.goals(measured))):
        print(table, end="\n\n", flush=True)


if __name__ == "__main__":
    _doors()
