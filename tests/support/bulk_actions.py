"""Bulk actions: created by a caller, and run step by step by a worker that may stop between two steps."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.support.database import TRANSITIONS_TO, TWO_STEPS, rpc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.database import Database, Session, User

PATH = "/api/actions/bulk/jobs"
PREVIEW = "/api/actions/bulk/preview"
BATCH = 500
MAX_COLLECTED = 5000
OUTCOMES = ("done", "failed", "skipped", "interrupted", "not_started")
NOTHING = dict.fromkeys(("matched", *OUTCOMES), 0)
# The families that a bulk action can process. Source checks are internal.
ACTION_FAMILIES = ("historical_sync", "sync_job_run", "bulk_sync", "model_sync", "bulk_action")


def many(database: Database, user: User, number: int, family: str = "historical_sync", **columns: Any) -> list[str]:
    """Inserts `number` queued executions. Returns their ids in order."""
    values = {"agency_id": user.agency_id, "family": family, **columns}
    names, places = ", ".join(values), ", ".join(f"%({name})s" for name in values)
    query = f"insert into app.executions ({names}) select {places} from generate_series(1, {number}) returning id::text"
    with database.acting_as("postgres") as owner:
        return sorted(row["id"] for row in owner.execute(query, values))


def put(database: Database, user: User, family: str, status: str, **columns: Any) -> str:
    """An execution of any family in this status, reached by the family's own transitions."""
    job_id = database.insert(user.agency_id, family, **columns)
    if status == "cancelled" and family in TWO_STEPS:
        database.transition(job_id, *TRANSITIONS_TO["cancelling"], ("acknowledge", "cancelled"))
    else:
        database.transition(job_id, *TRANSITIONS_TO[status])
    return job_id


def statuses(family: str) -> list[str]:
    """The statuses that an execution of this family can have."""
    return [status for status in TRANSITIONS_TO if status != "cancelling" or family in TWO_STEPS]


def create(database: Database, user: User, action: str = "cancel", **arguments: Any) -> str:
    """Creates a bulk action as this user and returns its id. By default its criteria match everything."""
    arguments.setdefault("criteria", {"created_after": "2001-01-01T00:00:00Z"})
    with database.session(user.claims) as session:
        return str(session.call("create_bulk_action", action_type=action, **arguments)["job_id"])


def counts(database: Database, job_id: str) -> dict[str, int]:
    """The stored counts. Each call checks that they equal the counted items."""
    rows = database.all(
        f"select matched, {', '.join(OUTCOMES)} from app.bulk_actions where execution_id = %s", (job_id,)
    )
    stored: dict[str, int] = rows[0] if rows else dict(NOTHING)
    items = database.all(
        "select coalesce(outcome, 'not_started') as outcome, count(*)::int as n from app.bulk_action_items"
        " where execution_id = %s group by 1",
        (job_id,),
    )
    listed = Counter({row["outcome"]: row["n"] for row in items})
    assert stored == {"matched": listed.total(), **{outcome: listed[outcome] for outcome in OUTCOMES}}
    return stored


def outcome(database: Database, job_id: str, item_id: str) -> str | None:
    rows = database.all(
        "select outcome from app.bulk_action_items where (execution_id, item_id) = (%s, %s)", (job_id, item_id)
    )
    return str(rows[0]["outcome"]) if rows else None


def step(job_id: str, lease_token: int = 1) -> tuple[str, dict[str, Any]]:
    return rpc("worker_run_bulk_action_step", execution_id=job_id, lease_token=lease_token)


class Worker:
    """Claims a bulk action and runs its steps on request."""

    def __init__(self, database: Database, job_id: str) -> None:
        self.database = database
        self.id = job_id
        database.transition(job_id, ("claim", "running"))
        self.lease_token: int = database.execution(job_id)["lease_token"]
        self.session: Session = database.worker()

    def step(self) -> dict[str, Any]:
        """One step's response. The counts are checked before and after it."""
        counts(self.database, self.id)
        response: dict[str, Any] = self.session.call(
            "worker_run_bulk_action_step", execution_id=self.id, lease_token=self.lease_token
        )
        counts(self.database, self.id)
        return response

    def rest(self) -> int:
        """Runs the remaining steps and completes. Returns the number of steps."""
        number = 1
        while (response := self.step()) == {"result": "continue", "more": True}:
            number += 1
        assert response == {"result": "continue", "more": False}
        assert self.call("worker_complete") == "completed"
        return number

    def call(self, name: str, **arguments: Any) -> str:
        return str(self.session.call(name, execution_id=self.id, lease_token=self.lease_token, **arguments)["result"])

    def close(self) -> None:
        self.session.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run(database: Database, job_id: str) -> dict[str, int]:
    """Runs a bulk action to its end. Returns its counts."""
    with Worker(database, job_id) as worker:
        worker.rest()
    return counts(database, job_id)


def collected(database: Database, user: User, action: str = "cancel", **arguments: Any) -> str:
    """A running bulk action (lease token 1) that has collected its items and processed none."""
    job_id = create(database, user, action, **arguments)
    with Worker(database, job_id) as worker:
        assert worker.step() == {"result": "continue", "more": True}
    return job_id


def these(ids: Sequence[str]) -> dict[str, Any]:
    """Criteria that match these ids."""
    return {"ids": [*ids]}


def spec(action: str = "cancel", **members: Any) -> str:
    """The specification that create_bulk_action would store for these fields."""
    common = {"action_type": action, "criteria": these([]), "action_reason": None, "max_limit": 10000}
    return json.dumps({**common, "scheduled_at": None, "preview_count": 0, **members})
