"""Real servers and tools that not every machine has. Without them a test is skipped; in CI it fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from functions._build import bundle, interpreter
from functions._local.schema import ROOT

NODE_MODULES = ROOT / "tests" / "node_modules"
WITH_NPM = "npm ci --prefix tests"


def installed(what: str, path: Path, command: str = WITH_NPM) -> Path:
    """The path, which this command installs."""
    if not path.exists():
        message = f"There is no {what} at {path}. Install it: {command}"
        if os.environ.get("CI"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return path


DEBIAN_PACKAGES = "postgresql-15-pgtap postgresql-15-plpgsql-check libtap-parser-sourcehandler-pgtap-perl"


def debian_postgres() -> Path:
    """The binaries of Debian's Postgres 15, which has the extensions for `supabase test db` and `supabase db lint`."""
    command = f"apt-get install {DEBIAN_PACKAGES}"
    for extension in ("pgtap", "plpgsql_check"):
        installed(extension, Path(f"/usr/share/postgresql/15/extension/{extension}.control"), command)
    return installed("Postgres 15", Path("/usr/lib/postgresql/15/bin"), command)


def pg_prove() -> Path:
    return installed("pg_prove", Path("/usr/bin/pg_prove"), f"apt-get install {DEBIAN_PACKAGES}")


def bundle_python() -> Path:
    """The Python of the bundles."""
    try:
        return interpreter.find(bundle.VERSION)
    except interpreter.NoInterpreter:
        name = f"python{bundle.VERSION}"
        return installed(name, Path(name), interpreter.command(bundle.VERSION))
