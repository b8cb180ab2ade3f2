"""What an endpoint needs, made once per process: who is calling, and the way to the database."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from functions._shared import secret_store
from functions._shared.auth import Authenticator
from functions._shared.rpc import PostgresRpc, PostgrestRpc
from functions._shared.settings import Settings, from_environment

if TYPE_CHECKING:
    from functions._shared.rpc import Rpc
    from functions._shared.secret_store import SecretStore


@dataclass(frozen=True)
class Services:
    settings: Settings
    authenticator: Authenticator
    rpc: Rpc
    secret_store: SecretStore | None = None  # None: the database keeps secrets


def make(settings: Settings) -> Services:
    authenticator = Authenticator(
        settings.supabase_url,
        api_key=settings.supabase_anon_key,
        check=settings.auth_check,
        issuer=settings.auth_issuer,
    )
    return Services(settings, authenticator, make_rpc(settings), make_secret_store(settings))


def make_rpc(settings: Settings) -> Rpc:
    if settings.rpc_door == "postgres":
        assert settings.database_url is not None
        return PostgresRpc(settings.database_url)
    return PostgrestRpc(settings.supabase_url, settings.supabase_anon_key)


def make_secret_store(settings: Settings) -> SecretStore | None:
    """The door's: an environment takes no secrets, so that the database keeps those of its callers."""
    if settings.secret_store == "environment":  # noqa: S105 (no secret)
        return None
    return secret_store.make(settings.secret_store, settings.secret_prefix)


@cache
def services() -> Services:
    """Those of the environment."""
    return make(from_environment())
