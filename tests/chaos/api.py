"""schemathesis on the served OpenAPI document: every endpoint, with and without credentials. No response is a server
error, undocumented, or different from its schema.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx

from functions._local.schema import ROOT
from tests.chaos.agency import Agency
from tests.chaos.checker import SourceChecker

if TYPE_CHECKING:
    from random import Random

    from tests.chaos.report import Report
    from tests.chaos.target import Target

BINARY: Final = ROOT / ".venv" / "schemathesis" / "bin" / "st"
SECONDS: Final = 10  # a round
CHECKS: Final = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "ignored_auth",
    "unsupported_method",
    "allow_header_conformance",
)


class Api:
    """The ids in the document's examples are those of an agency's objects."""

    def __init__(self, target: Target, report: Report) -> None:
        self._target = target
        self._report = report
        self._checker = SourceChecker(target)
        self._client = httpx.Client(timeout=30)
        self._agency = Agency(target, self._client)
        self._stranger = target.person(None).token

    def round(self, chance: Random) -> None:
        if not BINARY.exists():
            missing = f"schemathesis was not run: {BINARY.relative_to(ROOT)} is not installed (make chaos)."
            if os.environ.get("CI"):
                raise RuntimeError(missing)
            self._report.note(missing)
            return
        self._agency.furnish()
        callers = {
            "a user": self._agency.headers["authorization"],
            "a server": f"Bearer {self._agency.key}",
            "a user without agency": f"Bearer {self._stranger}",
            "an anonymous caller": None,
        }
        caller = chance.choice(["a user", "a user", *callers])
        setup = self._target.function_urls[chance.choice([*self._target.function_urls])]
        with tempfile.TemporaryDirectory(prefix="schemathesis-") as folder:
            document = self._client.get(f"{setup}/openapi.json").json()
            Path(folder, "openapi.json").write_text(json.dumps(self._with_ids(document)))
            self._report_failures(caller, _run(Path(folder), setup, callers[caller], chance.randrange(1 << 30)))

    def _with_ids(self, document: dict[str, Any]) -> dict[str, Any]:
        for path in document["paths"].values():
            for operation in path.values():
                for parameter in operation["parameters"]:
                    if "example" in parameter:
                        name, example = parameter["name"], parameter["example"]
                        parameter["example"] = self._with_id(operation["operationId"], name, example)
                for content in operation.get("requestBody", {}).get("content", {}).values():
                    content["example"] = self._with_id(operation["operationId"], "", content["example"])
        return document

    def _with_id(self, endpoint: str, member: str, it: Any) -> Any:
        if isinstance(it, dict):
            return {name: self._with_id(endpoint, name, one) for name, one in it.items()}
        if isinstance(it, list):
            return [self._with_id(endpoint, member, one) for one in it]
        return self._agency.real(endpoint, member, it)

    def _report_failures(self, caller: str, found: dict[str, Any]) -> None:
        self._report.count(f"calls of {caller}", found["test_cases"]["generated"])
        for failure in (*found["failures"], *found["errors"]):
            self._report.violation(f"schemathesis, {caller}: {json.dumps(failure)}")

    def close(self) -> None:
        self._checker.close()
        self._client.close()


def _run(folder: Path, setup: str, authorization: str | None, seed: int) -> dict[str, Any]:
    """The report of schemathesis. Raises RuntimeError if it writes none."""
    credentials = ["--header", f"Authorization: {authorization}"] if authorization else []
    done = subprocess.run(
        [
            *(BINARY, "run", "openapi.json", "--url", setup, "--checks", ",".join(CHECKS), "--warnings", "off"),
            *("--seed", str(seed), "--max-time", str(SECONDS), "--phases", "examples,coverage,fuzzing", "--no-shrink"),
            *("--suppress-health-check", "all", "--generation-database", "none", "--continue-on-failure"),
            *("--report-json-path", "report.json", "--request-timeout", "60", *credentials),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    report = folder / "report.json"
    if not report.exists():
        raise RuntimeError(f"schemathesis ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    found: dict[str, Any] = json.loads(report.read_text())
    return found
