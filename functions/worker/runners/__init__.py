"""What each family does when it runs: a generator of batches. Lease, commit, cancel and retry are the engine's."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

from functions.worker.runners.bulk_action import bulk_action
from functions.worker.runners.bulk_sync import bulk_sync
from functions.worker.runners.historical_sync import historical_sync
from functions.worker.runners.model_sync import model_sync
from functions.worker.runners.source_check import source_check
from functions.worker.runners.sync_job_run import sync_job_run

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from functions.worker.client import Batch, Execution, Runner, Step
    from functions.worker.connectors import OpenSource


class Reader(Protocol):
    """A runner but for how to open a source."""

    def __call__(self, execution: Execution, open_source: OpenSource) -> AsyncGenerator[Batch | Step, None]: ...


RUNNERS: Mapping[str, Reader] = {
    "historical_sync": historical_sync,
    "bulk_sync": bulk_sync,
    "model_sync": model_sync,
    "sync_job_run": sync_job_run,
    "bulk_action": bulk_action,
}
# In a lane of their own: somebody waits for them, whatever else is running.
CHECKS: Mapping[str, Reader] = {"source_check": source_check}


def given(open_source: OpenSource, readers: Mapping[str, Reader]) -> Mapping[str, Runner]:
    """The same by family, with how to open a source: what a connection may reach is the worker's to say."""
    return {family: partial(reader, open_source=open_source) for family, reader in readers.items()}
