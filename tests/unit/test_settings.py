"""Settings come from the environment, once; what is wrong with them is said by name, and no secret is ever shown."""

from __future__ import annotations

import pytest

from functions._shared import services
from functions._shared.rpc import PostgresRpc, PostgrestRpc
from functions._shared.settings import Settings, from_environment

GOOD = {"SUPABASE_URL": "https://p.example/", "SUPABASE_ANON_KEY": "anon-t0p"}


def test_what_is_not_set_has_a_default() -> None:
    assert from_environment(GOOD) == Settings("https://p.example", "anon-t0p")


def test_everything_set() -> None:
    environment = GOOD | {
        "RPC_TRANSPORT": "postgres",
        "DATABASE_URL": "postgresql://a:t0p@db/x",
        "AUTH_CHECK": "user",
        "AUTH_ISSUER": "https://outside.example/auth/v1",
        "CORS_ALLOWED_ORIGINS": "https://a.example,https://b.example",
        "SECRET_STORE": "secretsmanager",
        "SECRET_PREFIX": "syncs",
        "SUPABASE_SERVICE_ROLE_KEY": "service-t0p",
        "UNKNOWN": "ignored",
    }
    assert from_environment(environment) == Settings(
        supabase_url="https://p.example",
        supabase_anon_key="anon-t0p",
        rpc_transport="postgres",
        database_url="postgresql://a:t0p@db/x",
        auth_check="user",
        auth_issuer="https://outside.example/auth/v1",
        cors_allowed_origins=("https://a.example", "https://b.example"),
        secret_store="secretsmanager",
        secret_prefix="syncs",
        supabase_service_role_key="service-t0p",
    )
    assert "t0p" not in repr(from_environment(environment))


def test_empty_is_not_set() -> None:
    names = (
        "RPC_TRANSPORT",
        "DATABASE_URL",
        "AUTH_CHECK",
        "AUTH_ISSUER",
        "CORS_ALLOWED_ORIGINS",
        "SECRET_STORE",
        "SECRET_PREFIX",
        "SUPABASE_SERVICE_ROLE_KEY",
    )
    assert from_environment(GOOD | dict.fromkeys(names, "")) == from_environment(GOOD)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SUPABASE_URL": None}, "Set SUPABASE_URL."),
        ({"SUPABASE_URL": ""}, "Set SUPABASE_URL."),
        ({"SUPABASE_ANON_KEY": None}, "Set SUPABASE_ANON_KEY."),
        ({"SUPABASE_URL": None, "SUPABASE_ANON_KEY": ""}, "Set SUPABASE_URL and SUPABASE_ANON_KEY."),
        ({"RPC_TRANSPORT": "postgres"}, "RPC_TRANSPORT=postgres needs DATABASE_URL."),
        ({"SECRET_STORE": "vault"}, "SECRET_STORE is database or secretsmanager or environment."),
        ({"RPC_TRANSPORT": "postgres", "DATABASE_URL": ""}, "RPC_TRANSPORT=postgres needs DATABASE_URL."),
        ({"RPC_TRANSPORT": "Postgres"}, "RPC_TRANSPORT is postgrest or postgres."),
        ({"RPC_TRANSPORT": "http"}, "RPC_TRANSPORT is postgrest or postgres."),
        ({"AUTH_CHECK": "none"}, "AUTH_CHECK is claims or user."),
    ],
)
def test_what_is_missing_or_unknown_is_named(changes: dict[str, str | None], message: str) -> None:
    environment = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    with pytest.raises(RuntimeError) as caught:
        from_environment(environment)
    assert str(caught.value) == message
    assert "t0p" not in str(caught.value)


@pytest.mark.parametrize(("transport", "kind"), [("postgres", PostgresRpc), ("postgrest", PostgrestRpc)])
def test_the_door_is_the_one_set(transport: str, kind: type) -> None:
    made = services.make(
        from_environment(GOOD | {"RPC_TRANSPORT": transport, "DATABASE_URL": "postgresql://a:t0p@db/x"})
    )
    try:
        assert isinstance(made.rpc, kind)
        assert "t0p" not in repr(made)
    finally:
        made.rpc.close()
        made.authenticator.close()
