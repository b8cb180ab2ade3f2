"""The database acts on its own rows; the worker asks for one short step after the other, so that it can be stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from functions.worker.client import Step

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from functions.worker.client import Execution
    from functions.worker.connectors import OpenSource


async def bulk_action(execution: Execution, open_source: OpenSource) -> AsyncGenerator[Step, None]:
    step = Step("worker_run_bulk_action_step")
    while step.more:
        yield step
