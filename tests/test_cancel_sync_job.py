"""public.cancel_sync_job and the core it stands on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.house import Database


def test_a_running_job_is_cancelled_and_its_worker_fenced_off(database: Database) -> None:
    user = database.member()
    job_id = database.start(user)
    with database.worker() as worker, database.session(user.claims) as session:
        execution = worker.claim()
        assert worker.commit_batch(execution, 1, "a", "b") == "continue"

        assert session.call("cancel_sync_job", job_id=job_id, reason="wrong range") == {
            "job_id": job_id,
            "status": "cancelled",
        }

        assert worker.commit_batch(execution, 2, "c") == "lost"
        for call in ("heartbeat", "finish", "release"):
            assert worker.call(call, execution_id=job_id, lease=execution["lease"]) == {"answer": "lost"}
    row = database.execution(job_id)
    assert (row["status"], row["cancelled_by"], row["cancel_reason"]) == ("cancelled", f"user:{user.id}", "wrong range")
    assert [event["event"] for event in database.events(job_id)] == ["start", "claim", "cancel"]
    assert database.one("select count(*) from app.records")["count"] == 2
