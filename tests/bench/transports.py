"""Successful cancels over HTTP: how long each takes, how many a second, and who pays for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.bench import installed, load
from tests.bench.figures import Goal, Table, median, milliseconds, paired_ratio, percentile
from tests.bench.processes import cpu_seconds, log_of, memory_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.bench.stack import BenchStack, Contender

CLIENTS = 16
OURS, OURS_HS256, DIRECT = "ours, PostgREST, ES256", "ours, PostgREST, HS256", "ours, direct"
EDGE, PLAIN, FLOOR = "edge function, Deno", "supabase-py", "PostgREST alone"


@dataclass
class Measured:
    """Of one contender, per round: seconds of each answer, to one client and to CLIENTS; calls a second of those; and
    the seconds of processor that each of them cost everybody.
    """

    alone: list[list[float]] = field(default_factory=list)
    crowded: list[list[float]] = field(default_factory=list)
    throughput: list[float] = field(default_factory=list)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    memory: int = 0

    def medians(self, clients: int) -> list[float]:
        return [median(answers) for answers in (self.alone if clients == 1 else self.crowded)]

    def p99s(self, clients: int) -> list[float]:
        return [percentile(answers, 0.99) for answers in (self.alone if clients == 1 else self.crowded)]


def contenders(house: BenchStack) -> list[Contender]:
    """Everybody whose programs are installed, started."""
    made = [
        house.ours(OURS),
        house.ours(OURS_HS256, "HS256"),
        house.ours(DIRECT, transport="postgres"),
        house.floor(FLOOR),
    ]
    if not installed.missing(installed.DENO):
        made.append(house.edge(EDGE))
    if not installed.missing(installed.folder("plain")):
        made.append(house.plain(PLAIN))
    return made


def run(houses: Sequence[BenchStack], rounds: int, calls: int) -> list[dict[str, Measured]]:
    """For each house, by contender. The first round of each warms up and does not count."""
    # Next to each other what is compared with each other: the same contender in every house.
    pairs = [
        pair for row in zip(*([(at, one) for one in contenders(at)] for at in houses), strict=True) for pair in row
    ]
    measured = {(house.name, one.name): Measured() for house, one in pairs}
    for house, one in pairs:
        _measure(house, one, min(calls, 5 * CLIENTS), Measured())
    for number in range(rounds):
        # And nobody always comes after the same one.
        for house, one in pairs if number % 2 == 0 else reversed(pairs):
            _measure(house, one, calls, measured[house.name, one.name])
    return [{name: one for (at, name), one in measured.items() if at == house.name} for house in houses]


def _measure(house: BenchStack, contender: Contender, calls: int, measured: Measured) -> None:
    """One round. Raises RuntimeError with the log of who did not answer 200."""
    try:
        _measure_both(house, contender, calls, measured)
    except RuntimeError as failure:
        raise RuntimeError(f"{contender.name}: {failure}\n{log_of(contender.pid)[-2000:]}") from None


def _measure_both(house: BenchStack, contender: Contender, calls: int, measured: Measured) -> None:
    """So many calls by one client, then twice as many by CLIENTS.

    Before that a call by each, which is not counted: between rounds connections close, and to make them anew would be
    all that a p99 of so few calls tells.
    """
    load.run(contender.port, CLIENTS, contender.requests(house.queue(CLIENTS)))
    alone = load.run(contender.port, 1, contender.requests(house.queue(calls)))
    measured.alone.append(alone.answers)

    requests = contender.requests(house.queue(2 * calls))
    before = _spent(house, contender)
    crowded = load.run(contender.port, CLIENTS, requests)
    after = _spent(house, contender)
    measured.crowded.append(crowded.answers)
    measured.throughput.append(len(requests) / crowded.seconds)
    for name, seconds in {**after, "load": crowded.own_cpu_seconds}.items():
        measured.cpu.setdefault(name, []).append((seconds - before.get(name, 0)) / len(requests))
    measured.memory = memory_bytes(contender.pid)


def _spent(house: BenchStack, contender: Contender) -> dict[str, float]:
    """Seconds of processor so far: the contender's own, and everybody's behind it."""
    processes = {
        "own": contender.pid,
        "gateway": house.gateway.pid or 0,
        "auth": house.auth.pid or 0,
        "postgrest": house.postgrest.pid,
        "postgres": house.postgres.pid,
    }
    return {name: cpu_seconds(pid) for name, pid in processes.items()}


def table(measured: Mapping[str, Measured], what: str) -> Table:
    made = Table((what, "p50 ms", "p99 ms", f"p50 at {CLIENTS}", f"p99 at {CLIENTS}", "calls/s", "CPU ms/call", "MB"))
    for name, one in measured.items():
        made.add(
            name,
            milliseconds(median(one.medians(1))),
            milliseconds(median(one.p99s(1))),
            milliseconds(median(one.medians(CLIENTS))),
            milliseconds(median(one.p99s(CLIENTS))),
            f"{median(one.throughput):.0f}",
            milliseconds(median(one.cpu["own"])),
            f"{one.memory / 1e6:.0f}",
        )
    return made


def shares(measured: Mapping[str, Measured]) -> Table:
    """Who used the processor while CLIENTS cancelled, in milliseconds a call, and Auth's and the load's part of it."""
    names = ("own", "gateway", "auth", "postgrest", "postgres", "load")
    made = Table(("CPU ms per call", *names, "auth's share", "load's share"))
    for label, one in measured.items():
        spent = {name: median(one.cpu[name]) for name in names}
        if label == FLOOR:
            spent["own"] = 0  # which is PostgREST's
        total = sum(spent.values())
        cells = [f"{1000 * seconds:.2f}" for seconds in spent.values()]
        made.add(label, *cells, *(f"{spent[name] / total:.0%}" for name in ("auth", "load")))
    return made


def goals(measured: Mapping[str, Measured]) -> list[Goal]:
    found = []
    if EDGE in measured:
        edge = measured[EDGE]
        for ours in (OURS, OURS_HS256):
            latency = paired_ratio(measured[ours].medians(1), edge.medians(1))
            throughput = paired_ratio(measured[ours].throughput, edge.throughput)
            found += [
                Goal(f"{ours}: p50 beside the edge function's", latency, at_most=0.4),
                Goal(f"{ours}: calls/s beside the edge function's", throughput, at_least=2),
            ]
    latency = paired_ratio(measured[DIRECT].medians(1), measured[FLOOR].medians(1))
    return [*found, Goal(f"{DIRECT}: p50 beside PostgREST's own", latency, at_most=1)]


def goals_with_past(fresh: Mapping[str, Measured], old: Mapping[str, Measured]) -> list[Goal]:
    """Each door's figures with finished executions in the table beside those of the empty one; the worst is named."""
    found = []
    for name in (OURS, OURS_HS256, DIRECT):
        before, after = fresh[name], old[name]
        worse = {
            "p50": paired_ratio(after.medians(1), before.medians(1)),
            f"p50 at {CLIENTS}": paired_ratio(after.medians(CLIENTS), before.medians(CLIENTS)),
            "seconds a call": paired_ratio(before.throughput, after.throughput),
            "p99": paired_ratio(after.p99s(1), before.p99s(1)),
            f"p99 at {CLIENTS}": paired_ratio(after.p99s(CLIENTS), before.p99s(CLIENTS)),
        }
        worst = max(worse, key=lambda figure: worse[figure])
        found.append(Goal(f"{name}: with a past, the worst figure ({worst})", worse[worst], at_most=1.1))
    return found
