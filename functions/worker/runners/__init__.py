"""What each family does when it runs: a generator of batches. The engine does lease, commit, cancel and retry."""

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

    from functions.worker.client import Batch, DatabaseStep, Execution, Runner
    from functions.worker.connectors import OpenSource


class RunnerFactory(Protocol):
    """Makes the batches of an execution. It becomes a Runner once `open_source` is bound."""

    def __call__(self, execution: Execution, open_source: OpenSource) -> AsyncGenerator[Batch | DatabaseStep, None]: ...


RUNNERS: Mapping[str, RunnerFactory] = {
    "historical_sync": historical_sync,
    "bulk_sync": bulk_sync,
    "model_sync": model_sync,
    "sync_job_run": sync_job_run,
    "bulk_action": bulk_action,
}
CHECKS: Mapping[str, RunnerFactory] = {"source_check": source_check}


def bind_source(open_source: OpenSource, factories: Mapping[str, RunnerFactory]) -> Mapping[str, Runner]:
    """The runners by family. `open_source` decides which addresses a connection may reach."""
    return {family: partial(factory, open_source=open_source) for family, factory in factories.items()}
