"""What a function imports is paid for at every cold start: the list is held here, so that a new one shows in a diff."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from functions._local.schema import ROOT

# In a fresh interpreter: the module of one endpoint, then what it needs to answer through this door.
SCRIPT = """
import json, sys
before = set(sys.modules)
from functions._shared import services
from functions._shared.auth import Caller
from functions._shared.settings import Settings
from functions.historical_sync import cancel_historical_sync
settings = Settings("http://127.0.0.1:9", "k", rpc_door=sys.argv[1], database_url="postgresql://a@127.0.0.1:9/x")
try:
    services.make(settings).rpc.call("f", {}, Caller("t", {"role": "authenticated"}))
except Exception as error:
    assert error.code == "database_unavailable", error
print(json.dumps(sorted(name for name in set(sys.modules) - before)))
"""

# cryptography: ES256 tokens are verified here. pydantic, pyjwt, httpx: the Auth client's, and ours.
EVERYBODY = {
    "annotated_types", "anyio", "certifi", "cryptography", "h11", "h2", "hpack", "httpcore", "httpx", "hyperframe",
    "idna", "jwt", "pydantic", "pydantic_core", "supabase_auth", "typing_extensions", "typing_inspection",
}  # fmt: skip
DOORS = {
    "postgrest": {"deprecation", "multidict", "packaging", "postgrest", "propcache", "yarl"},
    "postgres": {"psycopg", "psycopg_binary"},
}


def imported(door: str) -> set[str]:
    run = subprocess.run([sys.executable, "-c", SCRIPT, door], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout))


@pytest.mark.parametrize("door", DOORS)
def test_a_function_imports_what_its_door_needs(door: str) -> None:
    found = {name.partition(".")[0] for name in imported(door)} - sys.stdlib_module_names
    # Compiled helpers carry names of their build, and a platform's.
    assert {name for name in found if not name.startswith("_") and "cython" not in name} == {
        "functions",
        *EVERYBODY,
        *DOORS[door],
    }


@pytest.mark.parametrize("door", DOORS)
def test_a_function_imports_no_other_and_nothing_of_the_worker(door: str) -> None:
    ours = {name for name in imported(door) if name.startswith("functions.")}
    families = {name for name in ours if not name.startswith("functions._shared")}
    assert families == {"functions.historical_sync", "functions.historical_sync.cancel_historical_sync"}
