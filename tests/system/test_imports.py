"""What a function imports is paid for at every cold start: the list is held here, so that a new one shows in a diff."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import pytest

from functions._local.schema import ROOT
from functions._shared import registry

# In a fresh interpreter: the module of one endpoint, then what it needs to answer through this door.
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


# Of each family one; and whatever a family's published contract shares with another's.
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
        "functions.sync_job.get_sync_job",  # the resources of a run are a job's
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
def test_a_function_imports_what_its_door_needs(transport: str, module: str) -> None:
    found = {name.partition(".")[0] for name in imported(transport, module)} - sys.stdlib_module_names - IF_INSTALLED
    # Compiled helpers carry names of their build, and a platform's.
    assert {name for name in found if not name.startswith("_") and "cython" not in name} == {
        "functions",
        *ALWAYS,
        *TRANSPORTS[transport],
    }


@pytest.mark.parametrize("module", [endpoint.module for endpoint in registry.endpoints()])
def test_a_function_imports_none_of_another_family_and_nothing_of_the_worker(module: str) -> None:
    """Its own family's modules, as far as they share models; of another's only what is said to be for all."""
    ours = {name for name in imported("postgres", module) if name.startswith("functions.")}
    others = {name for name in ours if not name.startswith("functions._shared")}
    family = module.rpartition(".")[0]
    foreign = {name for name in others if name != family and not name.startswith(f"{family}.")}
    assert module in others
    assert foreign <= SHARED.get(family, set())
    assert not {name for name in ours if name.endswith((".openapi", ".registry"))}
