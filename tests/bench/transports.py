"""Successful cancels over HTTP: latency, throughput, and the processor time of each process."""

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
    """One contender, per round: seconds of each response with one client and with CLIENTS, calls a second with CLIENTS,
    and the processor time of each process per call.
    """

    alone: list[list[float]] = field(default_factory=list)
    crowded: list[list[float]] = field(default_factory=list)
    throughput: list[float] = field(default_factory=list)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    memory: int = 0

    def medians(self, clients: int) -> list[float]:
        return [median(responses) for responses in (self.alone if clients == 1 else self.crowded)]

    def p99s(self, clients: int) -> list[float]:
        return [percentile(responses, 0.99) for responses in (self.alone if clients == 1 else self.crowded)]


def contenders(stack: BenchStack) -> list[Contender]:
    """Starts all contenders whose programs are installed."""
    made = [
        stack.ours(OURS),
        stack.ours(OURS_HS256, "HS256"),
        stack.ours(DIRECT, transport="postgres"),
        stack.floor(FLOOR),
    ]
    if not installed.missing(installed.DENO):
        made.append(stack.edge(EDGE))
    if not installed.missing(installed.folder("plain")):
        made.append(stack.plain(PLAIN))
    return made


def run(stacks: Sequence[BenchStack], rounds: int, calls: int) -> list[dict[str, Measured]]:
    """For each stack, by contender. The first round of each is a warm-up and does not count."""
    # The same contender in every stack, one after the other, because those are compared.
    pairs = [
        pair for row in zip(*([(at, one) for one in contenders(at)] for at in stacks), strict=True) for pair in row
    ]
    measured = {(stack.name, one.name): Measured() for stack, one in pairs}
    for stack, one in pairs:
        _measure(stack, one, min(calls, 5 * CLIENTS), Measured())
    for number in range(rounds):
        # The order alternates, so that nobody always runs after the same one.
        for stack, one in pairs if number % 2 == 0 else reversed(pairs):
            _measure(stack, one, calls, measured[stack.name, one.name])
    return [{name: one for (at, name), one in measured.items() if at == stack.name} for stack in stacks]


def _measure(stack: BenchStack, contender: Contender, calls: int, measured: Measured) -> None:
    """One round. Raises RuntimeError with the log of a contender that did not return 200."""
    try:
        _measure_both(stack, contender, calls, measured)
    except RuntimeError as failure:
        raise RuntimeError(f"{contender.name}: {failure}\n{log_of(contender.pid)[-2000:]}") from None


def _measure_both(stack: BenchStack, contender: Contender, calls: int, measured: Measured) -> None:
    """`calls` calls by one client, then twice as many by CLIENTS.

    Before that, one call by each, which is not counted: connections close between rounds, and with so few calls the p99
    would show nothing but their reopening.
    """
    load.run(contender.port, CLIENTS, contender.requests(stack.queue(CLIENTS)))
    alone = load.run(contender.port, 1, contender.requests(stack.queue(calls)))
    measured.alone.append(alone.responses)

    requests = contender.requests(stack.queue(2 * calls))
    before = _spent(stack, contender)
    crowded = load.run(contender.port, CLIENTS, requests)
    after = _spent(stack, contender)
    measured.crowded.append(crowded.responses)
    measured.throughput.append(len(requests) / crowded.seconds)
    for name, seconds in {**after, "load": crowded.own_cpu_seconds}.items():
        measured.cpu.setdefault(name, []).append((seconds - before.get(name, 0)) / len(requests))
    measured.memory = memory_bytes(contender.pid)


def _spent(stack: BenchStack, contender: Contender) -> dict[str, float]:
    """Seconds of processor time so far, of the contender and of each process behind it."""
    processes = {
        "own": contender.pid,
        "gateway": stack.gateway.pid,
        "auth": stack.auth.pid or 0,
        "postgrest": stack.postgrest.pid,
        "postgres": stack.postgres.pid,
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
    """Processor time in milliseconds per call, with CLIENTS clients, and the shares of Auth and of the load."""
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
        for ours, bound in ((OURS, 0.5), (OURS_HS256, 0.55)):
            latency = paired_ratio(measured[ours].medians(1), edge.medians(1))
            throughput = paired_ratio(measured[ours].throughput, edge.throughput)
            found += [
                Goal(f"{ours}: p50 beside the edge function's", latency, at_most=bound),
                Goal(f"{ours}: calls/s beside the edge function's", throughput, at_least=1.8),
            ]
    latency = paired_ratio(measured[DIRECT].medians(1), measured[FLOOR].medians(1))
    return [*found, Goal(f"{DIRECT}: p50 beside PostgREST's own", latency, at_most=0.7)]


def goals_with_past(fresh: Mapping[str, Measured], old: Mapping[str, Measured]) -> list[Goal]:
    """Each transport with finished executions in the table, beside the empty table. The worst figure is named."""
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
