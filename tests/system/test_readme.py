"""The documentation: what it names exists, and what is generated is up to date."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from functions._build.readme import README as ENDPOINTS
from functions._build.readme import with_table
from functions._local.schema import ROOT
from functions._shared import openapi, registry
from functions._shared.settings import Settings, from_environment
from tests.bench.__main__ import PARTS
from tests.bench.__main__ import README as BENCH
from tests.chaos.run import ATTACKS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.database import Database

pytestmark = pytest.mark.conventions

README = ROOT / "README.md"
DEPLOYING = ROOT / "functions" / "DEPLOYING.md"
CHAOS = ROOT / "tests" / "chaos" / "README.md"
PAGES = [README, ENDPOINTS, DEPLOYING, BENCH, CHAOS, ROOT / "sql" / "README.md"]
PAGES += [page for page in [ROOT / "functions" / "worker" / "README.md"] if page.exists()]
TEXTS = {page: page.read_text() for page in PAGES}
ALL = "\n".join(TEXTS.values())
SOURCES = [path.read_text() for folder in ("functions", "tests") for path in (ROOT / folder).rglob("*.py")]
MAX_LINES = {README: 200, ENDPOINTS: 300, DEPLOYING: 200}

EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def code(text: str) -> str:
    """Code blocks and inline code, without the prose."""
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))


CODE = code(ALL)


def rows(page: Path, heading: str) -> list[list[str]]:
    """The cells of a section's last table, without its head."""
    section = re.split(rf"^## {heading}$", TEXTS[page], flags=re.MULTILINE)[1].partition("\n## ")[0]
    table = re.split(r"(?:\|---)+\|\n", section)[-1]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines() if line[:2] == "| "]


def slug(heading: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


# Generated parts


def test_endpoint_table__up_to_date() -> None:
    assert with_table(TEXTS[ENDPOINTS]) == TEXTS[ENDPOINTS], "Run `make readme`, and commit functions/README.md."
    for endpoint in registry.endpoints():
        assert TEXTS[ENDPOINTS].count(f"\n| `{endpoint.path[1:]}` | {endpoint.method} |") == 1


def test_endpoint_table__replaced_in_place() -> None:
    before, begin, rest = TEXTS[ENDPOINTS].partition("<!-- endpoints: make readme -->\n")
    _, end, after = rest.partition("<!-- end -->")
    assert begin
    assert end
    assert with_table(f"{before}{begin}stale\n\n| x |\n{end}{after}") == TEXTS[ENDPOINTS]
    assert with_table(f"{before}{begin}{end}{after}") == TEXTS[ENDPOINTS]


def test_endpoint_table__json_names() -> None:
    [create_model_sync] = [line for line in TEXTS[ENDPOINTS].splitlines() if line.startswith("| `api/syncs` | POST |")]
    assert "`fields`" in create_model_sync
    assert "mappings" not in create_model_sync.partition("| 200")[0]


def test_bench_figures__have_a_place() -> None:
    assert TEXTS[BENCH].count("<!-- figures: make bench -->\n") == 1
    assert TEXTS[BENCH].count("<!-- end of figures -->") == 1


# Lengths and names


@pytest.mark.parametrize(("page", "most"), MAX_LINES.items(), ids=lambda value: getattr(value, "name", str(value)))
def test_pages__length(page: Path, most: int) -> None:
    lines = len(TEXTS[page].splitlines())
    assert lines <= most, f"{page.relative_to(ROOT)} has {lines} lines: move reference beside the code it describes."


def test_make_targets__exist() -> None:
    named = set(re.findall(r"\bmake ([a-z-]+)", CODE))
    assert {"demo", "test", "serve", "check", "migration"} <= named
    assert named <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_only__parts_and_attacks_named() -> None:
    for part in PARTS:
        assert f"`{part}`" in TEXTS[BENCH] or f"ONLY={part}`" in TEXTS[BENCH]
    assert [name.strip("`") for name, _ in rows(CHAOS, "Attacks")] == [*ATTACKS]


def test_environment_variables__read_somewhere() -> None:
    text = CODE + (ROOT / "Makefile").read_text()
    named = set(re.findall(r"(?<![A-Z_a-z])[A-Z]+(?:_[A-Z]+)+(?![A-Z_a-z(])|\bPORT\b", CODE))
    assert {"PORT", "DATABASE_URL", "WORKER_LEASE_SECONDS"} <= named
    for name in named:
        read = any(f'"{name}"' in source for source in SOURCES) or f"{name} " in text.partition("# Every target")[2]
        assert read, f"{name} is documented, and nothing reads it."


def test_paths__exist() -> None:
    pattern = r"(?<![\w/<>$.*-])(?:[\w.-]+/)*(?:[\w.-]+\.(?:py|sql|toml|md|yaml)\b|[\w.-]+/(?![\w/{<]))"
    generated = {"supabase/", ".bundle/", ".pyc", "pause_historical_sync.py", "pause_historical_sync.sql"}
    for page, text in TEXTS.items():
        for name in set(re.findall(pattern, code(text))) - generated:
            if name.rpartition("/")[2] in generated or name.endswith("test_pause_historical_sync.py"):
                continue
            folders = [ROOT, page.parent, ROOT / "functions", ROOT / "sql", ROOT / "tests"]
            found = any(
                (folder / name).exists() or [*folder.rglob(name.rpartition("/")[2] or name)] for folder in folders
            )
            assert found, f"{page.relative_to(ROOT)} names {name}, which does not exist."


@EACH_PAGE
def test_links__lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", TEXTS[page]):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.relative_to(ROOT)} links {target}."
        if anchor:
            heads = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in map(slug, heads), f"{page.relative_to(ROOT)} links {target}."


def test_modules__that_are_run_exist() -> None:
    named = set(re.findall(r"python -m ([\w.]+)", CODE))
    assert named
    for name in named:
        path = ROOT.joinpath(*name.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name


def test_urls__are_endpoints() -> None:
    paths = {f"/functions/v1{endpoint.path}" for endpoint in registry.endpoints()}
    paths |= {"/functions/v1/openapi.json", "/functions/v1/pause-historical-sync"}
    # Except for the prefix of a family.
    named = {url.rstrip(".") for url in re.findall(r"/functions/v1/[\w./-]+(?![\w./-]|\{proxy)", ALL)}
    assert named
    assert {name for name in named if not name.startswith("/functions/v1/api/bulk")} <= paths
    assert {f"/functions/v1/{name}" for name in re.findall(r"invoke\('([\w-]+)'", ALL)} <= paths


def test_pages__name_no_path_of_a_machine() -> None:
    assert not re.findall(r"(?<![\w.])/(?:work|home|root|Users)/\S*", ALL)


@pytest.mark.sql
def test_database_names__exist(database: Database) -> None:
    named = set(re.findall(r"\b(?:app|public)\.[a-z_]+\b", CODE)) - {"app.py", "public.pause_historical_sync"}
    named |= {f"public.{view}" for view in re.findall(r"supabase\.from\('([a-z_]+)'\)", CODE)}
    assert {"app.next_status", "public.users", "public.historical_sync_jobs"} <= named
    for name in named:
        schema, _, word = name.partition(".")
        found = database.one(
            "select to_regclass(%(name)s) is not null or exists (select from pg_proc as p"
            " where p.pronamespace::regnamespace::text = %(schema)s and p.proname = %(word)s) as exists",
            {"name": name, "schema": schema, "word": word},
        )
        assert found["exists"], name


# Settings


def test_settings__explained() -> None:
    explained = {name for cells in rows(DEPLOYING, "Settings") for name in re.findall(r"[A-Z_]{4,}", cells[0])}
    assert {name.upper() for name in Settings.__dataclass_fields__} <= explained
    worker = {name for source in SOURCES for name in re.findall(r'get\("(WORKER_[A-Z_]+)"', source)}
    assert worker <= explained


def test_settings__defaults() -> None:
    given = {"SUPABASE_URL": "http://127.0.0.1", "SUPABASE_ANON_KEY": "k"}
    settings = from_environment(given)
    compared = set()
    for names, default, _ in rows(DEPLOYING, "Settings"):
        for name, value in zip(re.findall(r"[A-Z_]{4,}", names), default.replace("`", "").split(", "), strict=False):
            if value == "–" or name == "AUTH_ISSUER":  # documented as $SUPABASE_URL/auth/v1
                continue
            compared.add(name)
            if name.startswith("WORKER_"):
                assert any(f'"{name}", "{value}"' in source for source in SOURCES), name
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


# Errors


def test_error_table__matches_the_endpoints() -> None:
    documented = {(spec.status, spec.code) for endpoint in registry.endpoints() for spec in openapi.errors(endpoint)}
    named = {int(status): when for status, when in rows(ENDPOINTS, "Errors")}
    assert set(named) == {status for status, _ in documented}
    codes = {code for _, code in documented}
    for status, when in named.items():
        for name in codes & set(re.findall(r"`([a-z_]+)`", when)):
            assert (status, name) in documented
    assert "`already_active`" in named[409]
