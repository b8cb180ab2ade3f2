"""What each family does when it runs: a generator of batches. Lease, commit, cancel and retry are the engine's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from functions.worker.runners.bulk_sync import bulk_sync
from functions.worker.runners.historical_sync import historical_sync
from functions.worker.runners.model_sync import model_sync
from functions.worker.runners.source_look import source_look

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions.worker.protocol import Runner

RUNNERS: Mapping[str, Runner] = {
    "historical_sync": historical_sync,
    "bulk_sync": bulk_sync,
    "model_sync": model_sync,
}
# In a lane of their own: somebody waits for them, whatever else is running.
LOOKS: Mapping[str, Runner] = {"source_look": source_look}
