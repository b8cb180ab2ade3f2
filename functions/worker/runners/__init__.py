"""What each family does when it runs: a generator of batches. Lease, commit, cancel and retry are the engine's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from functions.worker.runners.historical_sync import historical_sync

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions.worker.protocol import Runner

RUNNERS: Mapping[str, Runner] = {"historical_sync": historical_sync}
