"""A Python of the version that a bundle is for: `python -m functions._build.interpreter 3.13` prints where it is."""

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
    """Says what to install."""


def find(version: str) -> Path:
    """The first that really runs: a shim on PATH may stand for a version that is not chosen. Raises NoInterpreter."""
    for candidate in _candidates(version):
        found, _, executable = _run([candidate, "-I", "-c", _WHICH]).partition(" ")
        if found == version:
            return Path(executable)
    raise NoInterpreter(f"There is no Python {version}. Install it: {command(version)}")


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
    """What it prints; nothing if it fails."""
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
