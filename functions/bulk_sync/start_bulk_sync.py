"""Starts an execution of a bulk sync, of all its schemas or some."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field

from functions._shared.dialect import POLYTOMIC
from functions._shared.endpoint import Endpoint
from functions._shared.members import Contract, Only, Text
from functions.bulk_sync import SYNC_ID, SYNC_NOT_FOUND, UNKNOWN_SCHEMA
from functions.bulk_sync.get_bulk_sync_execution import EXAMPLE, OneBulkSyncExecution
from functions.connection import ALREADY_ACTIVE


class StartBulkSync(Contract):
    """`schemas` are ids; without, all of the sync's."""

    sync_id: UUID
    schemas: Annotated[list[Text], Field(min_length=1, max_length=1000)] | None = None
    fetch_mode: Annotated[str | None, Only("full")] = None
    resync_mode: Annotated[str | None, Only()] = None
    resync: Annotated[bool | None, Only(False)] = None
    test: Annotated[bool | None, Only(False)] = None


endpoint = Endpoint(
    __name__,
    "POST",
    path="/api/bulk/syncs/{sync_id}/executions",
    rpc="start_bulk_sync",
    request=StartBulkSync,
    response=OneBulkSyncExecution,
    wakes_worker=True,
    dialect=POLYTOMIC,
    refusals=(SYNC_NOT_FOUND, UNKNOWN_SCHEMA, ALREADY_ACTIVE),
    example_request={"sync_id": SYNC_ID, "schemas": ["flights"]},
    example_response={"data": {**EXAMPLE, "status": "created"}},
)
handler = endpoint.handler
