"""Every import delays each cold start. This list makes a new one visible in a diff."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import pytest

from functions._local.schema import ROOT
from functions._shared import registry

# In a fresh interpreter: imports the module of one endpoint, and calls the database through one transport.
SCRIPT = """
import importlib, json, sys
before = set(sys.modules)
from functions._shared import services
from functions._shared.caller import Caller
from functions._shared.settings import Settings
importlib.import_module(sys.argv[2])
url = "postgresql://a@127.0.0.1:9/x"
outside = {"database_url": url, "secret_store": "secretsmanager"}
settings = Settings("http://127.0.0.1:9", "k", rpc_transport=sys.argv[1], **outside)
try:
    services.make(settings).transport.call("f", {}, Caller("t", {"role": "authenticated"}))
except Exception as error:
    assert error.code == "database_unavailable", error
print(json.dumps(sorted(name for name in set(sys.modules) - before)))
"""

# The official client of Auth, and what it is built on.
ALWAYS = {
    "annotated_types", "certifi", "cryptography", "h11", "httpcore", "httpx", "idna", "jwt", "pydantic",
    "pydantic_core", "supabase_auth", "typing_extensions", "typing_inspection",
}  # fmt: skip
TRANSPORTS = {
    "postgrest": {"deprecation", "multidict", "packaging", "postgrest", "propcache", "yarl"},
    "postgres": {"psycopg", "psycopg_binary"},
}
# httpx and httpcore import them if they are there: httpx's command line, HTTP/2. They are in no API bundle.
IF_INSTALLED = {"anyio", "click", "h2", "hpack", "hyperframe", "pygments", "rich"}


# One module per family, and what families share with others.
MODULES = sorted({endpoint.module.rpartition(".")[0]: endpoint.module for endpoint in registry.endpoints()}.values())
SOURCE_CHECK = {"functions._connections", "functions._connections.source_check"}
SHARED = {
    "functions.bulk_sync": {"functions.connection"},
    "functions.connection": SOURCE_CHECK,
    "functions.model": {"functions.connection", *SOURCE_CHECK},
    "functions.model_sync": {"functions.connection", "functions.model"},
    "functions.sync_job_run": {
        "functions.connection",
        "functions.sync_job",
        "functions.sync_job.get_sync_job",  # a run has the resources of its job
        "functions.webhook",
    },
}


@cache
def imported(transport: str, module: str) -> frozenset[str]:
    command = [sys.executable, "-c", SCRIPT, transport, module]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return frozenset(json.loads(run.stdout))


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_imports__third_party_packages_per_transport(transport: str, module: str) -> None:
    found = {name.partition(".")[0] for name in imported(transport, module)} - sys.stdlib_module_names - IF_INSTALLED
    # Compiled helpers have names of their build or platform.
    assert {name for name in found if not name.startswith("_") and "cython" not in name} == {
        "functions",
        *ALWAYS,
        *TRANSPORTS[transport],
    }


@pytest.mark.parametrize("module", [endpoint.module for endpoint in registry.endpoints()])
def test_imports__no_other_family_and_no_worker(module: str) -> None:
    """An endpoint imports modules of its own family, and of others only what SHARED lists."""
    ours = {name for name in imported("postgres", module) if name.startswith("functions.")}
    others = {name for name in ours if not name.startswith("functions._shared")}
    family = module.rpartition(".")[0]
    foreign = {name for name in others if name != family and not name.startswith(f"{family}.")}
    assert module in others
    assert foreign <= SHARED.get(family, set())
    assert not {name for name in ours if name.endswith((".openapi", ".registry"))}
