"""Ends with 1 if an invariant was violated, and prints how to repeat it."""

from __future__ import annotations

import argparse
import logging
import random
import sys

from tests.chaos.report import Errors, Report
from tests.chaos.run import ATTACKS, run

SHOWN = 20


def main() -> None:
    parser = argparse.ArgumentParser(prog="make chaos")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", choices=[*ATTACKS], default=None)
    parser.add_argument("--round", type=int, default=0, help="the number of the first round")
    options = parser.parse_args()
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    print(f"SEED={seed}", flush=True)
    report = Report()
    logging.basicConfig(handlers=[Errors(report)])
    try:
        run(report, [options.only] if options.only else [*ATTACKS], options.seconds, seed, options.round)
    except KeyboardInterrupt:
        report.note("Interrupted.")
    print(report.table())
    print(*report.notes, sep="\n", end="\n" * bool(report.notes))
    for one in report.violations[:SHOWN]:
        print(f"\n{one.what}\n  make chaos ONLY={one.attack} SEED={seed} ROUND={one.round}")
    if report.violations:
        print(*report.errors, sep="\n", file=sys.stderr)
    sys.exit(bool(report.violations))


if __name__ == "__main__":
    main()
