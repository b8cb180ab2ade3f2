"""What an endpoint needs, made once per process: who is calling, and the way to the database."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from functions._shared.auth import Authenticator
from functions._shared.rpc import PostgresRpc, PostgrestRpc
from functions._shared.settings import Settings, from_environment

if TYPE_CHECKING:
    from functions._shared.rpc import Rpc


@dataclass(frozen=True)
class Services:
    settings: Settings
    authenticator: Authenticator
    rpc: Rpc


def make(settings: Settings) -> Services:
    authenticator = Authenticator(
        settings.supabase_url,
        api_key=settings.supabase_anon_key,
        check=settings.auth_check,
        issuer=settings.auth_issuer,
    )
    return Services(settings, authenticator, make_rpc(settings))


def make_rpc(settings: Settings) -> Rpc:
    if settings.rpc_door == "postgres":
        assert settings.database_url is not None
        return PostgresRpc(settings.database_url)
    return PostgrestRpc(settings.supabase_url, settings.supabase_anon_key)


@cache
def services() -> Services:
    """Those of the environment."""
    return make(from_environment())
