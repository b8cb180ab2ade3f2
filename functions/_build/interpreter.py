"""Finds a Python of the bundles' version. `python -m functions._build.interpreter 3.13` prints its path."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_WHICH = "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"


class NoInterpreter(Exception):
    """No interpreter of the version was found. The message says what to install."""


def find(version: str) -> Path:
    """The first one that runs, because a shim on PATH may not. Raises NoInterpreter."""
    for candidate in _candidates(version):
        found, _, executable = _run([candidate, "-I", "-c", _WHICH]).partition(" ")
        if found == version:
            return Path(executable)
    raise NoInterpreter(f"Python {version} is not installed. Install it: {command(version)}")


def command(version: str) -> str:
    return f"uv python install {version} (or pyenv install {version})"


def _candidates(version: str) -> Iterator[str]:
    yield sys.executable
    if on_path := shutil.which(f"python{version}"):
        yield on_path
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions")
    yield from sorted(map(str, versions.glob(f"{version}*/bin/python{version}")), reverse=True)
    uv = shutil.which("uv") or shutil.which("uv", path=Path(sys.executable).parent)
    if uv:
        yield _run([uv, "python", "find", "--no-project", "--no-python-downloads", version])


def _run(command: list[str]) -> str:
    """The output of a command, empty if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


if __name__ == "__main__":
    try:
        print(find(sys.argv[1]))
    except NoInterpreter as missing:
        sys.exit(str(missing))
