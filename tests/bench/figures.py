"""Medians, percentiles, ratios, goals and tables."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not exceeded by this share (0 to 1) of the values."""
    ordered = sorted(values)
    return ordered[max(-(-len(ordered) * round(share * 1000) // 1000) - 1, 0)]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def paired_ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    """The median of the rounds' ratios, because a disturbed round affects both of its values."""
    return median([one / other for one, other in zip(ones, others, strict=True)])


@dataclass(frozen=True)
class Goal:
    """A ratio and the bound that it must not cross."""

    what: str
    ratio: float
    at_most: float | None = None
    at_least: float | None = None

    @property
    def is_met(self) -> bool:
        return (self.at_most is None or self.ratio <= self.at_most) and (
            self.at_least is None or self.ratio >= self.at_least
        )

    @property
    def row(self) -> tuple[str, str, str, str]:
        bound = f"≤ {self.at_most:g}" if self.at_most is not None else f"≥ {self.at_least:g}"
        return self.what, f"{self.ratio:.2f}", bound, "yes" if self.is_met else "no"


@dataclass
class Table:
    """Markdown, for the README."""

    header: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        self.rows.append(cells)

    def __str__(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"


def goals_table(goals: Sequence[Goal]) -> Table:
    return Table(("goal", "ratio", "bound", "met"), [goal.row for goal in goals])
