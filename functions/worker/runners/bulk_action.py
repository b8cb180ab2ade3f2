"""The database acts on its own rows; the worker asks for one short step after the other, so that it can be stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from functions.worker.protocol import Step

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from functions.worker.connectors import OpenSource
    from functions.worker.protocol import Execution


async def bulk_action(execution: Execution, open_source: OpenSource) -> AsyncGenerator[Step, None]:
    step = Step("act_in_bulk")
    while step.more:
        yield step
