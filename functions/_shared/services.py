"""Makes the services of the functions from their settings.

worker/context.py makes those of the worker, with `make_secret_store` and `with_secrets` of this module.
Nothing is made while a module is imported: a snapshot of the process holds neither a client nor a secret.
"""

from __future__ import annotations

import importlib
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from functions._shared import secret_store
from functions._shared.dispatch import PollingDispatcher, SqsDispatcher
from functions._shared.http_client import tls
from functions._shared.secret_store import EnvironmentStore, SecretsManagerStore, SecretUnavailable
from functions._shared.settings import Settings, from_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions._shared.auth import Authenticator
    from functions._shared.dispatch import Dispatcher
    from functions._shared.secret_store import SecretStore
    from functions._shared.settings import SecretStoreName
    from functions._shared.transports import Transport

# After a pause of this length the process may have been frozen, and its connections may be closed. Measured by the
# system time, because the monotonic clock may stop meanwhile.
PAUSE_SECONDS = 5.0
# How long a process may use a DATABASE_URL that was replaced in SETTINGS_SECRET.
SETTINGS_SECONDS = 60.0


@dataclass(frozen=True)
class Services:
    settings: Settings
    authenticator: Authenticator
    transport: Transport
    dispatcher: Dispatcher = field(default_factory=PollingDispatcher)
    secret_store: SecretStore | None = None  # None: the database keeps secrets

    def reset_connections(self) -> None:
        """Drops pooled connections, and keys that are old by now. No request may be under way."""
        self.transport.close()
        self.authenticator.reset_connections()

    def close(self) -> None:
        self.transport.close()
        self.authenticator.close()


def make(settings: Settings) -> Services:
    from functions._shared.auth import Authenticator  # noqa: PLC0415 (the worker verifies no token)

    authenticator = Authenticator(
        settings.supabase_url,
        api_key=settings.supabase_publishable_key,
        check=settings.auth_check,
        issuer=settings.auth_issuer,
    )
    dispatcher = make_dispatcher(settings.queue_url, settings.check_queue_url)
    return Services(settings, authenticator, make_transport(settings), dispatcher, _make_api_secret_store(settings))


def from_deployment() -> Services:
    """The services that the environment and its SETTINGS_SECRET describe."""
    return make(from_environment(with_secrets(os.environ)))


def make_transport(settings: Settings) -> Transport:
    """Imports only the client that is used."""
    if settings.rpc_transport == "postgres":
        from functions._shared.transports.postgres import PostgresTransport  # noqa: PLC0415

        assert settings.database_url is not None
        return PostgresTransport(settings.database_url)
    from functions._shared.transports.postgrest import PostgrestTransport  # noqa: PLC0415

    return PostgrestTransport(settings.supabase_url, settings.supabase_publishable_key)


def make_dispatcher(queue_url: str | None, check_queue_url: str | None) -> Dispatcher:
    if queue_url is None or check_queue_url is None:
        return PollingDispatcher()
    return SqsDispatcher({"runs": queue_url, "checks": check_queue_url})


def make_secret_store(kind: SecretStoreName, prefix: str) -> SecretStore | None:
    """None if the database keeps secrets. `prefix` begins all names in Secrets Manager."""
    if kind == "secretsmanager":
        return SecretsManagerStore(prefix)
    return EnvironmentStore() if kind == "environment" else None


def _make_api_secret_store(settings: Settings) -> SecretStore | None:
    """Environment variables cannot store a caller's secret, so the database does."""
    if settings.secret_store == "environment":  # noqa: S105 (no secret)
        return None
    return make_secret_store(settings.secret_store, settings.secret_prefix)


def with_secrets(environment: Mapping[str, str]) -> Mapping[str, str]:
    """With the members of the secret that SETTINGS_SECRET names, so that no function's configuration holds a secret."""
    name = environment.get("SETTINGS_SECRET")
    if not name:
        return environment
    return {**environment, **{setting: str(value) for setting, value in secret_store.read(name).items()}}


def prepare() -> None:
    """Checks the settings and imports the clients, before the first request and before a snapshot. Makes no client."""
    environment = dict(os.environ)
    if environment.get("SETTINGS_SECRET"):  # read at the first invocation, so that no snapshot holds it
        environment = {"SUPABASE_PUBLISHABLE_KEY": "unknown yet", "DATABASE_URL": "unknown yet"} | environment
    settings = from_environment(environment)
    importlib.import_module("functions._shared.auth")
    importlib.import_module(f"functions._shared.transports.{settings.rpc_transport}")
    if settings.supabase_url.startswith("https:"):
        tls()


@dataclass
class _Process:
    """The services of this process, and when it last used them and read their settings."""

    services: Services | None = None
    used_at: float = 0.0
    read_at: float = 0.0


_process = _Process()


def services_for_invocation() -> Services:
    """The services of a process that serves one request at a time and may be frozen between two.

    They are made at the first invocation after a start or a restore, with the settings of that moment.
    """
    now = time.time()
    paused, _process.used_at = now - _process.used_at, now
    if _process.services is None or _has_old_secrets(now):
        _process.services, _process.read_at = _with_current_settings(_process.services), now
    if not 0 <= paused < PAUSE_SECONDS:
        _process.services.reset_connections()
    return _process.services


def _has_old_secrets(now: float) -> bool:
    return bool(os.environ.get("SETTINGS_SECRET")) and not 0 <= now - _process.read_at < SETTINGS_SECONDS


def _with_current_settings(current: Services | None) -> Services:
    """The same services if no setting has changed, or if the secret cannot be read now."""
    try:
        settings = from_environment(with_secrets(os.environ))
    except SecretUnavailable:
        if current is None:
            raise
        return current
    if current is not None:
        if current.settings == settings:
            return current
        current.close()
    return make(settings)
