"""Settings come from the environment. An error names what is wrong, and no secret is ever shown."""

from __future__ import annotations

import pytest

from functions._shared import services
from functions._shared.settings import Settings, from_environment
from functions._shared.transports.postgres import PostgresTransport
from functions._shared.transports.postgrest import PostgrestTransport

GOOD = {"SUPABASE_URL": "https://p.example/", "SUPABASE_PUBLISHABLE_KEY": "publishable-t0p"}


def test_settings__defaults() -> None:
    assert from_environment(GOOD) == Settings("https://p.example", "publishable-t0p")


def test_settings__everything_set() -> None:
    environment = GOOD | {
        "RPC_TRANSPORT": "postgres",
        "DATABASE_URL": "postgresql://a:t0p@db/x",
        "AUTH_CHECK": "user",
        "AUTH_ISSUER": "https://outside.example/auth/v1",
        "CORS_ALLOWED_ORIGINS": "https://a.example,https://b.example",
        "SECRET_STORE": "secretsmanager",
        "SECRET_PREFIX": "syncs",
        "SUPABASE_SECRET_KEY": "only-the-workers-t0p",
        "UNKNOWN": "ignored",
    }
    assert from_environment(environment) == Settings(
        supabase_url="https://p.example",
        supabase_publishable_key="publishable-t0p",
        rpc_transport="postgres",
        database_url="postgresql://a:t0p@db/x",
        auth_check="user",
        auth_issuer="https://outside.example/auth/v1",
        cors_allowed_origins=("https://a.example", "https://b.example"),
        secret_store="secretsmanager",
        secret_prefix="syncs",
    )
    assert "t0p" not in repr(from_environment(environment))


def test_settings__the_publishable_key_wins_over_the_anon_key() -> None:
    old = {"SUPABASE_URL": "https://p.example", "SUPABASE_ANON_KEY": "anon"}
    assert from_environment(old).supabase_publishable_key == "anon"
    assert from_environment({**old, "SUPABASE_PUBLISHABLE_KEY": ""}).supabase_publishable_key == "anon"
    assert from_environment({**old, "SUPABASE_PUBLISHABLE_KEY": "new"}).supabase_publishable_key == "new"


def test_settings__empty_is_not_set() -> None:
    names = (
        "RPC_TRANSPORT",
        "DATABASE_URL",
        "AUTH_CHECK",
        "AUTH_ISSUER",
        "CORS_ALLOWED_ORIGINS",
        "SECRET_STORE",
        "SECRET_PREFIX",
        "SUPABASE_ANON_KEY",
    )
    assert from_environment(GOOD | dict.fromkeys(names, "")) == from_environment(GOOD)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SUPABASE_URL": None}, "Set SUPABASE_URL."),
        ({"SUPABASE_URL": ""}, "Set SUPABASE_URL."),
        ({"SUPABASE_URL": "p.example"}, "SUPABASE_URL is not the URL of a project."),
        ({"SUPABASE_PUBLISHABLE_KEY": None}, "Set SUPABASE_PUBLISHABLE_KEY."),
        ({"SUPABASE_URL": None, "SUPABASE_PUBLISHABLE_KEY": ""}, "Set SUPABASE_URL and SUPABASE_PUBLISHABLE_KEY."),
        ({"RPC_TRANSPORT": "postgres"}, "RPC_TRANSPORT=postgres needs DATABASE_URL."),
        ({"SECRET_STORE": "vault"}, "SECRET_STORE is database or secretsmanager or environment."),
        ({"RPC_TRANSPORT": "postgres", "DATABASE_URL": ""}, "RPC_TRANSPORT=postgres needs DATABASE_URL."),
        ({"RPC_TRANSPORT": "Postgres"}, "RPC_TRANSPORT is postgrest or postgres."),
        ({"RPC_TRANSPORT": "http"}, "RPC_TRANSPORT is postgrest or postgres."),
        ({"AUTH_CHECK": "none"}, "AUTH_CHECK is claims or user."),
    ],
)
def test_settings__missing_or_unknown(changes: dict[str, str | None], message: str) -> None:
    environment = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    with pytest.raises((RuntimeError, ValueError)) as caught:
        from_environment(environment)
    assert str(caught.value) == message
    assert "t0p" not in str(caught.value)


@pytest.mark.parametrize(("transport", "kind"), [("postgres", PostgresTransport), ("postgrest", PostgrestTransport)])
def test_services__transport(transport: str, kind: type) -> None:
    environment = GOOD | {"RPC_TRANSPORT": transport, "DATABASE_URL": "postgresql://a:t0p@db/x"}
    made = services.make(from_environment(environment))
    try:
        assert isinstance(made.transport, kind)
        assert "t0p" not in repr(made)
    finally:
        made.close()


@pytest.mark.parametrize("password", ["se%zzcret", "hunter 2", "pa@ss"], ids=["percent", "space", "at sign"])
def test_postgres_transport__password_not_percent_encoded(password: str) -> None:
    with pytest.raises(ValueError, match="Percent-encode") as caught:
        PostgresTransport(f"postgresql://a:{password}@127.0.0.1:9/x")
    assert caught.value.__context__ is None
