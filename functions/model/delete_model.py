"""Deletes a model that no sync reads."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_format import POLYTOMIC
from functions._shared.errors import ErrorSpec
from functions.model import MODEL_ID, MODEL_NOT_FOUND

IN_USE = ErrorSpec(
    422,
    "model_in_use",
    "Syncs read it, those in `used_by`.",
    {"used_by": [{"type": "model_sync", "id": "248df4b7-aa70-47b8-a036-33ac447e668d", "name": "Airlines"}]},
)


class DeleteModel(BaseModel):
    model_id: UUID


endpoint = Endpoint(
    __name__,
    "DELETE",
    path="/api/models/{model_id}",
    rpc="delete_model",
    request=DeleteModel,
    response=None,
    status=204,
    error_format=POLYTOMIC,
    errors=(MODEL_NOT_FOUND, IN_USE),
    example_request={"model_id": MODEL_ID},
)
handler = endpoint.handler
