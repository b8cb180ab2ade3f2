"""Completes executions that end in the same turn of the event loop in one call and one commit.

A claim that is made in that turn travels with them, so that a worker goes from one execution to the next in one call.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from functions.worker.client import Execution, WorkerClient

MAX_COMPLETIONS = 100  # the limit of worker_complete_all
# With more completions than this the claim is a call of its own, beside theirs: it need not wait for them all.
MAX_COMPLETIONS_WITH_CLAIM = 20


@dataclass(frozen=True)
class ClaimRequest:
    """The arguments of `WorkerClient.claim`."""

    worker: str
    families: Sequence[str]
    max_executions: int
    lease_seconds: int


@dataclass
class CompletionBatch:
    """Completions of one turn, and at most one claim. `call` returns which (id, lease token) are completed, and the
    claimed executions, or None if the claim did not travel with them.
    """

    executions: list[Execution] = field(default_factory=list)
    claim: ClaimRequest | None = None
    call: asyncio.Task[tuple[set[tuple[str, int]], list[Execution] | None]] = field(init=False)


class CompletionBatcher:
    """`complete` and `claim` of the client, batched. What the batch does not settle is repeated in a single call."""

    def __init__(self, client: WorkerClient) -> None:
        self._client = client
        self._open: CompletionBatch | None = None  # accepts completions until the event loop's next turn

    async def complete(self, execution: Execution) -> str:
        """Return the status that the execution has now, or `lost`."""
        batch = self._open
        if not batch:
            self._open = batch = CompletionBatch()
            batch.call = asyncio.create_task(self._call(batch))
        batch.executions.append(execution)
        completed, _ = await asyncio.shield(batch.call)
        if (execution.id, execution.lease_token) in completed:
            return "completed"
        return await self._client.complete(execution)

    async def claim(
        self, worker: str, families: Sequence[str], max_executions: int, lease_seconds: int
    ) -> list[Execution]:
        """Return at most `max_executions` of these families, leased for `lease_seconds`."""
        claimed = None
        batch = self._open
        if batch and not batch.claim and len(batch.executions) <= MAX_COMPLETIONS_WITH_CLAIM:
            batch.claim = ClaimRequest(worker, families, max_executions, lease_seconds)
            _, claimed = await asyncio.shield(batch.call)
        if claimed is None:
            claimed = await self._client.claim(worker, families, max_executions, lease_seconds)
        return claimed

    async def _call(self, batch: CompletionBatch) -> tuple[set[tuple[str, int]], list[Execution] | None]:
        await asyncio.sleep(0)  # the other completions of this turn
        self._open = None
        tokens = {execution.id: execution.lease_token for execution in batch.executions[:MAX_COMPLETIONS]}
        completed: list[str] = []
        claimed = None
        with contextlib.suppress(Exception):  # each caller repeats its call alone, and gets the error
            if request := batch.claim:
                completed, claimed = await self._client.complete_and_claim(
                    tokens, request.worker, request.families, request.max_executions, request.lease_seconds
                )
            for _ in range(2):  # a claim or heartbeat may hold a row's lock for a moment; locked rows are left out
                left = {id_: token for id_, token in tokens.items() if id_ not in completed}
                if len(left) > 1:
                    completed += await self._client.complete_all(left)
        return {(id_, tokens[id_]) for id_ in completed}, claimed
