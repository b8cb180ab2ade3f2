"""Returns the current execution of a model sync. An ended one stays current until the next one starts."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import MODEL_SYNC_NOT_FOUND
from functions._shared.error_format import POLYTOMIC
from functions._shared.lambda_adapter import lambda_handler
from functions.model_sync import SYNC_ID
from functions.model_sync.get_model_sync_execution import EXAMPLE, ModelSyncExecution


class GetModelSyncStatus(BaseModel):
    sync_id: UUID


class ModelSyncStatus(BaseModel):
    """`last_execution` is the newest ended one. `next_execution_time` is null, as schedules are not supported yet."""

    current_execution: ModelSyncExecution | None
    last_execution: ModelSyncExecution | None
    next_execution_time: datetime | None


class OneModelSyncStatus(BaseModel):
    data: ModelSyncStatus


endpoint = Endpoint(
    __name__,
    "GET",
    path="/api/syncs/{sync_id}/status",
    request=GetModelSyncStatus,
    response=OneModelSyncStatus,
    error_format=POLYTOMIC,
    errors=(MODEL_SYNC_NOT_FOUND,),
    example_request={"sync_id": SYNC_ID},
    example_response={
        "data": {
            "current_execution": EXAMPLE,
            "last_execution": None,
            "next_execution_time": None,
        }
    },
)
handler = lambda_handler(endpoint)
