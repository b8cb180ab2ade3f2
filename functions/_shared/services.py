"""What an endpoint needs, made once per process: who is calling, and the way to the database."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from functions._shared import secret_store
from functions._shared.auth import Authenticator
from functions._shared.dispatch import PollingDispatcher, SqsDispatcher
from functions._shared.rpc import PostgresRpc, PostgrestRpc
from functions._shared.secret_store import EnvironmentStore, SecretsManagerStore
from functions._shared.settings import Settings, from_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions._shared.dispatch import Dispatcher
    from functions._shared.rpc import Rpc
    from functions._shared.secret_store import SecretStore
    from functions._shared.settings import SecretStoreName

# So long between two requests, and the process may have been frozen, or restored from a snapshot: what is pooled is as
# good as dead then. By the calendar's clock, the only one that goes on meanwhile.
PAUSE_SECONDS = 5.0


@dataclass(frozen=True)
class Services:
    settings: Settings
    authenticator: Authenticator
    rpc: Rpc
    dispatcher: Dispatcher = field(default_factory=PollingDispatcher)
    secret_store: SecretStore | None = None  # None: the database keeps secrets

    def renew(self) -> None:
        """Forgets pooled connections, and keys that are old by now; for a process that serves one request at a time."""
        self.rpc.close()
        self.authenticator.renew()


def make(settings: Settings) -> Services:
    authenticator = Authenticator(
        settings.supabase_url,
        api_key=settings.supabase_anon_key,
        check=settings.auth_check,
        issuer=settings.auth_issuer,
    )
    dispatcher = make_dispatcher(settings.queue_url, settings.check_queue_url)
    return Services(settings, authenticator, make_rpc(settings), dispatcher, _make_api_secret_store(settings))


def make_rpc(settings: Settings) -> Rpc:
    if settings.rpc_transport == "postgres":
        assert settings.database_url is not None
        return PostgresRpc(settings.database_url)
    return PostgrestRpc(settings.supabase_url, settings.supabase_anon_key)


def make_dispatcher(queue_url: str | None, check_queue_url: str | None) -> Dispatcher:
    if queue_url is None or check_queue_url is None:
        return PollingDispatcher()
    return SqsDispatcher({"runs": queue_url, "checks": check_queue_url})


def make_secret_store(kind: SecretStoreName, prefix: str) -> SecretStore | None:
    """None if the database keeps secrets. `prefix` begins all names in Secrets Manager."""
    if kind == "secretsmanager":
        return SecretsManagerStore(prefix)
    return EnvironmentStore() if kind == "environment" else None


def with_secrets(environment: Mapping[str, str]) -> Mapping[str, str]:
    """With the members of the secret that SETTINGS_SECRET names, so that no function's configuration holds a secret."""
    name = environment.get("SETTINGS_SECRET")
    if not name:
        return environment
    return {**environment, **{setting: str(value) for setting, value in secret_store.read(name).items()}}


def _make_api_secret_store(settings: Settings) -> SecretStore | None:
    """The door's: an environment takes no secrets, so that the database keeps those of its callers."""
    if settings.secret_store == "environment":  # noqa: S105 (no secret)
        return None
    return make_secret_store(settings.secret_store, settings.secret_prefix)


@cache
def services() -> Services:
    """Those of the environment."""
    return make(from_environment(with_secrets(os.environ)))


_used_at = time.time()


def services_for_invocation() -> Services:
    """The same for a process that serves one request at a time and may be frozen between two."""
    global _used_at  # noqa: PLW0603 (of the process, as what it speaks of)
    paused = time.time() - _used_at
    _used_at = time.time()
    current = services()
    if not 0 <= paused < PAUSE_SECONDS:
        current.renew()
    return current
