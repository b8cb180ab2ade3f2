"""`make deploy`: the bundles, then SAM. It asks for the settings the first time, and keeps them beside the template."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

from functions._build import bundle
from functions._build.interpreter import NoInterpreter
from functions._local.schema import ROOT

TEMPLATE = ROOT / "functions" / "template.yaml"
ANSWERS = TEMPLATE.with_name("samconfig.toml")
STACK = "sync-control-plane"
TRANSPORTS = {"postgrest": bundle.API, "postgres": bundle.POSTGRES_TRANSPORT}


def place(transport: str) -> None:
    """The zips, where the template looks for them. Raises NoInterpreter; CalledProcessError when pip cannot install."""
    placed = bundle.FOLDER / "deploy"
    placed.mkdir(parents=True, exist_ok=True)
    for name, made in (("api", TRANSPORTS[transport]), ("worker", bundle.WORKER)):
        shutil.copyfile(bundle.build(made), placed / f"{name}.zip")


def command(transport: str, parameters: list[str]) -> list[str]:
    """Parameters that are not named here keep the values that the stack has."""
    overrides = [f"Release={int(time.time())}", f"RpcTransport={transport}", *parameters]
    first = [] if ANSWERS.exists() else ["--guided", "--stack-name", STACK, "--capabilities", "CAPABILITY_IAM"]
    files = ["--template-file", str(TEMPLATE), "--config-file", str(ANSWERS)]
    return ["sam", "deploy", *files, *first, "--parameter-overrides", *overrides]


def main() -> None:
    transport = os.environ.get("DOOR") or "postgrest"
    if transport not in TRANSPORTS:
        sys.exit(f"DOOR is {' or '.join(TRANSPORTS)}.")
    if not shutil.which("sam"):
        sys.exit("There is no sam. Install it: pipx install aws-sam-cli")
    try:
        place(transport)
    except NoInterpreter as missing:
        sys.exit(str(missing))
    sys.exit(subprocess.run(command(transport, os.environ.get("PARAMETERS", "").split()), check=False).returncode)


if __name__ == "__main__":
    main()
