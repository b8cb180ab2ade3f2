"""Secrets outside the database that no connection has any more, forgotten there too."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from functions._shared.secret_store import SecretUnavailable
from functions.worker.tasks import run_until

if TYPE_CHECKING:
    from functions._shared.secret_store import SecretStore
    from functions.worker.client import Protocol

log = logging.getLogger(__name__)

SWEEP_SECONDS = 60.0
MAX_CONCURRENT = 100


async def forget_secrets(protocol: Protocol, secrets: SecretStore) -> int:
    """How many were forgotten. Where the store does not answer, the rest is handed out again in five minutes."""
    claimed = await protocol.claim_deleted_secrets(MAX_CONCURRENT)
    for number, secret in enumerate(claimed):
        try:
            await asyncio.to_thread(secrets.delete, secret["name"])
        except SecretUnavailable as error:
            log.warning("secrets are not forgotten yet", extra={"secret_id": secret["id"], "error": str(error)})
            return number
        await protocol.ack_deleted_secret(secret)
    return len(claimed)


class SecretCleanup:
    """Without a store there is nothing to do."""

    def __init__(self, protocol: Protocol, secrets: SecretStore | None, sweep_seconds: float = SWEEP_SECONDS) -> None:
        self._protocol = protocol
        self._secrets = secrets
        self._sweep_seconds = sweep_seconds

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; what is under way then is done again by the next worker."""
        await run_until(stop, self._sweep_for_ever())

    async def drain(self) -> None:
        """Until nothing is due."""
        while self._secrets and await forget_secrets(self._protocol, self._secrets) == MAX_CONCURRENT:
            pass

    async def _sweep_for_ever(self) -> None:
        while True:
            try:
                await self.drain()
            except Exception:
                log.exception("no secrets forgotten")
            await asyncio.sleep(self._sweep_seconds)
