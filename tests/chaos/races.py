"""Races on one execution: a cancel, a completion, a worker whose lease was lost (the zombie), and others.

Each execution has been claimed twice. The second worker holds lease token 3, and the zombie still uses 1.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.chaos.worker import SERVICE, UNKNOWN, ChaosWorker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random

    import psycopg

    from tests.chaos.report import Report
    from tests.chaos.target import Target

FAMILIES: Final = ("historical_sync", "sync_job_run", "bulk_sync", "model_sync")
TWO_STEPS: Final = ("bulk_sync", "model_sync")
QUEUES: Final = 6
RACES: Final = 200  # in a round
LATE: Final = 50  # executions of the round before, which get late calls
JITTER_SECONDS: Final = 0.003
BATCH: Final = 2  # records
LEASE, DEAD_LEASE = 3, 1

ALWAYS: Final = ("cancel", "finish", "zombie")
OTHERS: Final = (
    "commit", "commit again", "fail", "release", "heartbeat", "cancel again", "zombie finish", "reap",
    "finish together", "zombie finish together", "finish and claim", "zombie finish and claim",
)  # fmt: skip
CALLS: Final = (*ALWAYS, *OTHERS, "late")
ENDS: Final = ("completed", "failed", "cancelled")

_INSERT = """
insert into app.executions (agency_id, family, connection_id)
select %s, family, %s from unnest(%s::text[]) with ordinality as f (family, nth) order by nth returning id::text
"""
_CLAIMED_TWICE = ("'running', event = 'claim'", "'queued', event = 'release'", "'running', event = 'claim'")
_LATE = """
select id::text from app.executions
where status in ('running', 'cancelling') and least(lease_expires_at, cancel_deadline) < now()
"""
# Together with another lease, and with a claim that finds nothing. Executions that are locked or whose lease was lost
# are skipped.
_LEASES = "jsonb_build_object(%(id)s::text, %(lease_token)s::bigint, gen_random_uuid()::text, 1)"
_TOGETHER = {
    "together": f"public.worker_complete_all({_LEASES})",
    "and claim": f"public.worker_complete_and_claim({_LEASES}, 'chaos', '[\"none\"]') -> 'completed'",
}
# Ends the other executions, because no worker claims them and only ended executions are purged.
_TIDY = (
    "select app.cancel_execution(family, id, null) from app.executions where agency_id = %s and finished_at is null",
    "select public.worker_release(id, lease_token) from app.executions where agency_id = %s and status = 'cancelling'",
)


@dataclass
class Race:
    """`calls`: names and delays. `responses`: by name. `cut`: the call whose backend is terminated."""

    id: str
    family: str
    calls: Sequence[tuple[str, float]]
    cut: str | None
    responses: dict[str, str] = field(default_factory=dict)


class Races:
    def __init__(self, target: Target, report: Report) -> None:
        self._target = target
        self._report = report
        self._agency = target.agency()
        self._person = target.person(self._agency)
        self._connection = target.connection(self._agency)
        self._runner = asyncio.Runner()
        self._worker_sets = [
            {
                name: ChaosWorker(target.url, self._person.claims if name.startswith("cancel") else SERVICE)
                for name in CALLS
            }
            for _ in range(QUEUES)
        ]
        self._ended: list[Race] = []

    def round(self, chance: Random) -> None:
        with self._target.admin() as admin:
            races = self._set_up(admin, chance)
            self._runner.run(self._run(chance.sample(self._ended, min(LATE, len(self._ended))), races))
            self._ended = races
            rows = admin.execute("select * from app.executions where id = any(%s)", ([race.id for race in races],))
            found = {str(row["id"]): row for row in rows}
            stored = self._stored(admin)
            for race in races:
                self._check(race, found[race.id], stored.get(race.id, 0))
            with admin.transaction():
                admin.execute("set local role service_role")
                admin.execute("select public.worker_reap(1000)")
                for statement in _TIDY:
                    admin.execute(statement, (self._agency,))
            late = admin.execute(_LATE).fetchall()  # no row is locked any more, so one reap must take all
            self._report.expect(not late, f"the reaper missed expired leases: {late}")

    def close(self) -> None:
        async def leave() -> None:
            for worker in (worker for workers in self._worker_sets for worker in workers.values()):
                await worker.leave()

        self._runner.run(leave())
        self._runner.close()

    def _set_up(self, admin: psycopg.Connection[dict[str, Any]], chance: Random) -> list[Race]:
        families = [chance.choice(FAMILIES) for _ in range(RACES)]
        with admin.transaction():
            admin.execute("set local role postgres")
            rows = admin.execute(_INSERT, (self._agency, self._connection, families)).fetchall()
            ids = [str(row["id"]) for row in rows]
            admin.execute("set local role service_role")
            for transition in _CLAIMED_TWICE:
                admin.execute(
                    f"update app.executions set status = {transition}, leased_by = 'w', lease_seconds = 3600"
                    " where id = any(%s)",
                    (ids,),
                )
            races = [_race(job_id, family, chance) for job_id, family in zip(ids, families, strict=True)]
            late = [race.id for race in races if "reap" in dict(race.calls)]
            admin.execute("update app.executions set lease_expires_at = '2001-01-01' where id = any(%s)", (late,))
        return races

    def _stored(self, admin: psycopg.Connection[dict[str, Any]]) -> Mapping[str, int]:
        rows = admin.execute(
            "select execution_id::text as id, count(*) as n from app.records where agency_id = %s group by 1",
            (self._agency,),
        )
        return {row["id"]: row["n"] for row in rows}

    async def _run(self, ended: Sequence[Race], races: Sequence[Race]) -> None:
        left, late = list(reversed(races)), list(ended)
        await asyncio.gather(*[self._race_all(workers, left, late) for workers in self._worker_sets])

    async def _race_all(self, workers: Mapping[str, ChaosWorker], left: list[Race], late: list[Race]) -> None:
        for worker in workers.values():
            await worker.join()
        while left:
            race = left.pop()
            calls = [_call(workers[name], name, race, seconds) for name, seconds in race.calls]
            if race.cut:
                calls.append(self._cut(workers[race.cut]))
            if late:
                calls.append(self._call_late(workers["late"], late.pop()))
            await asyncio.gather(*calls)

    async def _call_late(self, worker: ChaosWorker, race: Race) -> None:
        """No lease token of an earlier round is accepted, for any outcome of its race."""
        for lease_token in (DEAD_LEASE, LEASE):
            mine: dict[str, Any] = {"execution_id": race.id, "lease_token": lease_token}
            responses = [await worker.call("worker_heartbeat", **mine), await worker.call("worker_complete", **mine)]
            responses += [
                await worker.call("worker_release", **mine),
                await worker.call("worker_commit_batch", **_batch(race, lease_token)),
            ]
            self._report.count("calls with lost leases, a round later", len(responses))
            self._report.expect({*responses} <= {"lost", UNKNOWN}, f"{race.id} had ended, and a worker got {responses}")

    async def _cut(self, worker: ChaosWorker) -> None:
        self._report.count("connections terminated in the middle")
        await asyncio.to_thread(self._terminate, worker.pid)

    def _terminate(self, pid: int | None) -> None:
        with self._target.admin() as admin:
            admin.execute("select pg_terminate_backend(%s)", (pid,))

    def _check(self, race: Race, row: Mapping[str, Any], stored: int) -> None:
        self._report.count("races of a cancel, a completion and a zombie")
        self._report.count("calls in these races", len(race.calls))
        responses = ", ".join(f"{name}: {response}" for name, response in race.responses.items())
        for what in violations(race.responses, row, stored):
            self._report.violation(f"{what} ({race.family} {row['status']} by {row['actor']}; {responses})")


def _race(job_id: str, family: str, chance: Random) -> Race:
    names = [*ALWAYS, *chance.sample(OTHERS, chance.randint(0, 3))]
    calls = [(name, chance.choice((0.0, chance.uniform(0, JITTER_SECONDS)))) for name in names]
    chance.shuffle(calls)
    return Race(job_id, family, calls, chance.choice(names) if chance.random() < 0.03 else None)


async def _call(worker: ChaosWorker, name: str, race: Race, seconds: float) -> None:
    await asyncio.sleep(seconds)
    mine: dict[str, Any] = {"execution_id": race.id, "lease_token": LEASE}
    match name:
        case "cancel" | "cancel again":
            response = await worker.query(
                "select (app.cancel_execution(%(family)s, %(id)s, %(reason)s)).status as result",
                {"family": race.family, "id": race.id, "reason": name},
            )
        case "finish" | "release" | "heartbeat":
            response = await worker.call(f"worker_{name.replace('finish', 'complete')}", **mine)
        case "fail":
            error = {"code": "gone", "message": "The source is gone."}
            response = await worker.call("worker_fail", **mine, error=error, retry=seconds == 0)
        case "zombie finish":
            response = await worker.call("worker_complete", execution_id=race.id, lease_token=DEAD_LEASE)
        case "finish together" | "zombie finish together" | "finish and claim" | "zombie finish and claim":
            completed = _TOGETHER[name.split("finish ")[1]]
            statement = f"select case when ({completed}) ? %(id)s::text then 'completed' else 'lost' end as result"
            response = await worker.query(
                statement, {"id": race.id, "lease_token": DEAD_LEASE if "zombie" in name else LEASE}
            )
        case "reap":
            response = await worker.call("worker_reap")
        case _:
            response = await worker.call(
                "worker_commit_batch", **_batch(race, DEAD_LEASE if name == "zombie" else LEASE)
            )
    race.responses[name] = response


def _batch(race: Race, lease_token: int) -> dict[str, Any]:
    records = [{"key": f"{race.id} {n}", "data": {"lease_token": lease_token}} for n in range(BATCH)]
    sent = {"execution_id": race.id, "lease_token": lease_token, "seq": 1, "resource": "flights", "records": records}
    return {**sent, "checkpoint": {"by": lease_token}, "progress": {}}


def violations(responses: Mapping[str, str], row: Mapping[str, Any], stored: int) -> list[str]:
    """The violations of a race. An unknown response proves nothing about what it would have been."""
    wrong = [f"a zombie got {response}" for name, response in responses.items() if not _is_fenced(name, response)]
    reported = [response for name, response in responses.items() if response in ENDS and _reports_end(name)]
    all_known = UNKNOWN not in responses.values()
    if len(reported) > 1:
        wrong.append("two calls report that they ended it")
    if reported and reported[0] != row["status"]:
        wrong.append("the row differs from its winner's response")
    if all_known and not reported and row["status"] in ENDS and row["actor"] != "reaper":
        wrong.append("it ended and no call reports it")
    commits = {responses[name] for name in ("commit", "commit again") if name in responses}
    has_stored = bool(commits & {"continue", "cancel"})
    if all_known and (stored, row["records"], row["seq"]) != ((BATCH, BATCH, 1) if has_stored else (0, 0, 0)):
        wrong.append(f"{stored} records are stored, {row['records']} counted, seq {row['seq']}")
    if stored not in (0, BATCH) or stored != row["records"]:
        wrong.append("a batch is stored partly or twice")
    return wrong


def _is_fenced(name: str, response: str) -> bool:
    return not name.startswith("zombie") or response in ("lost", UNKNOWN)


def _reports_end(name: str) -> bool:
    """Whether the response of this call names the status that the call itself has set."""
    return name in ("cancel", "cancel again", "finish", "finish together", "finish and claim", "fail", "release")
