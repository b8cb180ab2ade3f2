"""Everybody at once on one execution: a cancel, a finish and a worker that is not quite dead, with others beside them.

Each execution has been claimed twice: the second worker holds lease 3, the first still believes in lease 1.
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
RACES: Final = 200  # a round
LATE: Final = 50  # of them are tried again in the next
JITTER_SECONDS: Final = 0.003
BATCH: Final = 2  # records
LEASE, DEAD_LEASE = 3, 1

ALWAYS: Final = ("cancel", "finish", "zombie")
OTHERS: Final = (
    "commit", "commit again", "fail", "release", "heartbeat", "cancel again", "zombie finish", "reap",
    "finish together", "zombie finish together", "finish and go on", "zombie finish and go on",
)  # fmt: skip
MOVES: Final = (*ALWAYS, *OTHERS, "late")
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
# With another's lease beside it, and with a claim that finds nothing. One that is locked is passed over, and so is one
# that the lease has lost.
_LEASES = "jsonb_build_object(%(id)s::text, %(lease)s::bigint, gen_random_uuid()::text, 1)"
_TOGETHER = {
    "together": f"public.worker_complete_all({_LEASES})",
    "and go on": f"public.worker_complete_and_claim({_LEASES}, 'torture', '[\"none\"]') -> 'completed'",
}
# Nobody is to claim what is left, and retention drops what has ended only.
_TIDY = (
    "select app.cancel_execution(family, id, null) from app.executions where agency_id = %s and finished_at is null",
    "select public.worker_release(id, lease_token) from app.executions where agency_id = %s and status = 'cancelling'",
)


@dataclass
class Race:
    """`moves` with how long each waits; `answers` as they come."""

    id: str
    family: str
    moves: Sequence[tuple[str, float]]
    cut: str | None  # whose backend is ended meanwhile
    answers: dict[str, str] = field(default_factory=dict)


class Races:
    def __init__(self, target: Target, report: Report) -> None:
        self._target = target
        self._report = report
        self._agency = target.agency()
        self._person = target.person(self._agency)
        self._connection = target.connection(self._agency)
        self._runner = asyncio.Runner()
        self._lanes = [
            {
                name: ChaosWorker(target.url, self._person.claims if name.startswith("cancel") else SERVICE)
                for name in MOVES
            }
            for _ in range(QUEUES)
        ]
        self._over: list[Race] = []

    def round(self, chance: Random) -> None:
        with self._target.admin() as admin:
            races = self._set_up(admin, chance)
            self._runner.run(self._run(chance.sample(self._over, min(LATE, len(self._over))), races))
            self._over = races
            rows = admin.execute("select * from app.executions where id = any(%s)", ([race.id for race in races],))
            found = {str(row["id"]): row for row in rows}
            stored = self._stored(admin)
            for race in races:
                self._judge(race, found[race.id], stored.get(race.id, 0))
            with admin.transaction():
                admin.execute("set local role service_role")
                admin.execute("select public.worker_reap(1000)")
                for statement in _TIDY:
                    admin.execute(statement, (self._agency,))
            late = admin.execute(_LATE).fetchall()  # now that nobody holds a row, each reap takes all that is late
            self._report.expect(not late, f"a lease is over and nobody took it back: {late}")

    def close(self) -> None:
        async def leave() -> None:
            for player in (player for players in self._lanes for player in players.values()):
                await player.leave()

        self._runner.run(leave())
        self._runner.close()

    def _set_up(self, admin: psycopg.Connection[dict[str, Any]], chance: Random) -> list[Race]:
        families = [chance.choice(FAMILIES) for _ in range(RACES)]
        with admin.transaction():
            admin.execute("set local role postgres")
            rows = admin.execute(_INSERT, (self._agency, self._connection, families)).fetchall()
            ids = [str(row["id"]) for row in rows]
            admin.execute("set local role service_role")
            for move in _CLAIMED_TWICE:
                admin.execute(
                    f"update app.executions set status = {move}, leased_by = 'w', lease_seconds = 3600"
                    " where id = any(%s)",
                    (ids,),
                )
            races = [_race(job_id, family, chance) for job_id, family in zip(ids, families, strict=True)]
            late = [race.id for race in races if "reap" in dict(race.moves)]
            admin.execute("update app.executions set lease_expires_at = '2001-01-01' where id = any(%s)", (late,))
        return races

    def _stored(self, admin: psycopg.Connection[dict[str, Any]]) -> Mapping[str, int]:
        rows = admin.execute(
            "select execution_id::text as id, count(*) as n from app.records where agency_id = %s group by 1",
            (self._agency,),
        )
        return {row["id"]: row["n"] for row in rows}

    async def _run(self, over: Sequence[Race], races: Sequence[Race]) -> None:
        left, late = list(reversed(races)), list(over)
        await asyncio.gather(*[self._lane(players, left, late) for players in self._lanes])

    async def _lane(self, players: Mapping[str, ChaosWorker], left: list[Race], late: list[Race]) -> None:
        for player in players.values():
            await player.join()
        while left:
            race = left.pop()
            moves = [_move(players[name], name, race, seconds) for name, seconds in race.moves]
            if race.cut:
                moves.append(self._cut(players[race.cut]))
            if late:
                moves.append(self._too_late(players["late"], late.pop()))
            await asyncio.gather(*moves)

    async def _too_late(self, player: ChaosWorker, race: Race) -> None:
        """Whatever became of it a round ago: no lease of that time is good for anything."""
        for lease_token in (DEAD_LEASE, LEASE):
            mine: dict[str, Any] = {"execution_id": race.id, "lease_token": lease_token}
            answers = [await player.call("worker_heartbeat", **mine), await player.call("worker_complete", **mine)]
            answers += [
                await player.call("worker_release", **mine),
                await player.call("worker_commit_batch", **_batch(race, lease_token)),
            ]
            self._report.count("calls of dead workers, a round later", len(answers))
            self._report.expect({*answers} <= {"lost", UNKNOWN}, f"{race.id} was over, and a worker told {answers}")

    async def _cut(self, player: ChaosWorker) -> None:
        self._report.count("connections ended in the middle of it")
        await asyncio.to_thread(self._terminate, player.pid)

    def _terminate(self, pid: int | None) -> None:
        with self._target.admin() as admin:
            admin.execute("select pg_terminate_backend(%s)", (pid,))

    def _judge(self, race: Race, row: Mapping[str, Any], stored: int) -> None:
        self._report.count("races of a cancel, a finish and a late zombie")
        self._report.count("calls in them", len(race.moves))
        said = ", ".join(f"{name}: {response}" for name, response in race.answers.items())
        for what in violations(race.answers, row, stored):
            self._report.violation(f"{what} ({race.family} {row['status']} by {row['actor']}; {said})")


def _race(job_id: str, family: str, chance: Random) -> Race:
    names = [*ALWAYS, *chance.sample(OTHERS, chance.randint(0, 3))]
    moves = [(name, chance.choice((0.0, chance.uniform(0, JITTER_SECONDS)))) for name in names]
    chance.shuffle(moves)
    return Race(job_id, family, moves, chance.choice(names) if chance.random() < 0.03 else None)


async def _move(player: ChaosWorker, name: str, race: Race, seconds: float) -> None:
    await asyncio.sleep(seconds)
    mine: dict[str, Any] = {"execution_id": race.id, "lease_token": LEASE}
    match name:
        case "cancel" | "cancel again":
            response = await player.ask(
                "select (app.cancel_execution(%(family)s, %(id)s, %(reason)s)).status as result",
                {"family": race.family, "id": race.id, "reason": name},
            )
        case "finish" | "release" | "heartbeat":
            response = await player.call(f"worker_{name.replace('finish', 'complete')}", **mine)
        case "fail":
            error = {"code": "gone", "message": "The source is gone."}
            response = await player.call("worker_fail", **mine, error=error, retry=seconds == 0)
        case "zombie finish":
            response = await player.call("worker_complete", execution_id=race.id, lease_token=DEAD_LEASE)
        case "finish together" | "zombie finish together" | "finish and go on" | "zombie finish and go on":
            completed = _TOGETHER[name.split("finish ")[1]]
            asked = f"select case when ({completed}) ? %(id)s::text then 'completed' else 'lost' end as result"
            response = await player.ask(
                asked, {"id": race.id, "lease_token": DEAD_LEASE if "zombie" in name else LEASE}
            )
        case "reap":
            response = await player.call("worker_reap")
        case _:
            response = await player.call(
                "worker_commit_batch", **_batch(race, DEAD_LEASE if name == "zombie" else LEASE)
            )
    race.answers[name] = response


def _batch(race: Race, lease_token: int) -> dict[str, Any]:
    records = [{"key": f"{race.id} {n}", "data": {"lease_token": lease_token}} for n in range(BATCH)]
    sent = {"execution_id": race.id, "lease_token": lease_token, "seq": 1, "resource": "flights", "records": records}
    return {**sent, "checkpoint": {"by": lease_token}, "progress": {}}


def violations(answers: Mapping[str, str], row: Mapping[str, Any], stored: int) -> list[str]:
    """What is wrong with how a race ended; with a lost answer nothing can be said about what it might have told."""
    wrong = [f"a dead worker was answered {said}" for name, said in answers.items() if not _is_fenced(name, said)]
    told = [said for name, said in answers.items() if said in ENDS and _tells(name)]
    all_known = UNKNOWN not in answers.values()
    if len(told) > 1:
        wrong.append("two were told that they ended it")
    if told and told[0] != row["status"]:
        wrong.append("the row is not what its winner was told")
    if all_known and not told and row["status"] in ENDS and row["actor"] != "reaper":
        wrong.append("it ended and nobody was told")
    commits = {answers[name] for name in ("commit", "commit again") if name in answers}
    has_stored = bool(commits & {"continue", "cancel"})
    if all_known and (stored, row["records"], row["seq"]) != ((BATCH, BATCH, 1) if has_stored else (0, 0, 0)):
        wrong.append(f"{stored} records are stored, {row['records']} counted, seq {row['seq']}")
    if stored not in (0, BATCH) or stored != row["records"]:
        wrong.append("a batch is stored in part, or twice")
    return wrong


def _is_fenced(name: str, said: str) -> bool:
    return not name.startswith("zombie") or said in ("lost", UNKNOWN)


def _tells(name: str) -> bool:
    """Whether this call's answer is that of whoever made a move."""
    return name in ("cancel", "cancel again", "finish", "finish together", "finish and go on", "fail", "release")
