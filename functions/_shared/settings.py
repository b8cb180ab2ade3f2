"""What a deployment sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping


SecretStoreName = Literal["database", "secretsmanager", "environment"]
# A project's keys. The first that is set counts: the newer ones (sb_publishable_…, sb_secret_…) replace the older JWTs.
PUBLISHABLE_KEYS = ("SUPABASE_PUBLISHABLE_KEY", "SUPABASE_ANON_KEY")
SECRET_KEYS = ("SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY")


@dataclass(frozen=True)
class Settings:
    """The names in the environment are the fields' in capitals."""

    supabase_url: str
    supabase_publishable_key: str = field(repr=False)
    # How functions reach the database: `postgrest`, or `postgres` with DATABASE_URL (a role like `authenticator`).
    rpc_transport: Literal["postgrest", "postgres"] = "postgrest"
    database_url: str | None = field(default=None, repr=False)
    # `claims` verifies asymmetric tokens here; `user` calls the Auth server each time. Both see revoked sessions.
    auth_check: Literal["claims", "user"] = "claims"
    # Only where the project's tokens name another address than SUPABASE_URL (functions inside a container).
    auth_issuer: str | None = None
    cors_allowed_origins: tuple[str, ...] = ("*",)
    # Where connections' secrets are kept, and the prefix of their names in Secrets Manager.
    secret_store: SecretStoreName = "database"  # noqa: S105 (no secret)
    secret_prefix: str = "sync-control-plane"  # noqa: S105 (no secret)
    # The SQS queues of a worker that is invoked, for runs and for source checks. None: workers poll the database.
    queue_url: str | None = None
    check_queue_url: str | None = None


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Raises RuntimeError naming what is missing or unknown, ValueError for an invalid URL."""
    url, key = environment.get("SUPABASE_URL"), first_set(environment, PUBLISHABLE_KEYS)
    if not url or not key:
        missing = [name for name, value in (("SUPABASE_URL", url), (PUBLISHABLE_KEYS[0], key)) if not value]
        raise RuntimeError(f"Set {' and '.join(missing)}.")
    require_project_url(url)
    transport = _one_of(environment, "RPC_TRANSPORT", ("postgrest", "postgres"))
    if transport == "postgres" and not environment.get("DATABASE_URL"):
        raise RuntimeError("RPC_TRANSPORT=postgres needs DATABASE_URL.")
    if bool(environment.get("QUEUE_URL")) != bool(environment.get("CHECK_QUEUE_URL")):
        raise RuntimeError("Set both QUEUE_URL and CHECK_QUEUE_URL, or neither.")
    origins = environment.get("CORS_ALLOWED_ORIGINS") or "*"
    store, prefix = secrets_from(environment)
    return Settings(
        supabase_url=url.rstrip("/"),
        supabase_publishable_key=key,
        rpc_transport=cast("Literal['postgrest', 'postgres']", transport),
        database_url=environment.get("DATABASE_URL") or None,
        auth_check=cast("Literal['claims', 'user']", _one_of(environment, "AUTH_CHECK", ("claims", "user"))),
        auth_issuer=environment.get("AUTH_ISSUER") or None,
        cors_allowed_origins=tuple(origin.strip() for origin in origins.split(",")),
        secret_store=store,
        secret_prefix=prefix,
        queue_url=environment.get("QUEUE_URL") or None,
        check_queue_url=environment.get("CHECK_QUEUE_URL") or None,
    )


def require_project_url(url: str) -> None:
    """Raises ValueError: a wrong URL must fail at the start, not as everyone's 401."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
        raise ValueError("SUPABASE_URL is not the URL of a project.")


def first_set(environment: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((environment[name] for name in names if environment.get(name)), None)


def secrets_from(environment: Mapping[str, str]) -> tuple[SecretStoreName, str]:
    """SECRET_STORE and SECRET_PREFIX. Raises RuntimeError for an unknown store."""
    store = _one_of(environment, "SECRET_STORE", ("database", "secretsmanager", "environment"))
    return cast("SecretStoreName", store), environment.get("SECRET_PREFIX") or "sync-control-plane"


def _one_of(environment: Mapping[str, str], name: str, values: tuple[str, ...]) -> str:
    value = environment.get(name) or values[0]
    if value not in values:
        raise RuntimeError(f"{name} is {' or '.join(values)}.")
    return value
