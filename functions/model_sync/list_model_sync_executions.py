"""Lists the executions of a model sync, newest first."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import INVALID_PAGE_TOKEN, MODEL_SYNC_NOT_FOUND
from functions._shared.error_format import POLYTOMIC
from functions._shared.fields import PgInt, PgText
from functions._shared.lambda_adapter import lambda_handler
from functions.connection import Pagination
from functions.model_sync import SYNC_ID
from functions.model_sync.get_model_sync_execution import EXAMPLE, ModelSyncExecution


class ListModelSyncExecutions(BaseModel):
    """`page_token` is the `next_page_token` of the previous page. `limit` is at most 100, which is the default."""

    sync_id: UUID
    page_token: PgText | None = None
    limit: PgInt | None = None
    ascending: bool | None = None
    only_completed: bool | None = None


class ModelSyncExecutions(BaseModel):
    data: list[ModelSyncExecution]
    pagination: Pagination


endpoint = Endpoint(
    __name__,
    "GET",
    path="/api/syncs/{sync_id}/executions",
    request=ListModelSyncExecutions,
    response=ModelSyncExecutions,
    error_format=POLYTOMIC,
    errors=(MODEL_SYNC_NOT_FOUND, INVALID_PAGE_TOKEN),
    example_request={"sync_id": SYNC_ID},
    example_response={"data": [EXAMPLE], "pagination": {"next_page_token": ""}},
)
handler = lambda_handler(endpoint)
