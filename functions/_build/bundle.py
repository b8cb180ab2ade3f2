"""`make bundle`: the zips that run as Lambdas. The same sources, pins and Python make the same bytes everywhere."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from functions._build import interpreter
from functions._local.schema import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

Arch = Literal["arm64", "x86_64"]

SOURCES = ROOT / "functions"
FOLDER = ROOT / ".bundle"
RUNTIME_FOLDER = "/var/task"
ARCH: Arch = "arm64"  # this and the version as template.yaml has them
VERSION = "3.13"

# Amazon Linux 2023 has glibc 2.34; pip takes a wheel for an older one only where that is named too.
_GLIBC_MINORS = range(34, 16, -1)
_MACHINES: dict[Arch, str] = {"arm64": "aarch64", "x86_64": "x86_64"}
# botocore describes every service of AWS: 27 MB of which these are used.
_AWS = {"endpoints.json", "partitions.json", "sdk-default-configuration.json", "_retry.json", "sqs", "secretsmanager"}
# pip writes scripts for a machine, and a list of what it wrote there: no two runs alike.
_LEFT_OUT = ("bin", "*.dist-info/RECORD", "*.dist-info/direct_url.json", "*.dist-info/REQUESTED")

_PIP = (
    "--quiet", "--disable-pip-version-check", "--root-user-action=ignore", "--no-deps", "--require-hashes",
    "--only-binary=:all:", "--no-compile",
)  # fmt: skip


@dataclass(frozen=True)
class Bundle:
    """A zip, its name, the file of its pins, and what of functions/ is in it, as patterns."""

    name: str
    requirements: str
    sources: tuple[str, ...]
    unused: tuple[str, ...] = ()  # of its dependencies


_FAMILIES = sorted({file.parent.name for file in SOURCES.glob("[!_]*/__init__.py")} - {"worker"})
_SHARED = ("__init__.py", "_shared/**/*.py", "_connections/*.py")
_API = (*_SHARED, *(f"{family}/*.py" for family in _FAMILIES))
# httpcore imports them if they are there: anyio for asynchronous calls, which only the worker makes; the others for
# HTTP/2, which is not used.
_UNUSED = ("anyio*", "h2*", "hpack*", "hyperframe*")
API = Bundle("sync-control-plane-api", "api", _API, _UNUSED)
POSTGRES_TRANSPORT = Bundle("sync-control-plane-postgres-transport", "postgres-transport", _API, _UNUSED)
WORKER = Bundle("sync-control-plane-worker", "worker", (*_SHARED, "worker/**/*.py"))
BUNDLES = (API, POSTGRES_TRANSPORT, WORKER)


def build(bundle: Bundle, arch: Arch = ARCH, version: str = VERSION, folder: Path = FOLDER) -> Path:
    """The zip's path. Raises NoInterpreter; CalledProcessError when pip cannot install."""
    python = interpreter.find(version)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        content = Path(name)
        _install(bundle, arch, version, python, content)
        _prune(bundle, content)
        # Tracebacks quote our own sources. Of others' code they name file and line, and a sixth of the zip is saved.
        _compile(python, content, content, "-b")
        for source in content.rglob("*.py"):
            source.unlink()
        _copy(bundle, content)
        _compile(python, content / "functions", content)
        return _pack(content, folder / file_name(bundle, arch, version))


def file_name(bundle: Bundle, arch: Arch = ARCH, version: str = VERSION) -> str:
    return f"{bundle.name}-{arch}-py{version}.zip"


def _install(bundle: Bundle, arch: Arch, version: str, python: Path, content: Path) -> None:
    """The bundle's Python runs pip: its version decides which lines of the pins hold."""
    tags = [f"manylinux_2_{minor}_{_MACHINES[arch]}" for minor in _GLIBC_MINORS] + [f"manylinux2014_{_MACHINES[arch]}"]
    target = ["--implementation=cp", f"--python-version={version}", *(f"--platform={tag}" for tag in tags)]
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", *_PIP, *target]
    subprocess.run([*command, f"--target={content}", f"--requirement={_pins(bundle)}"], check=True)


def _prune(bundle: Bundle, content: Path) -> None:
    unused = [path for path in (content / "botocore" / "data").iterdir() if path.name not in _AWS]
    for path in [*unused, *(path for pattern in (*_LEFT_OUT, *bundle.unused) for path in content.glob(pattern))]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _copy(bundle: Bundle, content: Path) -> None:
    for source in _sources(bundle):
        copy = content / source.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)


def inputs(bundle: Bundle) -> list[Path]:
    """The files that it is made of."""
    return [_pins(bundle), *_sources(bundle)]


def _pins(bundle: Bundle) -> Path:
    return SOURCES / "requirements" / f"{bundle.requirements}.txt"


def _sources(bundle: Bundle) -> Iterator[Path]:
    for pattern in bundle.sources:
        yield from SOURCES.glob(pattern)


def _compile(python: Path, folder: Path, content: Path, *options: str) -> None:
    """Unchecked: nothing is compared with its source at run time. No path of this machine is in it."""
    command = [str(python), "-I", "-m", "compileall", "-q", "-f", "--invalidation-mode=unchecked-hash", *options]
    subprocess.run([*command, f"-s{content}", f"-p{RUNTIME_FOLDER}", str(folder)], check=True)


def _pack(content: Path, archive: Path) -> Path:
    """Appears when it is whole."""
    unfinished = archive.with_suffix(".part")
    with zipfile.ZipFile(unfinished, "w") as packed:
        for file in sorted(path for path in content.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(file.relative_to(content).as_posix())  # dated 1980
            entry.external_attr = 0o100644 << 16
            entry.create_system = 3  # Unix
            packed.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED, 9)
    return unfinished.replace(archive)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bundle", description=__doc__)
    parser.add_argument("--arch", choices=_MACHINES, default=ARCH)
    parser.add_argument("--python", default=VERSION)
    given = parser.parse_args()
    try:
        for bundle in BUNDLES:
            archive = build(bundle, given.arch, given.python)
            print(f"{archive.relative_to(ROOT)}  {archive.stat().st_size / 2**20:.1f} MiB")
    except interpreter.NoInterpreter as missing:
        sys.exit(str(missing))


if __name__ == "__main__":
    main()
