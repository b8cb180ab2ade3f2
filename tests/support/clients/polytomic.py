"""The vendor's published clients, each version in its own process, called by the method names of the newest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from functions._local.orphans import dies_with_parent
from tests.support.clients.javascript import node
from tests.support.installed import NODE_MODULES, installed

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Release:
    """A published version, and its differences from the newest."""

    name: str
    versions: tuple[str | None, ...] = (None, "2023-04-25", "2024-02-08", "2025-09-18")  # that it can request
    constructor: Literal["Polytomic", "AsyncPolytomic", "PolytomicClient"] = "Polytomic"
    url_option: str = "base_url"
    version_option: str = "version"
    always_sends_version: bool = False
    delete: str = "remove"
    start_bulk_sync: str = "bulk_sync.start"
    schedule: tuple[str, str] = ("schedule", "BulkSchedule")
    schema: str | None = "SchemaConfiguration"  # the type of a schema that is chosen; None: its id alone
    model_is_body: bool = False  # of the request that creates it
    mapping: str = "ModelSyncField"
    target: str = "Target"
    untyped_error: str = "ApiError"
    typed_errors: bool = True  # others than UnauthorizedError
    typed_unauthorized: bool = True
    retries: bool = True  # by default; the others on request
    cancels: bool = True
    tests_connections: bool = True

    @property
    def version(self) -> str:
        return self.name.split()[1]

    def __str__(self) -> str:
        return self.name


CURRENT = Release(
    "python 25.9.10",
    always_sends_version=True,
    delete="delete",
    schedule=("default_schedule", "BulkSyncDefaultScheduleRequest"),
    mapping="SyncField",
    target="ModelSyncV5Target",
    typed_unauthorized=False,
)
CURRENT_ASYNC = replace(CURRENT, name="python 25.9.10 async", constructor="AsyncPolytomic")
PYTHON_1 = Release("python 1.18.0", retries=False)
PYTHON_0 = Release(
    "python 0.1.2",
    versions=(None, "2023-04-25"),
    version_option="x_polytomic_version",
    start_bulk_sync="bulk_sync.executions.start",
    schema=None,
    typed_errors=False,
    retries=False,
    cancels=False,
    tests_connections=False,
)
NPM = Release(
    "npm 1.18.1",
    constructor="PolytomicClient",
    url_option="environment",
    model_is_body=True,
    untyped_error="PolytomicError",
)
# The oldest needs pydantic.v1, which ends with Python 3.13.
RELEASES = [CURRENT, CURRENT_ASYNC, PYTHON_1, *([PYTHON_0] if sys.version_info < (3, 14) else []), NPM]


class ClientError(Exception):
    """An error that the client has raised."""

    def __init__(self, error: str, status: int | None, body: Any) -> None:
        super().__init__(error, status, body)
        self.error = error
        self.status = status
        self.body = body


class Published:
    """A running release. `connected` creates its clients."""

    def __init__(self, release: Release) -> None:
        self.release = release
        self._process = subprocess.Popen(
            _command(release),
            env=_environment(release),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the test run, which stops it in order
            preexec_fn=dies_with_parent(signal.SIGKILL),  # noqa: PLW1509 (one call of prctl, no lock is taken)
        )

    def connected(self, url: str, token: str, version: str | None = None) -> Client:
        options = {self.release.url_option: url, "token": token}
        return Client(self, options if version is None else {**options, self.release.version_option: version})

    def send(self, call: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(call), file=self._process.stdin, flush=True)
        response = json.loads(self._process.stdout.readline())
        if "error" in response:
            raise ClientError(**response)
        return response["result"]

    def close(self) -> None:
        self._process.communicate(timeout=30)
        assert self._process.returncode == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _command(release: Release) -> list[Path | str]:
    if release is NPM:
        installed("polytomic", NODE_MODULES / "polytomic")
        return [node(), HERE / "polytomic_driver.mjs"]
    # -P: the driver's own folder is not on the path.
    return [sys.executable, "-P", HERE / "polytomic_driver.py"]


def _environment(release: Release) -> dict[str, str]:
    if release is NPM:
        return {"PATH": os.defpath}
    folder = Path(sys.prefix) / "polytomic" / release.version
    installed(release.name, folder / "installed", "make polytomic")
    return {"PATH": os.defpath, "PYTHONPATH": str(folder)}


class Client:
    """One client. `client("bulk_sync.get", id)` returns the method's result as JSON, or raises ClientError."""

    def __init__(self, published: Published, options: dict[str, str]) -> None:
        self._published = published
        self._options = options
        self.release = published.release

    def __call__(self, method: str, *positional: Any, **named: Any) -> Any:
        call = {"method": method, "positional": positional, "named": named}
        constructor = self.release.constructor
        return self._published.send({"constructor": constructor, "options": self._options, "call": call})

    def typed(self, name: str, **fields: Any) -> dict[str, Any]:
        """An object of a type of the release. JavaScript has no types at runtime."""
        return fields if self.release is NPM else {"$type": name, **fields}
