"""`make chaos` finds no violation in a minute, and finds each of several violations that are introduced here."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from functions._local import postgrest
from functions._local.schema import ROOT
from tests.chaos import api, invariants
from tests.chaos.races import violations
from tests.chaos.report import Report
from tests.chaos.run import ATTACKS, attack_for
from tests.chaos.target import Target
from tests.support.installed import installed

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 60
TWO = {"records": 2, "seq": 1}


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with Target() as made:
        yield made


@pytest.mark.timeout(600)
def test_chaos__one_minute() -> None:
    installed("PostgREST", postgrest.binary())
    installed("schemathesis", api.BINARY, "make chaos")
    command = [sys.executable, "-m", "tests.chaos", f"--seconds={SECONDS}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    output = f"{done.stdout}{done.stderr}"  # contains the seed
    assert done.returncode == 0, output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("SEED="), output
    assert {line.split(maxsplit=1)[0] for line in lines[2:]} >= {*ATTACKS}, output
    assert lines[-1].split() == ["violations", "0"], output  # and no note about parts that could not run


def attack(target: Target, name: str, seed: int = 1) -> list[str]:
    """The violations that one round finds."""
    report = Report(attack=name)
    attack_for(0, target, report, seed)
    return [violation.what for violation in report.violations]


def test_races__missing_fence_is_found(target: Target) -> None:
    assert attack(target, "races") == []
    with target.admin() as admin:
        row = admin.execute("select pg_get_functiondef('app.lock_leased_execution'::regproc) as text").fetchone()
        assert row
        assert "execution.lease_token = lock_leased_execution.lease_token and" in row["text"]
        admin.execute(row["text"].replace("execution.lease_token = lock_leased_execution.lease_token and", ""))
        found = attack(target, "races")
        admin.execute(row["text"])
    assert any("a zombie got" in what for what in found)


def test_witness__change_after_the_end_is_found(target: Target) -> None:
    insert = "insert into app.executions (agency_id, family) values (%s, 'bulk_sync') returning id"
    with target.admin() as admin:
        with admin.transaction():
            admin.execute("set local role postgres")
            row = admin.execute(insert, (target.agency(),)).fetchone()
            assert row
            admin.execute("set local role service_role")
            admin.execute("select app.cancel_execution('bulk_sync', %s, null)", (row["id"],))
        assert invariants.check(admin) == []
        with admin.transaction():  # without the triggers, which would reject it
            admin.execute("set local session_replication_role = replica")
            admin.execute("update app.executions set progress = '{\"late\": 1}' where id = %s", (row["id"],))
        assert invariants.check(admin) == [f"changed after the end: cancelled ({row['id']})"]
        assert invariants.check(admin) == []  # it was purged, so each violation is reported once


def test_tenants__leaking_policy_is_found(target: Target) -> None:
    with target.admin() as admin:
        admin.execute("create policy leak on app.connections for select to authenticated using (true)")
        found = [what for seed in range(3) for what in attack(target, "tenants", seed)]
        admin.execute("drop policy leak on app.connections")
    assert any("was shown" in what for what in found)


def test_malformed__failing_function_is_found(target: Target) -> None:
    with target.admin() as admin:
        admin.execute("alter function app.page_size rename to page_size_away")
        found = [what for seed in range(3) for what in attack(target, "malformed", seed)]
        admin.execute("alter function app.page_size_away rename to page_size")
    assert any('500 {"' in what for what in found)


@pytest.mark.parametrize(
    ("responses", "row", "stored", "wrong"),
    [
        ({"cancel": "cancelled", "finish": "lost", "zombie": "lost"}, {}, 0, []),
        ({"cancel": "cancelled", "zombie": "continue"}, {}, 0, ["a zombie got continue"]),
        ({"cancel": "cancelled", "finish": "completed"}, {}, 0, ["two calls report that they ended it"]),
        ({"cancel": "not_cancellable", "finish": "lost"}, {}, 0, ["it ended and no call reports it"]),
        ({"cancel": "unknown", "finish": "lost"}, {}, 0, []),
        ({"finish": "completed"}, {}, 0, ["the row differs from its winner's response"]),
        ({"cancel": "cancelled", "commit": "continue"}, TWO, 2, []),
        ({"cancel": "cancelled", "commit": "lost"}, TWO, 2, ["2 records are stored, 2 counted, seq 1"]),
        ({"cancel": "cancelled", "commit": "unknown"}, {"records": 4}, 4, ["a batch is stored partly or twice"]),
    ],
)
def test_races__violations(responses: dict[str, str], row: dict[str, Any], stored: int, wrong: list[str]) -> None:
    full = {"status": "cancelled", "actor": "user:1", "records": 0, "seq": 0, **row}
    assert violations(responses, full, stored) == wrong


def test_report__table() -> None:
    report = Report(attack="races")
    report.count("races", 1234)
    report.expect(holds=True, what="nothing")
    report.expect(holds=False, what="it broke")
    assert report.table().splitlines() == [
        "attack    what was tried     times",
        "races     races              1,234",
        "          violations             1",
    ]
    assert [violation.what for violation in report.violations] == ["it broke"]
