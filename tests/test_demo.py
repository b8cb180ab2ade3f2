"""`make demo` proves what it says, and fails when that does not hold."""

from __future__ import annotations

import subprocess
import sys

from functions._local.schema import ROOT


def test_the_demo_keeps_its_word() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "functions._local.demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "'status': 'cancelled'" in run.stdout
    assert "and none is younger than the cancel." in run.stdout
    assert "All 336,776 flights are there." in run.stdout
