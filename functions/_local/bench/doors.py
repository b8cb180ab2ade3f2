"""Successful cancels over HTTP: how long each takes, how many a second, and who pays for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from functions._local.bench import load
from functions._local.bench.figures import Goal, Table, median, milliseconds, percentile
from functions._local.bench.processes import cpu_seconds, memory_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from functions._local.bench.house import Contender, House

CLIENTS = 16


@dataclass
class Measured:
    """Of one contender, a value per round: seconds, or calls a second."""

    alone: list[float] = field(default_factory=list)
    alone_p99: list[float] = field(default_factory=list)
    crowded: list[float] = field(default_factory=list)
    crowded_p99: list[float] = field(default_factory=list)
    throughput: list[float] = field(default_factory=list)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    memory: int = 0


def measure(house: House, contender: Contender, calls: tuple[int, int], measured: Measured) -> None:
    """One round: so many calls by one client, then so many by CLIENTS."""
    alone = load.run(contender.port, 1, contender.requests(house.queue(calls[0])))
    measured.alone.append(median(alone.answers))
    measured.alone_p99.append(percentile(alone.answers, 0.99))

    requests = contender.requests(house.queue(calls[1]))
    before = _spent(house, contender)
    crowded = load.run(contender.port, CLIENTS, requests)
    after = _spent(house, contender)
    measured.crowded.append(median(crowded.answers))
    measured.crowded_p99.append(percentile(crowded.answers, 0.99))
    measured.throughput.append(len(requests) / crowded.seconds)
    for name, seconds in {**after, "load": crowded.own_cpu_seconds}.items():
        measured.cpu.setdefault(name, []).append((seconds - before.get(name, 0)) / len(requests))
    measured.memory = memory_bytes(contender.pid)


def _spent(house: House, contender: Contender) -> dict[str, float]:
    """Seconds of processor so far: the contender's own, and everybody's behind it."""
    processes = {
        "own": contender.pid,
        "gateway": house.gateway.pid or 0,
        "auth": house.auth.pid or 0,
        "postgrest": house.postgrest.pid,
        "postgres": house.postgres.pid,
    }
    return {name: cpu_seconds(pid) for name, pid in processes.items()}


def run(house: House, contenders: Sequence[Contender], rounds: int, calls: tuple[int, int]) -> dict[str, Measured]:
    """By contender. The first round of each warms up and does not count."""
    measured = {one.name: Measured() for one in contenders}
    for one in contenders:
        measure(house, one, (20, 5 * CLIENTS), Measured())
    for number in range(rounds):
        # Nobody always comes after the same one.
        turn = number % len(contenders)
        for one in [*contenders[turn:], *contenders[:turn]]:
            measure(house, one, calls, measured[one.name])
    return measured


def table(measured: Mapping[str, Measured]) -> Table:
    made = Table(
        ("cancel", "p50 ms", "p99 ms", f"p50 at {CLIENTS}", f"p99 at {CLIENTS}", "calls/s", "CPU ms/call", "MB")
    )
    for name, one in measured.items():
        made.add(
            name,
            milliseconds(median(one.alone)),
            milliseconds(median(one.alone_p99)),
            milliseconds(median(one.crowded)),
            milliseconds(median(one.crowded_p99)),
            f"{median(one.throughput):.0f}",
            milliseconds(median(one.cpu["own"])),
            f"{one.memory / 1e6:.0f}",
        )
    return made


def shares(measured: Mapping[str, Measured]) -> Table:
    """Who used the processor while CLIENTS cancelled, as milliseconds per call."""
    names = ("own", "gateway", "auth", "postgrest", "postgres", "load")
    made = Table(("CPU ms per call", *names))
    for label, one in measured.items():
        made.add(label, *(f"{1000 * median(one.cpu[name]):.2f}" for name in names))
    return made


def ratio(measured: Mapping[str, Measured], figure: str, one: str, other: str) -> float:
    """Of the medians."""
    return median(getattr(measured[one], figure)) / median(getattr(measured[other], figure))


def goals(measured: Mapping[str, Measured]) -> list[Goal]:
    found = []
    if EDGE in measured:
        for ours in (OURS, OURS_HS256):
            found += [
                Goal(f"{ours}: p50 beside {EDGE}", ratio(measured, "alone", ours, EDGE), at_most=0.4),
                Goal(f"{ours}: calls/s beside {EDGE}", ratio(measured, "throughput", ours, EDGE), at_least=2),
            ]
    found.append(Goal(f"{DIRECT}: p50 beside {FLOOR}", ratio(measured, "alone", DIRECT, FLOOR), at_most=1))
    return found


OURS, OURS_HS256, DIRECT = "ours, PostgREST, ES256", "ours, PostgREST, HS256", "ours, direct"
EDGE, PLAIN, FLOOR = "edge function, Deno", "supabase-py", "PostgREST alone"
