"""Counts the attempts of each attack, and lists the violated invariants."""

from __future__ import annotations

import logging
from collections import Counter, deque
from dataclasses import dataclass, field

from functions._shared import logs


@dataclass(frozen=True)
class Violation:
    """`attack` and `round` make the same choices again, together with the seed."""

    attack: str
    round: int
    what: str


@dataclass
class Report:
    """`attack` and `round`: what runs now."""

    attack: str = ""
    round: int = 0
    tried: Counter[tuple[str, str]] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errors: deque[str] = field(default_factory=lambda: deque(maxlen=5))  # the last few that the functions logged

    def count(self, what: str, times: int = 1) -> None:
        self.tried[self.attack, what] += times

    def violation(self, what: str) -> None:
        self.violations.append(Violation(self.attack, self.round, what))

    def expect(self, holds: object, what: str) -> None:
        if not holds:
            self.violation(what)

    def note(self, what: str) -> None:
        """Notes what could not be tried here, and why."""
        if what not in self.notes:
            self.notes.append(what)

    def table(self) -> str:
        title = "what was tried"
        order = list(dict.fromkeys(attack for attack, _ in self.tried))
        tried = sorted(self.tried.items(), key=lambda one: order.index(one[0][0]))
        rows = [(attack, what, f"{times:,}") for (attack, what), times in tried]
        width = max(len(what) for what in (title, *(what for _, what, _ in rows)))
        lines = [f"{'attack':9} {title:{width}} {'times':>9}"]
        last = ""
        for attack, what, times in rows:
            lines.append(f"{attack if attack != last else '':9} {what:{width}} {times:>9}")
            last = attack
        lines.append(f"{'':9} {'violations':{width}} {len(self.violations):>9,}")
        return "\n".join(lines)


class Errors(logging.Handler):
    def __init__(self, report: Report) -> None:
        super().__init__(logging.ERROR)
        self.setFormatter(logs.JsonFormatter())
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        self._report.errors.append(self.format(record))
