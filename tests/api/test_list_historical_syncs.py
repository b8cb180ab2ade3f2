"""GET list-historical-syncs: order, pages, filters and tenancy of the list."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from functions.historical_sync.list_historical_syncs import HistoricalSyncs
from tests.support.database import TRANSITIONS_TO
from tests.support.project import JANUARY, both_transports, expect_error, one_transport
from tests.support.wait import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from tests.support.database import Database, User
    from tests.support.project import Project, Status

FIRST, LAST = "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"
# In an order in which they can be created: a claim takes every queued job.
EVERY_STATUS: list[Status] = ["completed", "failed", "cancelled", "in_progress", "released", "pending"]


def accepted(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    HistoricalSyncs.model_validate_json(response.content, strict=True, extra="forbid")
    page: dict[str, Any] = response.json()
    return page


def ids(response: httpx.Response) -> list[str]:
    """The ids of a list that has one page."""
    page = accepted(response)
    assert page["next_cursor"] is None
    return [job["job_id"] for job in page["jobs"]]


def walk(project: Project, token: str, **query: Any) -> Iterator[list[str]]:
    """Yield each page's ids until the last page."""
    cursor: dict[str, str] = {}
    while cursor is not None:
        page = accepted(project.jobs(token, **query, **cursor))
        yield [job["job_id"] for job in page["jobs"]]
        cursor = page["next_cursor"] and {"cursor": page["next_cursor"]}


def queued(database: Database, agency_id: str | None, **columns: Any) -> str:
    """Insert a queued job in one statement, as another transaction would start it."""
    spec = json.dumps({**JANUARY, "resources": ["flights"]})
    connection_id = columns.pop("connection_id", None) or database.connection(agency_id)
    return database.insert(agency_id, "historical_sync", spec=spec, connection_id=connection_id, **columns)


# Content


@both_transports
def test_list_historical_syncs__newest_first_entries_equal_get(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    made = [project.job(user, status) for status in EVERY_STATUS]
    page = accepted(project.jobs(token))
    assert page == {"jobs": [project.get(token, job_id).json() for job_id in reversed(made)], "next_cursor": None}
    created = [job["created_at"] for job in page["jobs"]]
    assert created == sorted(created, reverse=True)


@both_transports
def test_list_historical_syncs__response_equals_that_of_the_database(project: Project) -> None:
    user = project.database.member()
    made = [project.job(user, status) for status in EVERY_STATUS]
    with project.database.session(user.claims) as session:
        direct = session.call("list_historical_syncs", limit=4)
    assert accepted(project.jobs(project.token(user), limit=4)) == direct
    assert [job["job_id"] for job in direct["jobs"]] == made[:1:-1]
    assert direct["next_cursor"] == made[2]


@one_transport
def test_list_historical_syncs__empty(project: Project) -> None:
    project.job(project.database.member())
    assert accepted(project.jobs(project.token(project.database.member()))) == {"jobs": [], "next_cursor": None}


@one_transport
def test_list_historical_syncs__same_for_colleagues(project: Project) -> None:
    user = project.database.member()
    made = [project.job(user), project.job(project.database.user(user.agency_id))]
    for member in (user, project.database.user(user.agency_id)):
        assert ids(project.jobs(project.token(member))) == made[::-1]


@both_transports
def test_list_historical_syncs__excludes_deleted_jobs(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    kept, gone, newest = project.job(user), project.job(user, "cancelled"), project.job(user, "cancelled")
    project.database.update(gone, deleted_at="2020-01-01")
    assert ids(project.jobs(token)) == [newest, kept]
    assert ids(project.jobs(token, status="cancelled")) == [newest]
    page = accepted(project.jobs(token, limit=1))
    assert page["next_cursor"] == newest
    assert ids(project.jobs(token, limit=1, cursor=newest)) == [kept]


@both_transports
def test_list_historical_syncs__excludes_other_families(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    older = project.job(user)
    project.database.insert(user.agency_id, "bulk_sync")
    newer = project.job(user)
    project.database.insert(user.agency_id, "bulk_sync")
    assert list(walk(project, token, limit=1)) == [[newer], [older]]
    assert ids(project.jobs(token)) == [newer, older]


@both_transports
def test_list_historical_syncs__writes_nothing(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    project.job(user, "in_progress")
    with project.unchanged():
        accepted(project.jobs(token))


# Filters


@both_transports
def test_list_historical_syncs__filter_by_status(project: Project) -> None:
    """A released job is queued but has started before, therefore it is in progress."""
    user = project.database.member()
    token = project.token(user)
    made = {status: project.job(user, status) for status in EVERY_STATUS}
    selected = {"in_progress": [made.pop("released"), made.pop("in_progress")]}
    selected |= {status: [job_id] for status, job_id in made.items()}
    for public_status, expected in selected.items():
        page = accepted(project.jobs(token, status=public_status))
        assert [job["job_id"] for job in page["jobs"]] == expected
        assert {job["status"] for job in page["jobs"]} == {public_status}


@both_transports
def test_list_historical_syncs__filter_by_connection(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    ended = project.job(user, "completed")
    connection_id = str(project.database.execution(ended)["connection_id"])
    active = project.database.start(user, connection_id)
    elsewhere = project.job(user)
    assert ids(project.jobs(token, connection_id=connection_id)) == [active, ended]
    assert ids(project.jobs(token, connection_id=connection_id.upper())) == [active, ended]
    assert ids(project.jobs(token, connection_id=connection_id, status="completed")) == [ended]
    assert ids(project.jobs(token, connection_id=connection_id, status="failed")) == []
    assert ids(project.jobs(token, connection_id=connection_id, cursor=active)) == [ended]
    assert ids(project.jobs(token, status="pending")) == [elsewhere, active]
    assert ids(project.jobs(token, connection_id=FIRST)) == []


@both_transports
def test_list_historical_syncs__all_filters(project: Project) -> None:
    user = project.database.member()
    connection_id = project.database.connection(user.agency_id)
    made = sorted(queued(project.database, user.agency_id, connection_id=connection_id) for _ in range(5))
    for job_id in (made[0], made[1], made[3], made[4]):
        project.database.transition(job_id, *TRANSITIONS_TO["failed"])
    query = {"connection_id": connection_id, "status": "failed", "limit": 1}
    token = project.token(user)
    assert list(walk(project, token, **query)) == [[made[4]], [made[3]], [made[1]], [made[0]]]


@one_transport
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            ("limit", value)
            for value in ("0", "-1", "101", "1e1", "1.5", "0x5", "", "x", "null", "true", "٣", "9" * 5000)
        ),
        *(("cursor", value) for value in ("", "null", "1", FIRST[:-1], FIRST + "'", FIRST + "\0", "eq." + FIRST)),
        *(("connection_id", value) for value in ("", "null", "mine", LAST[1:], LAST + "\0")),
        *(("status", value) for value in ("", "null", "Pending", "queued", "running", "canceled", "a" * 5000, "a\0")),
        ("status", "pending,failed"),
        ("status", "not.eq.pending"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_list_historical_syncs__invalid_query(project: Project, field: str, value: str) -> None:
    token = project.token(project.database.user(None))
    with project.unchanged():
        response = project.jobs(token, **{field: value})
    assert expect_error(response, 400, "invalid_field") == {"field": field}
    assert len(response.content) < 1000


@both_transports
def test_list_historical_syncs__duplicate_and_unknown_names_in_the_query(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    older, newer = project.job(user), project.job(user)
    for query in ("?limit=0&limit=1", "?agency_id=eq.x&limit=1&offset=1&order=job_id.asc&select=1", "?&limit=1&x"):
        page = accepted(project.request("GET", f"/list-historical-syncs{query}", token))
        assert [job["job_id"] for job in page["jobs"]] == [newer]
        assert page["next_cursor"] == newer
    assert ids(project.jobs(token, cursor=newer)) == [older]


# Tenancy


@both_transports
def test_list_historical_syncs__other_agency(project: Project) -> None:
    user, stranger = project.database.member(), project.database.member()
    token = project.token(stranger)
    theirs = project.job(user)
    mine = project.job(stranger)
    newer = project.job(user)
    connection_id = str(project.database.execution(theirs)["connection_id"])
    assert ids(project.jobs(token)) == [mine]
    assert ids(project.jobs(token, status="pending", limit=1)) == [mine]
    assert ids(project.jobs(token, connection_id=connection_id)) == []
    # A cursor is a point in time and reveals nothing about the agency of its job.
    assert ids(project.jobs(token, cursor=newer)) == [mine]
    assert ids(project.jobs(token, cursor=theirs)) == []


@both_transports
def test_list_historical_syncs__agency_claim_in_the_token_is_ignored(project: Project) -> None:
    owner, stranger = project.database.member(), project.database.member()
    project.job(owner)
    claims = {"agency_id": owner.agency_id}
    assert ids(project.jobs(project.token(stranger, **claims, user_metadata=claims, app_metadata=claims))) == []


@both_transports
def test_list_historical_syncs__user_without_agency(project: Project) -> None:
    token = project.token(project.database.user(None))
    assert expect_error(project.jobs(token), 403, "no_agency") == {}


# Pages


@both_transports
def test_list_historical_syncs__page_size(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    connection_id = project.database.connection(user.agency_id)
    made = [queued(project.database, user.agency_id, connection_id=connection_id) for _ in range(101)]
    newest_first = sorted(made, reverse=True)
    page = accepted(project.jobs(token))
    assert [job["job_id"] for job in page["jobs"]] == newest_first[:20]
    assert page["next_cursor"] == newest_first[19]
    page = accepted(project.jobs(token, limit=100))
    assert [job["job_id"] for job in page["jobs"]] == newest_first[:100]
    assert ids(project.jobs(token, limit=100, cursor=page["next_cursor"])) == newest_first[100:]


@one_transport
def test_list_historical_syncs__full_last_page_has_no_next_cursor(project: Project) -> None:
    user = project.database.member()
    made = [project.job(user), project.job(user)]
    assert ids(project.jobs(project.token(user), limit=2)) == made[::-1]


@one_transport
def test_list_historical_syncs__cursor_of_no_job(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    made = [project.job(user) for _ in range(2)]
    assert ids(project.jobs(token, cursor=LAST)) == made[::-1]
    assert ids(project.jobs(token, cursor=FIRST)) == []
    between = made[1][:-12] + "000000000000"
    assert ids(project.jobs(token, cursor=between)) == [made[0]]


class Traffic:
    """Threads that start jobs of these agencies and complete queued ones, until `close` is called."""

    def __init__(self, database: Database, *agencies: str | None) -> None:
        self.ended = 0
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(database, agency)) for agency in agencies]
        for thread in self._threads:
            thread.start()

    def _run(self, database: Database, agency_id: str | None) -> None:
        with contextlib.closing(type(database)(database.server, database.name)) as other:
            while not self._closing.is_set():
                queued(other, agency_id)
                [queued_job] = other.all(
                    "select id::text from app.executions where agency_id = %s and status = 'queued'"
                    " order by random() limit 1",
                    (agency_id,),
                )
                other.transition(queued_job["id"], *TRANSITIONS_TO["completed"])
                self.ended += 1

    def wait_for_another(self) -> None:
        """Return once another job has been started and completed."""
        before = self.ended
        until(lambda: self.ended > before)

    def close(self) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join()


@both_transports
@pytest.mark.parametrize("size", range(1, 8))
def test_list_historical_syncs__walk_during_starts_and_ends(project: Project, size: int) -> None:
    database = project.database
    user, stranger = database.member(), database.member()
    token = project.token(user)
    existing = {queued(database, user.agency_id) for _ in range(12)}
    ended = set(sorted(existing)[::2])
    for job_id in ended:
        database.transition(job_id, *TRANSITIONS_TO["failed"])
    with contextlib.closing(Traffic(database, user.agency_id, stranger.agency_id)) as traffic:
        for query, expected in (({}, existing), ({"status": "failed"}, ended)):
            walked: list[str] = []
            for page in walk(project, token, limit=size, **query):
                assert len(page) <= size
                walked += page
                traffic.wait_for_another()
            assert walked == sorted(walked, reverse=True)
            assert len(set(walked)) == len(walked)
            assert expected <= set(walked)
    agencies = database.all("select distinct agency_id::text from app.executions where id = any(%s::uuid[])", (walked,))
    assert agencies == [{"agency_id": user.agency_id}]


# The SQL function itself


def sql_error(database: Database, user: User, **arguments: Any) -> tuple[str, str, dict[str, Any]]:
    with database.session(user.claims) as session:
        error = session.error("list_historical_syncs", **arguments)
    return error.sqlstate, error.code, error.details


@pytest.mark.sql
def test_list_historical_syncs_sql__unknown_status(database: Database) -> None:
    known = ["cancelled", "completed", "failed", "in_progress", "pending"]
    for status in ("queued", "running", "cancelling", "Pending", "", "stopped"):
        assert sql_error(database, database.member(), status=status) == ("PT400", "unknown_status", {"known": known})


@pytest.mark.sql
@pytest.mark.parametrize("limit", [0, -1, 101, 2**31 - 1])
def test_list_historical_syncs_sql__invalid_limit(database: Database, limit: int) -> None:
    assert sql_error(database, database.member(), limit=limit) == ("PT400", "invalid_limit", {})


@pytest.mark.sql
def test_list_historical_syncs_sql__null_arguments(database: Database) -> None:
    user = database.member()
    job_id = database.start(user)
    with database.session(user.claims) as session:
        page = session.call("list_historical_syncs", status=None, connection_id=None, limit=None, cursor=None)
    assert [job["job_id"] for job in page["jobs"]] == [job_id]


@pytest.mark.sql
def test_list_historical_syncs_sql__service_role_sees_every_agency(database: Database) -> None:
    made = [database.start(database.member()) for _ in range(3)]
    with database.worker() as service:
        first = service.call("list_historical_syncs", limit=2)
        rest = service.call("list_historical_syncs", limit=2, cursor=first["next_cursor"])
    assert [job["job_id"] for job in first["jobs"] + rest["jobs"]] == made[::-1]


@pytest.mark.sql
def test_list_historical_syncs_sql__revoked_session(database: Database) -> None:
    user = database.member()
    database.start(user)
    database.admin.execute("delete from auth.sessions where id = %s", (user.session_id,))
    assert sql_error(database, user) == ("PT401", "revoked_token", {})
