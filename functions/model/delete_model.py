"""Deletes a model that no sync uses."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import MODEL_IN_USE, MODEL_NOT_FOUND
from functions._shared.error_format import POLYTOMIC
from functions._shared.lambda_adapter import lambda_handler
from functions.model import MODEL_ID


class DeleteModel(BaseModel):
    model_id: UUID


endpoint = Endpoint(
    __name__,
    "DELETE",
    path="/api/models/{model_id}",
    request=DeleteModel,
    response=None,
    status=204,
    error_format=POLYTOMIC,
    errors=(MODEL_NOT_FOUND, MODEL_IN_USE),
    example_request={"model_id": MODEL_ID},
)
handler = lambda_handler(endpoint)
