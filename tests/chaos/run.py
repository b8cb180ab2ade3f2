"""Runs the attacks one after the other, each for its share of the time, and checks all invariants after each round."""

from __future__ import annotations

import random
import time
import traceback
from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol

from functions._local import postgrest
from tests.chaos import invariants
from tests.chaos.api import Api
from tests.chaos.crashes import Crashes
from tests.chaos.malformed import Malformed
from tests.chaos.races import Races
from tests.chaos.target import Target
from tests.chaos.tenants import Tenants

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.chaos.report import Report

# A longer run begins again with an empty database after this time, so that rows do not accumulate.
CYCLE_SECONDS: Final = 120


class Attack(Protocol):
    def round(self, chance: random.Random) -> None:
        """Makes all choices with `chance`."""

    def close(self) -> None: ...


ATTACKS: Mapping[str, Callable[[Target, Report], Attack]] = {
    "races": Races,
    "crashes": Crashes,
    "tenants": Tenants,
    "malformed": Malformed,
    "api": Api,
}


def run(report: Report, attacks: Sequence[str], seconds: float, seed: int, first: int = 0) -> None:
    """`seconds` is the time for all attacks. Each has at least one round, and its first has the number `first`."""
    end = time.monotonic() + seconds
    cycles = max(1, round(seconds / CYCLE_SECONDS))
    next_round = Counter(dict.fromkeys(attacks, first))
    if not postgrest.binary().exists():
        report.note(f"PostgREST was not tried: {postgrest.binary()} is not installed.")
    for cycle in range(cycles):
        with Target() as target:
            for nth, name in enumerate(attacks):
                left = (end - time.monotonic()) / ((cycles - cycle) * len(attacks) - nth)
                report.attack, report.round = name, next_round[name]
                attack_for(left, target, report, seed)
                next_round[name] = report.round + 1


def attack_for(seconds: float, target: Target, report: Report, seed: int) -> None:
    """Runs the attack that the report names, from its round on. Its own exceptions are reported as violations."""
    until, longest = time.monotonic() + seconds, 0.0
    try:
        attack = ATTACKS[report.attack](target, report)
        try:
            while True:
                begun = time.monotonic()
                attack.round(random.Random(f"{seed} {report.attack} {report.round}"))
                _check(target, report)
                longest = max(longest, time.monotonic() - begun)
                if time.monotonic() + longest > until:
                    return
                report.round += 1
        finally:
            attack.close()
    except Exception:
        report.violation(traceback.format_exc())


def _check(target: Target, report: Report) -> None:
    with target.admin() as admin:
        for violation in invariants.check(admin):
            report.violation(violation)
    report.count("checks of all invariants")
