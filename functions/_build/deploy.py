"""`make deploy`: builds the bundles and runs SAM, which asks for parameters the first time and stores them."""

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
SAM_CONFIG = TEMPLATE.with_name("samconfig.toml")
STACK = "sync-control-plane"
TRANSPORTS = {"postgrest": bundle.API, "postgres": bundle.POSTGRES_TRANSPORT}


def build_zips(transport: str) -> None:
    """Builds the zips where the template expects them. Raises NoInterpreter, CalledProcessError if pip fails."""
    folder = bundle.FOLDER / "deploy"
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in (("api", TRANSPORTS[transport]), ("worker", bundle.WORKER)):
        shutil.copyfile(bundle.build(target), folder / f"{name}.zip")


def command(transport: str, parameters: list[str]) -> list[str]:
    """The `sam` command. Other parameters keep the values that the stack has."""
    overrides = [f"Release={int(time.time())}", f"RpcTransport={transport}", *parameters]
    first = [] if SAM_CONFIG.exists() else ["--guided", "--stack-name", STACK, "--capabilities", "CAPABILITY_IAM"]
    files = ["--template-file", str(TEMPLATE), "--config-file", str(SAM_CONFIG)]
    return ["sam", "deploy", *files, *first, "--parameter-overrides", *overrides]


def main() -> None:
    transport = os.environ.get("TRANSPORT") or "postgrest"
    if transport not in TRANSPORTS:
        sys.exit(f"Unknown TRANSPORT. Use {' or '.join(TRANSPORTS)}.")
    if not shutil.which("sam"):
        sys.exit("sam is not installed. Install it: pipx install aws-sam-cli")
    try:
        build_zips(transport)
    except NoInterpreter as missing:
        sys.exit(str(missing))
    sys.exit(subprocess.run(command(transport, os.environ.get("PARAMETERS", "").split()), check=False).returncode)


if __name__ == "__main__":
    main()
