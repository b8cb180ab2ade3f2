"""The worker's calls to the database. Each one after `claim` carries the execution's id and lease token.

While the database is unavailable a call is repeated until a response arrives. This is safe, because a repeated call
changes nothing. A call that takes a lease token returns `lost` once the lease has ended; then the worker stops.
"""

from __future__ import annotations

import asyncio
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
Runner: TypeAlias = "Callable[[Execution], AsyncGenerator[Batch | DatabaseStep, None]]"

# Between two attempts while the database is unavailable; the wait doubles from the first to the second.
PROTOCOL = 1  # the worker_* functions' names, arguments and results; the database rejects numbers that it does not know
MIN_RETRY_SECONDS = 0.05
MAX_RETRY_SECONDS = 2.0


@dataclass(frozen=True)
class Execution:
    """An execution as `claim` returns it.

    `seq` is the number of the last committed batch, 0 before the first. `connection` is {kind, config} with the secret
    itself or, where an external store keeps it, its name (`secret_ref`); it and `destination` are left out of the repr.
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
    """An event for the execution's webhook, sent before its batch is committed. `records`: how many it contains."""

    event: str
    payload: dict[str, Any]
    records: int = 0


@dataclass(frozen=True)
class Batch:
    """Records of one resource ({key, data} each), with the checkpoint to resume from once they are stored.

    `errors` holds one sentence for each record that cannot be stored. `done` marks the resource's last batch.
    `fetched` is the number of records read, where it differs from `records` because they are delivered or passed on.
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
class DatabaseStep:
    """Work that the database does itself, in short transactions: the function to call, and whether to call it again."""

    rpc: str
    has_more: bool = True


def service_caller(key: str) -> Caller:
    """The caller of the worker's functions: `service_role`. A key that is no JWT travels in `apikey` alone."""
    return Caller(token=key if is_jwt(key) else None, claims={"role": "service_role"})


class WorkerClient:
    """Calls the worker's SQL functions. Every method raises ApiError for what the database rejects."""

    def __init__(self, transport: AsyncTransport, caller: Caller) -> None:
        self._transport = transport
        self._caller = caller

    async def claim(
        self, worker: str, families: Sequence[str], max_executions: int, lease_seconds: int
    ) -> list[Execution]:
        """Return at most `max_executions` queued executions, each with a lease that ends after `lease_seconds`."""
        rows = await self._call("worker_claim", **_claim_arguments(worker, families, max_executions, lease_seconds))
        return [Execution(**row) for row in rows]

    async def complete_and_claim(
        self,
        lease_tokens: Mapping[str, int],
        worker: str,
        families: Sequence[str],
        max_executions: int,
        lease_seconds: int,
    ) -> tuple[list[str], list[Execution]]:
        """`complete_all` and `claim` in one commit: the ids that are completed, and the claimed executions."""
        claim = _claim_arguments(worker, families, max_executions, lease_seconds)
        response = await self._call("worker_complete_and_claim", leases=dict(lease_tokens), **claim)
        return response["completed"], [Execution(**row) for row in response["claimed"]]

    async def complete_all(self, lease_tokens: Mapping[str, int]) -> list[str]:
        """Complete executions, given as {id: lease token}. Return the ids of those that are; locked rows are not."""
        return cast("list[str]", await self._call("worker_complete_all", leases=dict(lease_tokens)))

    async def heartbeat(self, execution: Execution) -> LeaseResult:
        """Extend the lease by its length from now."""
        return cast("LeaseResult", await self._lease_call("worker_heartbeat", execution))

    async def commit_batch(self, execution: Execution, seq: int, batch: Batch) -> LeaseResult:
        """Store batch number `seq` with its checkpoint. `continue` and `cancel`: it is stored. `lost`: nothing is."""
        result = await self._lease_call(
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
        return cast("LeaseResult", result)

    async def run_step(self, execution: Execution, step: DatabaseStep) -> LeaseResult:
        """Call the step's function once and set `step.has_more`."""
        response = await self._call(step.rpc, execution_id=execution.id, lease_token=execution.lease_token)
        step.has_more = response.get("more", False)
        return cast("LeaseResult", response["result"])

    async def begin_delivery(self, execution: Execution, seq: int, delivery: Delivery) -> dict[str, Any]:
        """Record an attempt to deliver batch number `seq`.

        Return {result}; with `continue` also `wanted`, and where the webhook wants the event {delivery, created_at}.
        """
        response = await self._call(
            "worker_begin_delivery",
            execution_id=execution.id,
            lease_token=execution.lease_token,
            seq=seq,
            event=delivery.event,
            records=delivery.records,
        )
        return cast("dict[str, Any]", response)

    async def stop(self, execution: Execution, reason: str) -> str:
        """Cancel the execution on behalf of its receiver. Return its status, or `lost`."""
        return str(await self._lease_call("worker_stop", execution, reason=reason))

    async def complete(self, execution: Execution) -> str:
        """End the execution. Return its status, or `lost`."""
        return str(await self._lease_call("worker_complete", execution))

    async def fail(self, execution: Execution, code: str, message: str, *, retry: bool) -> str:
        """End this attempt. Return `queued` where another follows, `failed`, `cancelled` or `lost`."""
        error = {"code": code, "message": message}
        return str(await self._lease_call("worker_fail", execution, error=error, retry=retry))

    async def release(self, execution: Execution, reason: str) -> str:
        """Give the lease back; the checkpoint is kept. Return `queued`, or `cancelled` where a cancel was requested."""
        return str(await self._lease_call("worker_release", execution, reason=reason))

    async def reap(self) -> None:
        """Run the tick: take back expired leases, purge what is old. Log each violation of tenant isolation found."""
        for problem in (await self._call("worker_reap")).get("warnings", []):
            log.warning("tenant isolation check failed", extra={"problem": problem})

    async def queue_stats(self, families: Sequence[str]) -> dict[str, Any]:
        """What could be claimed now: {executions, oldest_seconds}."""
        return cast("dict[str, Any]", await self._call("worker_queue_stats", families=list(families)))

    async def claim_events(self, max_events: int) -> list[dict[str, Any]]:
        """Events about ended executions that are due: the fields of a WebhookMessage and `attempt`."""
        return cast("list[dict[str, Any]]", await self._call("worker_claim_events", max_events=max_events))

    async def ack_event(self, event: Mapping[str, Any], *, delivered: bool) -> None:
        """Record how an attempt to send the event ended. The database decides whether another follows."""
        await self._call("worker_ack_event", delivery_id=event["id"], attempt=event["attempt"], delivered=delivered)

    async def claim_deleted_secrets(self, max_secrets: int) -> list[dict[str, str]]:
        """Secrets that no connection uses and the external store still has: {id, name} each."""
        return cast("list[dict[str, str]]", await self._call("worker_claim_deleted_secrets", max_secrets=max_secrets))

    async def ack_deleted_secret(self, secret: Mapping[str, str]) -> None:
        """Record that the external store no longer has the secret."""
        await self._call("worker_ack_deleted_secret", secret_id=secret["id"])

    async def _lease_call(self, name: str, execution: Execution, **arguments: Any) -> Any:  # noqa: ANN401
        response = await self._call(name, execution_id=execution.id, lease_token=execution.lease_token, **arguments)
        return response["result"]

    async def _call(self, name: str, **arguments: Any) -> Any:  # noqa: ANN401 (the JSON that the function returns)
        headers = {"x-request-id": str(uuid.uuid4())}
        wait = MIN_RETRY_SECONDS
        while True:
            try:
                return exact_json.loads(await self._transport.call_async(name, arguments, self._caller, headers))
            except ApiError as error:
                if error.status != 503:
                    raise
                if wait == MIN_RETRY_SECONDS:
                    log.warning("waiting for the database", extra={"call": name, "error": str(error.__cause__)})
            await asyncio.sleep(wait * random.uniform(0.5, 1))  # noqa: S311
            wait = min(2 * wait, MAX_RETRY_SECONDS)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()


def _claim_arguments(worker: str, families: Sequence[str], max_executions: int, lease_seconds: int) -> dict[str, Any]:
    return {
        "worker": worker,
        "families": list(families),
        "max_executions": max_executions,
        "lease_seconds": lease_seconds,
        "protocol": PROTOCOL,
    }
