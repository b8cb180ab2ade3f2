"""Deletes secrets from the external store that no connection uses any more."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from functions._shared.secret_store import SecretUnavailable

if TYPE_CHECKING:
    from functions._shared.secret_store import SecretStore
    from functions.worker.client import WorkerClient

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 60.0
MAX_SECRETS = 100


@dataclass(frozen=True)
class SecretCleanup:
    """The step of a PeriodicTask. `secrets` None: there is no external store, and nothing to do."""

    client: WorkerClient
    secrets: SecretStore | None

    async def delete_due(self) -> bool:
        """Delete up to MAX_SECRETS. Return whether more may be due."""
        return await self.delete_some() == MAX_SECRETS

    async def delete_some(self) -> int:
        """Return how many were deleted. If the store fails, the rest is claimed again in five minutes."""
        if not self.secrets:
            return 0
        claimed = await self.client.claim_deleted_secrets(MAX_SECRETS)
        for number, secret in enumerate(claimed):
            try:
                await asyncio.to_thread(self.secrets.delete, secret["name"])
            except SecretUnavailable as error:
                log.warning("could not delete secret", extra={"secret_id": secret["id"], "error": str(error)})
                return number
            await self.client.ack_deleted_secret(secret)
        return len(claimed)
