"""README: what it names is there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from functions._build.readme import README, with_table
from functions._shared import openapi, registry
from functions._shared.settings import Settings, from_environment

if TYPE_CHECKING:
    from tests.support.database import Database

ROOT = README.parent
TEXT = README.read_text()
# What is set in code or a terminal, as against prose.
CODE = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", TEXT, re.DOTALL))
SOURCES = {path: path.read_text() for path in (ROOT / "functions").rglob("*.py")}
# Where a name without its folder may stand.
FOLDERS = [ROOT, ROOT / "functions", ROOT / "sql"]


def sections() -> dict[str, str]:
    heads = re.split(r"^##+ (.*)$", TEXT, flags=re.MULTILINE)
    return dict(zip(heads[1::2], heads[2::2], strict=True))


def rows(section: str) -> list[list[str]]:
    """The cells of a section's last table, but for its head."""
    table = sections()[section].split("|---|")[-1]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines() if line[:2] == "| "]


# Its table is written by `make readme`


def test_the_table_is_the_registrys() -> None:
    assert with_table(TEXT) == TEXT
    for endpoint in registry.endpoints():
        assert TEXT.count(f"\n| `{endpoint.path.removeprefix('/')}` | {endpoint.method} |") == 1


def test_the_table_is_written_anew_and_the_rest_is_left() -> None:
    before, begin, rest = TEXT.partition("<!-- endpoints: make readme -->\n")
    _, end, after = rest.partition("<!-- end -->")
    assert begin
    assert end
    assert with_table(f"{before}{begin}stale\n\n| x |\n{end}{after}") == TEXT
    assert with_table(f"{before}{begin}{end}{after}") == TEXT


# Names


def test_every_make_target_exists() -> None:
    named = set(re.findall(r"\bmake ([a-z]+)", CODE))
    assert {"demo", "test", "serve", "check", "migration"} <= named
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named <= targets


def named_variables() -> set[str]:
    return set(re.findall(r"(?<![A-Z_a-z])[A-Z]+(?:_[A-Z]+)+(?![A-Z_a-z(])|\bPORT\b", CODE))


def test_every_environment_variable_is_read_somewhere() -> None:
    named = named_variables()
    assert {"PORT", "DATABASE_URL", "WORKER_LEASE_SECONDS"} <= named
    for name in named:
        assert any(f'"{name}"' in source for source in SOURCES.values()), name


def test_every_setting_is_explained() -> None:
    explained = {
        name for cells in rows("Pointing it at a Supabase project") for name in re.findall(r"[A-Z_]{4,}", cells[0])
    }
    assert {name.upper() for name in Settings.__dataclass_fields__} <= explained
    worker = {name for source in SOURCES.values() for name in re.findall(r'"(WORKER_[A-Z_]+)"', source)}
    assert worker <= explained


def test_the_defaults_are_the_codes() -> None:
    given = {"SUPABASE_URL": "http://project", "SUPABASE_ANON_KEY": "k"}
    settings = from_environment(given)
    compared = set()
    for names, default, _ in rows("Pointing it at a Supabase project"):
        for name, value in zip(re.findall(r"[A-Z_]{4,}", names), default.replace("`", "").split(", "), strict=False):
            if name in given or value == "–" or name == "AUTH_ISSUER":  # as README says, $SUPABASE_URL/auth/v1
                continue
            compared.add(name)
            if name.startswith("WORKER_"):
                assert any(f'"{name}", "{value}"' in source for source in SOURCES.values()), name
            else:
                found = getattr(settings, name.lower())
                assert (",".join(found) if isinstance(found, tuple) else found) == value
    assert {
        "RPC_TRANSPORT",
        "AUTH_CHECK",
        "CORS_ALLOWED_ORIGINS",
        "WORKER_CONCURRENCY",
        "WORKER_TICK_SECONDS",
    } <= compared


def test_every_path_exists() -> None:
    named = {
        name
        for name in re.findall(
            r"(?<![\w/<>$.*-])(?:[\w.-]+/)*(?:[\w.-]+\.(?:py|sql|toml|md)\b|[\w.-]+/(?![\w/{<]))", CODE
        )
        if name not in {"supabase/", ".bundle/"}  # the folder of the CLI, and one that is made
    }
    assert {"_shared/lambda_adapter.py", "functions/worker/", "engine.py", "migrations/"} <= named
    for name in named:
        assert any((folder / name).exists() or [*folder.rglob(f"{name}")] for folder in FOLDERS), name


def test_every_link_within_it_leads_somewhere() -> None:
    heads = {f"#{head.lower().replace(' ', '-')}" for head in re.findall(r"^##+ (.*)$", TEXT, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert target.startswith("https://") or target in heads or (ROOT / target).exists(), target


def test_every_module_that_is_run_exists() -> None:
    named = set(re.findall(r"python -m ([\w.]+)", CODE))
    assert named
    for name in named:
        path = ROOT.joinpath(*name.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name


def test_every_url_is_an_endpoints() -> None:
    paths = {f"/functions/v1{endpoint.path}" for endpoint in registry.endpoints()} | {"/functions/v1/openapi.json"}
    # But for what begins many: a family's, split off.
    named = set(re.findall(r"/functions/v1/[\w.-]+(?![\w.-]|/\w+/\{proxy)", TEXT))
    assert named
    assert named <= paths
    assert {f"/functions/v1/{name}" for name in re.findall(r"invoke\('([\w-]+)'", TEXT)} <= paths


@pytest.mark.sql
def test_every_name_in_the_database_exists(database: Database) -> None:
    named = set(re.findall(r"\b(?:app|public)\.[a-z_]+\b", CODE)) - {"app.py"}
    named |= {f"public.{view}" for view in re.findall(r"supabase\.from\('([a-z_]+)'\)", CODE)}
    assert {"app.next_status", "public.users", "public.historical_sync_jobs"} <= named
    for name in named:
        found = database.one(
            "select to_regclass(%(name)s) is not null or exists (select from pg_proc as p"
            " where p.pronamespace::regnamespace || '.' || p.proname = %(name)s) as exists",
            {"name": name},
        )
        assert found["exists"], name


# Errors


def test_the_table_of_errors_is_the_apis() -> None:
    documented = {
        (refusal.status, refusal.code) for endpoint in registry.endpoints() for refusal in openapi.errors(endpoint)
    }
    named = {int(status): when for status, when in rows("The endpoints")}
    assert set(named) == {status for status, _ in documented}
    codes = {code for _, code in documented}
    for status, when in named.items():
        for code in codes & set(re.findall(r"`([a-z_]+)`", when)):
            assert (status, code) in documented
    assert "`already_active`" in named[409]


def test_the_project_is_named_by_itself_alone() -> None:
    """No path of the machine that it was made on."""
    assert not re.findall(r"(?<![\w.])/(?:work|home|root|Users)/\S*", TEXT)
