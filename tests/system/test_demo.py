"""`make demo` proves what it says, and fails when that does not hold."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from functions._local.demo_scenarios import SCENARIOS
from functions._local.schema import ROOT

# The word that its cancel answers, and what is there at the end.
ENDS = {
    "historical-sync": ("'status': 'cancelled'", "336,776 are there in all."),
    "bulk-sync": ("'status': 'canceling'", "367,687 rows are its own, 367,687 are there in all."),
    "sync-job-run": ("'status': 'stopped'", "336,776 rows are its own"),
    "model-sync": ("'status': 'canceling'", "3,322 inserted, 0 updated"),
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
def test_the_demo_keeps_its_word(family: str) -> None:
    run = demo(family)
    assert run.returncode == 0, run.stdout + run.stderr
    answered, ended = ENDS[family]
    assert answered in run.stdout
    assert "and none is younger than the cancel." in run.stdout
    assert ended in run.stdout


def test_an_unknown_family_is_told_which_there_are() -> None:
    run = demo("bulk_sync")
    assert run.returncode == 1
    assert run.stderr.strip() == "FAMILY is one of historical-sync, bulk-sync, model-sync, sync-job-run."
