"""`make demo` shows for each family what it claims."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from functions._local.demo_scenarios import SCENARIOS
from functions._local.schema import ROOT

# The status that the cancel returns, and the last counts.
ENDS = {
    "historical-sync": ("'status': 'cancelled'", "The connection now has 336,776."),
    "bulk-sync": ("'status': 'canceling'", "It stored 367,687 records. The connection now has 367,687."),
    "sync-job-run": ("'status': 'stopped'", "It stored 336,776 records."),
    "model-sync": ("'status': 'canceling'", "inserted 3,322 and updated 0"),
}


def demo(family: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "functions._local.demo"],
        cwd=ROOT,
        env={**os.environ, "FAMILY": family},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


@pytest.mark.parametrize("family", SCENARIOS)
def test_demo__family(family: str) -> None:
    run = demo(family)
    assert run.returncode == 0, run.stdout + run.stderr
    cancelled, ended = ENDS[family]
    assert cancelled in run.stdout
    assert "No record is newer than the cancel." in run.stdout
    assert ended in run.stdout


def test_demo__unknown_family() -> None:
    run = demo("bulk_sync")
    assert run.returncode == 1
    assert run.stderr.strip() == "Unknown FAMILY. Use historical-sync, bulk-sync, model-sync, sync-job-run."
