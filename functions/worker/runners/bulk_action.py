"""Bulk actions: the database acts on its own rows, in short steps, so that the worker can be stopped between two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from functions.worker.client import DatabaseStep

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from functions.worker.client import Execution
    from functions.worker.connectors import OpenSource


async def bulk_action(execution: Execution, open_source: OpenSource) -> AsyncGenerator[DatabaseStep, None]:
    step = DatabaseStep("worker_run_bulk_action_step")
    while step.has_more:
        yield step
