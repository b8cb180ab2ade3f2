"""What a deployment sets, read from the environment once."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    from collections.abc import Mapping


SecretStoreName = Literal["database", "secretsmanager", "environment"]


@dataclass(frozen=True)
class Settings:
    """The names in the environment are the fields' in capitals."""

    supabase_url: str
    supabase_anon_key: str = field(repr=False)
    # The functions' way to the database: `postgrest`, or `postgres` with DATABASE_URL (a role like `authenticator`).
    rpc_transport: Literal["postgrest", "postgres"] = "postgrest"
    database_url: str | None = field(default=None, repr=False)
    # `claims` verifies asymmetric tokens here; `user` asks the Auth server on every call. Both see revoked sessions.
    auth_check: Literal["claims", "user"] = "claims"
    # Only where the project's tokens name another address than SUPABASE_URL (functions inside a container).
    auth_issuer: str | None = None
    cors_allowed_origins: tuple[str, ...] = ("*",)
    # Who keeps connections' secrets, and what stands before their names in Secrets Manager.
    secret_store: SecretStoreName = "database"  # noqa: S105 (no secret)
    secret_prefix: str = "sync-control-plane"  # noqa: S105 (no secret)
    # The worker's alone: an API function is never given it.
    supabase_service_role_key: str | None = field(default=None, repr=False)
    # Where workers are called by queues: SQS URLs, for runs and for looks. None: workers ask the database themselves.
    queue_url: str | None = None
    check_queue_url: str | None = None


def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
    """Raises RuntimeError naming what is missing or unknown, before the first request rather than at it."""
    missing = [name for name in ("SUPABASE_URL", "SUPABASE_ANON_KEY") if not environment.get(name)]
    if missing:
        raise RuntimeError(f"Set {' and '.join(missing)}.")
    transport = _one_of(environment, "RPC_TRANSPORT", ("postgrest", "postgres"))
    if transport == "postgres" and not environment.get("DATABASE_URL"):
        raise RuntimeError("RPC_TRANSPORT=postgres needs DATABASE_URL.")
    if bool(environment.get("QUEUE_URL")) != bool(environment.get("CHECK_QUEUE_URL")):
        raise RuntimeError("Set both QUEUE_URL and CHECK_QUEUE_URL, or neither.")
    origins = environment.get("CORS_ALLOWED_ORIGINS") or "*"
    store, prefix = secrets_from(environment)
    return Settings(
        supabase_url=environment["SUPABASE_URL"].rstrip("/"),
        supabase_anon_key=environment["SUPABASE_ANON_KEY"],
        rpc_transport=cast("Literal['postgrest', 'postgres']", transport),
        database_url=environment.get("DATABASE_URL") or None,
        auth_check=cast("Literal['claims', 'user']", _one_of(environment, "AUTH_CHECK", ("claims", "user"))),
        auth_issuer=environment.get("AUTH_ISSUER") or None,
        cors_allowed_origins=tuple(origin.strip() for origin in origins.split(",")),
        secret_store=store,
        secret_prefix=prefix,
        supabase_service_role_key=environment.get("SUPABASE_SERVICE_ROLE_KEY") or None,
        queue_url=environment.get("QUEUE_URL") or None,
        check_queue_url=environment.get("CHECK_QUEUE_URL") or None,
    )


def secrets_from(environment: Mapping[str, str] = os.environ) -> tuple[SecretStoreName, str]:
    """SECRET_STORE and SECRET_PREFIX. Raises RuntimeError for an unknown store."""
    store = _one_of(environment, "SECRET_STORE", ("database", "secretsmanager", "environment"))
    return cast("SecretStoreName", store), environment.get("SECRET_PREFIX") or "sync-control-plane"


def _one_of(environment: Mapping[str, str], name: str, values: tuple[str, ...]) -> str:
    value = environment.get(name) or values[0]
    if value not in values:
        raise RuntimeError(f"{name} is {' or '.join(values)}.")
    return value
