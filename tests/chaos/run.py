"""The attacks one after the other, each for its share of the time, round by round; after each round everything that is
promised is checked.
"""

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
from tests.chaos.malformed import Door
from tests.chaos.races import Races
from tests.chaos.target import Target
from tests.chaos.tenants import Tenants

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.chaos.report import Report

# A longer run begins again on an empty database every so often: nothing piles up.
CYCLE_SECONDS: Final = 120


class Attack(Protocol):
    def round(self, chance: random.Random) -> None:
        """Its choices are `chance`'s alone."""

    def close(self) -> None: ...


ATTACKS: Mapping[str, Callable[[Target, Report], Attack]] = {
    "races": Races,
    "crashes": Crashes,
    "tenants": Tenants,
    "transport": Door,
    "api": Api,
}


def run(report: Report, attacks: Sequence[str], seconds: float, seed: int, first: int = 0) -> None:
    """`seconds` are for all of it; each attack has one round at least, whose number is `first`."""
    end = time.monotonic() + seconds
    cycles = max(1, round(seconds / CYCLE_SECONDS))
    next_round = Counter(dict.fromkeys(attacks, first))
    if not postgrest.binary().exists():
        report.note(f"The deployed door was not tried: there is no PostgREST at {postgrest.binary()}.")
    for cycle in range(cycles):
        with Target() as target:
            for nth, name in enumerate(attacks):
                left = (end - time.monotonic()) / ((cycles - cycle) * len(attacks) - nth)
                report.attack, report.round = name, next_round[name]
                attack_for(left, target, report, seed)
                next_round[name] = report.round + 1


def attack_for(seconds: float, target: Target, report: Report, seed: int) -> None:
    """With the attack that the report names, from its round on. What goes wrong with the attack itself is told too."""
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
