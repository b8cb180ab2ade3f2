"""app.uuid_v7 and app.uuid_v7_floor: ids are ordered by time, also within a millisecond, and a floor is below them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.database import Database

pytestmark = pytest.mark.sql


def test_uuid_v7__ordered_within_a_millisecond(database: Database) -> None:
    ids = [row["id"] for row in database.all("select app.uuid_v7() as id from generate_series(1, 2000)")]
    assert {(id_.version, id_.variant) for id_ in ids} == {(7, "specified in RFC 4122")}
    assert ids == sorted(set(ids))


def test_uuid_v7_floor__not_above_an_id_of_that_time(database: Database) -> None:
    rows = database.all(
        "select app.uuid_v7_floor(clock_timestamp()) as floor, app.uuid_v7() as id from generate_series(1, 2000)"
    )
    assert all(row["floor"] <= row["id"] for row in rows)
