"""Lists the executions of a bulk sync, newest first."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import BULK_SYNC_NOT_FOUND, INVALID_PAGE_TOKEN
from functions._shared.error_format import POLYTOMIC
from functions._shared.fields import PgInt, PgText
from functions._shared.lambda_adapter import lambda_handler
from functions.bulk_sync import SYNC_ID
from functions.bulk_sync.get_bulk_sync_execution import EXAMPLE, BulkSyncExecution
from functions.connection import Pagination


class ListBulkSyncExecutions(BaseModel):
    """`page_token` is the `next_page_token` of the previous page. `limit` is at most 100, which is the default."""

    sync_id: UUID
    page_token: PgText | None = None
    limit: PgInt | None = None
    ascending: bool | None = None
    only_terminal: bool | None = None


class BulkSyncExecutions(BaseModel):
    data: list[BulkSyncExecution]
    pagination: Pagination


endpoint = Endpoint(
    __name__,
    "GET",
    path="/api/bulk/syncs/{sync_id}/executions",
    request=ListBulkSyncExecutions,
    response=BulkSyncExecutions,
    error_format=POLYTOMIC,
    errors=(BULK_SYNC_NOT_FOUND, INVALID_PAGE_TOKEN),
    example_request={"sync_id": SYNC_ID},
    example_response={"data": [EXAMPLE], "pagination": {"next_page_token": ""}},
)
handler = lambda_handler(endpoint)
