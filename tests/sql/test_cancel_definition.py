"""app.cancel_definition: the cancel of the families that have definitions (bulk syncs and model syncs)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.database import Database, Session, User

pytestmark = pytest.mark.sql


def model_sync(database: Database, user: User) -> str:
    source, destination = database.connection(user.agency_id), database.connection(user.agency_id, "records", {})
    settings = {"mode": "append", "resource": "flights", "object": "o", "fields": [], "sync_all_records": True}
    row = database.one(
        "insert into app.definitions"
        " (agency_id, kind, name, source_id, destination_id, settings, created_by, updated_by)"
        " values (%s, 'model_sync', 'M', %s, %s, %s, 'user:u', 'user:u') returning id",
        (user.agency_id, source, destination, json.dumps(settings)),
    )
    return str(row["id"])


def cancel(session: Session, family: str, sync_id: str, key: str) -> str:
    """The response's bytes."""
    session.set_headers(**{"idempotency-key": key})
    return str(session.execute(f"select public.cancel_{family}(%s)::text as bytes", (sync_id,))[0]["bytes"])


@pytest.mark.parametrize("family", ["bulk_sync", "model_sync"])
@pytest.mark.parametrize("claimed", [False, True], ids=["queued", "running"])
def test_cancel__repeated_with_its_key_after_a_new_start(database: Database, family: str, claimed: bool) -> None:
    """The same bytes come back, and the second execution, which was never to be cancelled, is untouched."""
    user = database.member()
    sync_id = database.bulk_sync(user) if family == "bulk_sync" else model_sync(database, user)
    with database.session(user.claims) as session, database.worker() as worker:
        start = {"sync_id": sync_id}
        first = session.call(f"start_{family}", **start)["data"]["id"]
        if claimed:
            execution = worker.claim(family=family)
        response = cancel(session, family, sync_id, "k")
        if claimed:
            lease = {"execution_id": first, "lease_token": execution["lease_token"]}
            assert worker.call("worker_release", **lease) == {"result": "cancelled"}
        session.set_headers()
        second = session.call(f"start_{family}", **start)["data"]["id"]
        before = (database.execution(second), database.events(second))

        assert cancel(session, family, sync_id, "k") == response
        assert json.loads(response)["data"]["execution_id"] == first
        assert (database.execution(second), database.events(second)) == before
        assert before[0]["status"] == "queued"
        assert json.loads(cancel(session, family, sync_id, "another"))["data"]["execution_id"] == second
