"""Runs the attacks one after the other, each for its share of the time, round by round; after each round everything
that is promised is checked. Ends with 1 if anything broke, and says how to see it again.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from typing import TYPE_CHECKING, Protocol

from functions._local.torture import invariants
from functions._local.torture.api import Api
from functions._local.torture.crashes import Crashes
from functions._local.torture.door import Door
from functions._local.torture.races import Races
from functions._local.torture.report import Errors, Report
from functions._local.torture.target import Target
from functions._local.torture.tenants import Tenants

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Attack(Protocol):
    def round(self, chance: random.Random) -> None:
        """Its choices are `chance`'s alone."""

    def close(self) -> None: ...


ATTACKS: Mapping[str, Callable[[Target, Report], Attack]] = {
    "races": Races,
    "crashes": Crashes,
    "tenants": Tenants,
    "door": Door,
    "api": Api,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="make torture")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", choices=[*ATTACKS, ""], default="")
    parser.add_argument("--round", type=int, default=0, help="begin with this one")
    options = parser.parse_args()
    seed = random.randrange(1 << 32) if options.seed is None else options.seed  # noqa: S311
    print(f"SEED={seed}", flush=True)
    report = Report()
    logging.basicConfig(handlers=[Errors(report)])
    run(report, [options.only] if options.only else [*ATTACKS], options.seconds, seed, options.round)
    print(report.table())
    for note in report.notes:
        print(note)
    for one in report.violations:
        print(f"{one.what}\n  make torture ONLY={one.attack} SEED={seed} ROUND={one.round}")
    if report.violations:
        print(*report.errors, sep="\n", file=sys.stderr)
    sys.exit(bool(report.violations))


def run(report: Report, attacks: list[str], seconds: float, seed: int, first: int) -> None:
    """`seconds` are for all of it; each attack has one round at least, `first` is its number."""
    end = time.monotonic() + seconds
    with Target() as target:
        for nth, name in enumerate(attacks):
            report.attack, report.round = name, first
            now = time.monotonic()
            _attack(target, report, seed, now + (end - now) / (len(attacks) - nth))


def _attack(target: Target, report: Report, seed: int, until: float) -> None:
    attack = ATTACKS[report.attack](target, report)
    longest = 0.0
    try:
        while True:
            begun = time.monotonic()
            attack.round(random.Random(f"{seed} {report.attack} {report.round}"))  # noqa: S311
            _check(target, report)
            longest = max(longest, time.monotonic() - begun)
            if time.monotonic() + longest > until:
                return
            report.round += 1
    finally:
        attack.close()


def _check(target: Target, report: Report) -> None:
    with target.admin() as admin:
        for violation in invariants.check(admin):
            report.violation(violation)
    report.count("checks of all invariants")


if __name__ == "__main__":
    main()
