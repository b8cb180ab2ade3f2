"""The worker's calls to the database. Every one after `claim` carries (execution, lease), and `lost` means: no more.

An unreachable database is waited for: what a call could not say is said again, and saying it twice does it once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from functions._shared import exact_json
from functions._shared.caller import Caller, is_jwt
from functions._shared.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

    from functions._shared.transports import AsyncTransport

log = logging.getLogger(__name__)

LeaseResult = Literal["continue", "cancel", "lost"]
Runner: TypeAlias = "Callable[[Execution], AsyncGenerator[Batch | Step, None]]"

SHORTEST_WAIT_SECONDS = 0.05
LONGEST_WAIT_SECONDS = 2.0
MAX_COMPLETIONS = 100  # that worker_complete_all takes
MAX_COMPLETIONS_WITH_CLAIM = 20  # a commit saved is worth so many; more are finished while the claim is under way


@dataclass(frozen=True)
class Execution:
    """What `claim` hands out. `seq` is the last committed batch; `connection` holds the secret, or by which name it is
    kept outside (`secret_ref`), so it has no repr.
    """

    id: str
    agency_id: str
    family: str
    lease_token: int
    seq: int
    spec: dict[str, Any]
    checkpoint: dict[str, Any] | None
    progress: dict[str, Any]
    connection_id: str | None
    connection: dict[str, Any] | None = field(repr=False)
    destination: dict[str, Any] | None = field(default=None, repr=False)
    definition_id: str | None = None


@dataclass(frozen=True)
class Delivery:
    """What a batch hands to the execution's receiver before it is committed."""

    event: str
    payload: dict[str, Any]
    records: int = 0


@dataclass(frozen=True)
class Batch:
    """Records of one resource ({key, data} each), with the checkpoint to resume from once they are stored.

    `errors` are sentences, one per record of the source that cannot be stored; `done`: the resource's last batch;
    `fetched`: how many records were read where they are not among `records`, because they are delivered or passed on.
    """

    resource: str
    records: Sequence[dict[str, Any]]
    checkpoint: dict[str, Any]
    progress: dict[str, Any]
    errors: Sequence[str] = ()
    done: bool = False
    method: str = "list"
    fetched: int | None = None
    delivery: Delivery | None = None


@dataclass
class Step:
    """Work that the database does itself, a short transaction at a time: the function, and whether there is more."""

    rpc: str
    more: bool = True


@dataclass
class CompletionBatcher:
    """What ends in one turn of the event loop, and the claim for what takes its place."""

    ending: list[Execution] = field(default_factory=list)
    wanted: dict[str, Any] | None = None
    passed: asyncio.Task[tuple[set[tuple[str, int]], list[dict[str, Any]] | None]] = field(init=False)


def service_caller(key: str) -> Caller:
    """A key that is no JWT travels in `apikey` alone."""
    return Caller(token=key if is_jwt(key) else None, claims={"role": "service_role"})


class Protocol:
    def __init__(self, transport: AsyncTransport, caller: Caller) -> None:
        self._transport = transport
        self._caller = caller
        self._moment: CompletionBatcher | None = None

    async def claim(self, worker: str, families: Sequence[str], limit: int, lease_seconds: int) -> list[Execution]:
        """In one call and one commit with what ends at the same moment, if that is little."""
        wanted = {"worker": worker, "families": list(families), "max_executions": limit, "lease_seconds": lease_seconds}
        rows = None
        moment = self._moment
        if moment and not moment.wanted and len(moment.ending) <= MAX_COMPLETIONS_WITH_CLAIM:
            moment.wanted = wanted
            _, rows = await asyncio.shield(moment.passed)
        if rows is None:
            rows = await self._call("worker_claim", **wanted)
        return [Execution(**row) for row in rows]

    async def heartbeat(self, execution: Execution) -> LeaseResult:
        return cast("LeaseResult", await self._lease_call("worker_heartbeat", execution))

    async def commit_batch(self, execution: Execution, seq: int, batch: Batch) -> LeaseResult:
        response = await self._lease_call(
            "worker_commit_batch",
            execution,
            seq=seq,
            resource=batch.resource,
            records=list(batch.records),
            checkpoint=batch.checkpoint,
            progress=batch.progress,
            errors=list(batch.errors),
            done=batch.done,
            method=batch.method,
            fetched=batch.fetched,
        )
        return cast("LeaseResult", response)

    async def step(self, execution: Execution, step: Step) -> LeaseResult:
        response = await self._call(step.rpc, execution_id=execution.id, lease_token=execution.lease_token)
        step.more = response.get("more", False)
        return cast("LeaseResult", response["result"])

    async def begin_delivery(self, execution: Execution, seq: int, delivery: Delivery) -> dict[str, Any]:
        """{answer} as every lease holder's call; with `continue` also wanted, and if it is, delivery and created_at."""
        arguments = {"seq": seq, "event": delivery.event, "records": delivery.records}
        response = await self._call(
            "worker_begin_delivery", execution_id=execution.id, lease_token=execution.lease_token, **arguments
        )
        return cast("dict[str, Any]", response)

    async def stop(self, execution: Execution, reason: str) -> str:
        return str(await self._lease_call("worker_stop", execution, reason=reason))

    async def claim_events(self, limit: int) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", await self._call("worker_claim_events", max_events=limit))

    async def ack_event(self, event: Mapping[str, Any], *, delivered: bool) -> None:
        await self._call("worker_ack_event", delivery_id=event["id"], attempt=event["attempt"], delivered=delivered)

    async def claim_deleted_secrets(self, limit: int) -> list[dict[str, str]]:
        """Those that the store outside has still: {id, name}."""
        return cast("list[dict[str, str]]", await self._call("worker_claim_deleted_secrets", max_secrets=limit))

    async def ack_deleted_secret(self, secret: Mapping[str, str]) -> None:
        await self._call("worker_ack_deleted_secret", secret_id=secret["id"])

    async def finish(self, execution: Execution) -> str:
        """Those that end at the same moment end in one call and one commit."""
        moment = self._moment
        if not moment:
            self._moment = moment = CompletionBatcher()
            moment.passed = asyncio.create_task(self._pass(moment))
        moment.ending.append(execution)
        completed, _ = await asyncio.shield(moment.passed)
        if (execution.id, execution.lease_token) in completed:
            return "completed"
        return str(await self._lease_call("worker_complete", execution))

    async def _pass(self, moment: CompletionBatcher) -> tuple[set[tuple[str, int]], list[dict[str, Any]] | None]:
        """Which of them, with which lease, are completed, and what was claimed, if it was. Who is not among them asks
        alone, and so does a claim without an answer.
        """
        await asyncio.sleep(0)  # for the others of this moment
        self._moment = None
        leases = {execution.id: execution.lease_token for execution in moment.ending[:MAX_COMPLETIONS]}
        completed: list[str] = []
        claimed = None
        with contextlib.suppress(Exception):  # each hears of it when it asks
            if moment.wanted:
                response = await self._call("worker_complete_and_claim", leases=leases, **moment.wanted)
                completed, claimed = response["completed"], response["claimed"]
            for _ in range(2):  # whoever claims just now may hold some for a moment
                left = {id_: lease_token for id_, lease_token in leases.items() if id_ not in completed}
                if len(left) > 1:
                    completed += await self._call("worker_complete_all", leases=left)
        return {(id_, leases[id_]) for id_ in completed}, claimed

    async def fail(self, execution: Execution, code: str, message: str, *, retry: bool) -> str:
        error = {"code": code, "message": message}
        return str(await self._lease_call("worker_fail", execution, error=error, retry=retry))

    async def release(self, execution: Execution, reason: str) -> str:
        return str(await self._lease_call("worker_release", execution, reason=reason))

    async def reap(self) -> None:
        """The tick. Logs each condition of tenant isolation that the database finds violated."""
        for problem in (await self._call("worker_reap")).get("warnings", []):
            log.warning("tenant isolation check failed", extra={"problem": problem})

    async def waiting(self, families: Sequence[str]) -> dict[str, Any]:
        """What could be claimed now: {executions, oldest_seconds}."""
        return cast("dict[str, Any]", await self._call("worker_queue_stats", families=list(families)))

    async def _lease_call(self, name: str, execution: Execution, **arguments: Any) -> Any:  # noqa: ANN401
        response = await self._call(name, execution_id=execution.id, lease_token=execution.lease_token, **arguments)
        return response["result"]

    async def _call(self, name: str, **arguments: Any) -> Any:  # noqa: ANN401 (whatever JSON the function answers)
        headers = {"x-request-id": str(uuid.uuid4())}
        wait = SHORTEST_WAIT_SECONDS
        while True:
            try:
                return exact_json.loads(await self._transport.call_async(name, arguments, self._caller, headers))
            except ApiError as problem:
                if problem.status != 503:
                    raise
                if wait == SHORTEST_WAIT_SECONDS:
                    log.warning("waiting for the database", extra={"call": name, "error": str(problem.__cause__)})
            await asyncio.sleep(wait * random.uniform(0.5, 1))  # noqa: S311
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)

    async def aclose(self) -> None:
        await self._transport.aclose()
