"""Versions of what was measured, and the Postgres settings that decide durability."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

from functions._local import postgrest
from tests.bench import installed

if TYPE_CHECKING:
    from pathlib import Path

    import psycopg

PACKAGES = {
    "plain": "supabase",
    "procrastinate": "procrastinate",
    "pgqueuer": "pgqueuer",
    "dlt": "dlt",
    "singer": "meltanolabs-target-postgres",
}
SETTINGS = ("synchronous_commit", "fsync", "full_page_writes", "shared_buffers")


def sentence(admin: psycopg.Connection[Any]) -> str:
    named = [
        f"{os.cpu_count()} cores",
        _output(installed.PYTHON, "--version"),
        f"Postgres {admin.info.parameter_status('server_version')}",
        _output(postgrest.binary(), "--version"),
        _output(installed.DENO, "--version").partition(" (")[0],
        _output(installed.NODE, "--version").replace("v", "Node "),
        *(f"{name} {_npm(at, name)}" for at, name in _npm_packages()),
        *(f"{name} {_version(folder, name)}" for folder, name in PACKAGES.items()),
    ]
    settings = [f"{name} {admin.execute(f'show {name}'.encode()).fetchall()[0][0]}" for name in SETTINGS]
    return f"On {', '.join(named)}; Postgres with {', '.join(settings)}, the same for all."


def _output(program: Path, option: str) -> str:
    if installed.missing(program):
        return f"no {program.name}"
    done = subprocess.run([program, option], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()[0].strip()


def _npm_packages() -> list[tuple[Path, str]]:
    engines = [(installed.ENGINES_NPM, name) for name in ("graphile-worker", "pg-boss")]
    return [(installed.NPM, "@supabase/supabase-js"), *engines]


def _npm(folder: Path, name: str) -> str:
    file = folder / name / "package.json"
    return str(json.loads(file.read_text())["version"]) if file.exists() else "(not installed)"


def _version(folder: str, name: str) -> str:
    found = importlib.metadata.distributions(name=name, path=[str(installed.folder(folder))])
    return next((one.version for one in found), "(not installed)")
