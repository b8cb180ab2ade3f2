"""The state machine (every pair of status and event) and the vocabulary of every family."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.database import FAMILIES, TRANSITIONS, TRANSITIONS_TO, TWO_STEPS

if TYPE_CHECKING:
    from tests.support.database import Database

pytestmark = pytest.mark.sql

STATUSES = (None, "queued", "running", "cancelling", "completed", "failed", "cancelled", "unknown", "")
EVENTS = (
    None, "start", "claim", "cancel", "request_cancel", "acknowledge", "expire", "complete", "fail", "release",
    "unknown", "",
)  # fmt: skip

# The public statuses of each family's document. `scheduled` is queued for later, `requeued` started and queued again.
PUBLIC_STATUSES = {
    "historical_sync": {
        "queued": "pending", "scheduled": "pending", "requeued": "in_progress", "running": "in_progress",
        "completed": "completed", "failed": "failed", "cancelled": "cancelled",
    },
    "sync_job_run": {
        "queued": "created", "scheduled": "created", "requeued": "running", "running": "running",
        "completed": "completed", "failed": "failed", "cancelled": "stopped",
    },
    "bulk_sync": {
        "queued": "created", "scheduled": "scheduled", "requeued": "running", "running": "running",
        "cancelling": "canceling", "completed": "completed", "failed": "failed", "cancelled": "canceled",
    },
    "model_sync": {
        "queued": "created", "scheduled": "scheduled", "requeued": "running", "running": "running",
        "cancelling": "canceling", "completed": "completed", "failed": "failed", "cancelled": "canceled",
    },
    "bulk_action": {
        "queued": "scheduled", "scheduled": "scheduled", "requeued": "running", "running": "running",
        "completed": "completed", "failed": "failed", "cancelled": "cancelled",
    },
    "source_check": {
        "queued": "created", "scheduled": "created", "requeued": "running", "running": "running",
        "completed": "completed", "failed": "failed", "cancelled": "cancelled",
    },
}  # fmt: skip


def test_next_status__all_transitions(database: Database) -> None:
    for status in STATUSES:
        for event in EVENTS:
            response = database.one("select app.next_status(%s, %s) as next", (status, event))["next"]
            assert response == TRANSITIONS.get((status, event or "")), (status, event)


def test_next_status__known_names(database: Database) -> None:
    source = database.one("select prosrc from pg_proc where oid = 'app.next_status'::regproc")["prosrc"]
    known = {name for (status, event), to_status in TRANSITIONS.items() for name in (status, event, to_status)}
    assert set(re.findall(r"'(.*?)'", source)) == known - {None}


def test_families__list(database: Database) -> None:
    rows = database.all("select family, cancel_event, foreign_status, extract(epoch from grace) as s from app.families")
    assert {row["family"]: row["cancel_event"] for row in rows} == FAMILIES
    assert set(PUBLIC_STATUSES) == set(FAMILIES)
    for row in rows:
        in_two_steps = row["family"] in TWO_STEPS
        assert (row["s"] > 0) == in_two_steps
        assert row["foreign_status"] == (403 if row["family"] == "historical_sync" else 404)


@pytest.mark.parametrize("family", PUBLIC_STATUSES)
def test_public_status__of_each_family(database: Database, family: str) -> None:
    agency = database.agency()
    for status, name in PUBLIC_STATUSES[family].items():
        if status == "scheduled":
            job_id = database.insert(agency, family, run_at="2999-01-01")
        else:
            job_id = database.insert(agency, family)
            cancel = "request_cancel" if family in TWO_STEPS and status == "cancelled" else None
            database.transition(job_id, *([(cancel, "cancelled")] if cancel else TRANSITIONS_TO[status]))
        reported = database.one("select app.public_status(e) as name from app.executions as e where id = %s", (job_id,))
        assert reported["name"] == name, status


@pytest.mark.parametrize("family", sorted(set(PUBLIC_STATUSES) - set(TWO_STEPS)))
def test_families__cancelling_in_two_step_families_only(database: Database, family: str) -> None:
    assert database.one("select cancelling from app.families where family = %s", (family,))["cancelling"] is None


def test_public_status__waiting_retry_is_running(database: Database) -> None:
    job_id = database.start(database.member())
    with database.worker() as worker:
        execution = worker.claim()
        worker.call(
            "worker_fail",
            execution_id=job_id,
            lease_token=execution["lease_token"],
            error={"code": "x", "message": "y"},
        )
    row = database.one("select run_at > now() as later, app.public_status(e) as name from app.executions as e")
    assert row == {"later": True, "name": "in_progress"}
