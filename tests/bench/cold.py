"""Cold starts: from the start of a process to its first response to a cancel, run as a cloud's runtime would."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import tempfile
import time
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from functions._local.schema import ROOT
from tests.bench import installed
from tests.bench.figures import Goal, Table, median, milliseconds
from tests.bench.processes import start
from tests.bench.stack import CANCEL_PATH, deno_command, deno_environment, edge_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.bench.stack import BenchStack

DRIVERS = installed.HERE / "drivers"
ALONE, REGISTRY, HS256, PLAIN, EDGE = (
    "ours, this function", "ours, all functions", "ours, all functions, HS256", "supabase-py", "edge function, Deno",
)  # fmt: skip


@dataclass(frozen=True)
class Runtime:
    """A command that reads events from stdin."""

    name: str
    command: Sequence[str | Path]
    environment: Mapping[str, str]
    cwd: Path
    token: str


def run(stack: BenchStack, rounds: int) -> dict[str, list[float]]:
    """Seconds by runtime. The first round fills the file system's cache and does not count."""
    with ExitStack() as exit_stack:
        folder = Path(exit_stack.enter_context(tempfile.TemporaryDirectory(prefix="cold-")))
        runtimes = [*_ours(stack, folder / "ours"), *_plain(stack, folder / "plain")]
        if not installed.missing(installed.DENO):
            edge = edge_folder()
            exit_stack.callback(shutil.rmtree, edge, ignore_errors=True)
            runtimes.append(_edge(stack, edge))
        seconds: dict[str, list[float]] = {one.name: [] for one in runtimes}
        for number in range(rounds + 1):
            turn = number % len(runtimes)
            for one in [*runtimes[turn:], *runtimes[:turn]]:
                taken = _start(one, stack.queue(1)[0])
                if number:
                    seconds[one.name].append(taken)
        return seconds


def _start(runtime: Runtime, job_id: str) -> float:
    event = {
        "version": "2.0",
        "rawPath": CANCEL_PATH,
        "rawQueryString": "",
        "headers": {"Authorization": f"Bearer {runtime.token}", "Content-Type": "application/json"},
        "requestContext": {"http": {"method": "POST"}},
        "body": json.dumps({"job_id": job_id}),
        "isBase64Encoded": False,
    }
    with tempfile.TemporaryFile() as log:
        begun = time.perf_counter()
        process = start(runtime.command, runtime.environment, log.fileno(), runtime.cwd, piped=True)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(event).encode() + b"\n")
            process.stdin.flush()
            response = process.stdout.readline()
            seconds = time.perf_counter() - begun
        finally:
            process.kill()
            process.communicate()
        log.seek(0)
        if not response or json.loads(response)["statusCode"] != 200:
            raise RuntimeError(f"{runtime.name}: {response!r}\n{log.read().decode(errors='replace')[-2000:]}")
    return seconds


def _python(folders: Sequence[Path], module: str, name: str) -> list[str | Path]:
    path = ":".join(str(one) for one in folders)
    return [installed.PYTHON, "-I", "-S", "-B", DRIVERS / "lambda_runtime.py", path, module, name]


def _ours(stack: BenchStack, folder: Path) -> list[Runtime]:
    folders = _bundle(folder)
    environment = {**stack.environment, "RPC_TRANSPORT": "postgrest", "AWS_LAMBDA_FUNCTION_NAME": "api"}
    all_of_them = _python(folders, "functions._shared.registry", "handler")
    one = _python(folders, "functions.historical_sync.cancel_historical_sync", "handler")
    return [
        Runtime(ALONE, one, environment, folder, stack.tokens["ES256"]),
        Runtime(REGISTRY, all_of_them, environment, folder, stack.tokens["ES256"]),
        Runtime(HS256, all_of_them, environment, folder, stack.tokens["HS256"]),
    ]


def _bundle(folder: Path) -> list[Path]:
    """The folders of the unpacked zip, or of what it would contain."""
    if installed.IS_WHOLE and importlib.util.find_spec("functions._build.bundle"):
        bundle = importlib.import_module("functions._build.bundle")
        version = subprocess.run(
            [installed.PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        with zipfile.ZipFile(bundle.build(bundle.API, "x86_64", version, folder.parent)) as packed:
            packed.extractall(folder)
        return [folder]
    shutil.copytree(
        ROOT / "functions", folder / "functions", ignore=shutil.ignore_patterns("_local", "_build", "__pycache__")
    )
    _compile(folder)
    return [folder, installed.folder("functions")]


def _plain(stack: BenchStack, folder: Path) -> list[Runtime]:
    if installed.missing(installed.folder("plain")):
        return []
    folder.mkdir()
    shutil.copy(installed.HERE / "peers" / "plain_function.py", folder)
    _compile(folder)
    command = _python([folder, installed.folder("plain")], "plain_function", "handler")
    return [Runtime(PLAIN, command, stack.environment, folder, stack.tokens["ES256"])]


def _compile(folder: Path) -> None:
    command: list[str | Path] = [
        installed.PYTHON,
        "-m",
        "compileall",
        "-q",
        "--invalidation-mode=unchecked-hash",
        folder,
    ]
    subprocess.run(command, check=True)


def _edge(stack: BenchStack, folder: Path) -> Runtime:
    shutil.copy(DRIVERS / "edge_runtime.ts", folder)
    command = [*deno_command()[:-1], "edge_runtime.ts"]
    return Runtime(EDGE, command, {**stack.environment, **deno_environment(folder)}, folder, stack.tokens["ES256"])


def table(seconds: Mapping[str, Sequence[float]]) -> Table:
    made = Table(("cold start to the first response", "median ms", "shortest", "longest"))
    for name, taken in seconds.items():
        made.add(name, milliseconds(median(taken)), milliseconds(min(taken)), milliseconds(max(taken)))
    return made


def goals(seconds: Mapping[str, Sequence[float]]) -> list[Goal]:
    bounds = {PLAIN: 0.85, EDGE: 4.0}
    return [
        Goal(
            f"cold start, {REGISTRY.removeprefix('ours, ')}, beside {peer}",
            median(seconds[REGISTRY]) / median(seconds[peer]),
            at_most=bound,
        )
        for peer, bound in bounds.items()
        if peer in seconds
    ]
