"""Returns a model with the fields of its records."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import MODEL_NOT_FOUND
from functions._shared.error_format import POLYTOMIC
from functions._shared.lambda_adapter import lambda_handler
from functions.connection import ORGANIZATION_ID, SOURCE_ID, Actor
from functions.model import MODEL_ID

EXAMPLE: dict[str, Any] = {
    "id": MODEL_ID,
    "name": "Airlines",
    "organization_id": ORGANIZATION_ID,
    "connection_id": SOURCE_ID,
    "configuration": {"resource": "airlines"},
    "fields": [
        {"id": "carrier", "name": "carrier", "label": "carrier", "type": "string"},
        {"id": "name", "name": "name", "label": "name", "type": "string"},
    ],
    "identifier": "carrier",
    "type": "http",
    "version": 1,
    "labels": [],
    "policies": [],
    "relations": [],
    "tracking_columns": [],
    "created_at": "2026-11-22T13:47:26.287044+00:00",
    "created_by": {"id": "a3848396-23ea-4a28-a74c-541a63cd6a35", "type": "user", "name": "user:a3848396"},
    "updated_at": "2026-11-22T13:47:26.287044+00:00",
    "updated_by": {"id": "a3848396-23ea-4a28-a74c-541a63cd6a35", "type": "user", "name": "user:a3848396"},
}


class GetModel(BaseModel):
    model_id: UUID


class ModelField(BaseModel):
    """`type`: string, number, boolean, array, object, or unknown if the checked records do not show it."""

    id: str
    name: str
    label: str
    type: str


class ModelQuery(BaseModel):
    resource: str


class Model(BaseModel):
    id: UUID
    name: str
    organization_id: UUID
    connection_id: UUID
    configuration: ModelQuery
    fields: list[ModelField]
    identifier: str | None
    type: str
    version: int
    labels: list[str]
    policies: list[str]
    relations: list[Any]
    tracking_columns: list[str]
    created_at: datetime
    created_by: Actor
    updated_at: datetime
    updated_by: Actor


class OneModel(BaseModel):
    data: Model


endpoint = Endpoint(
    __name__,
    "GET",
    path="/api/models/{model_id}",
    request=GetModel,
    response=OneModel,
    error_format=POLYTOMIC,
    errors=(MODEL_NOT_FOUND,),
    example_request={"model_id": MODEL_ID},
    example_response={"data": EXAMPLE},
)
handler = lambda_handler(endpoint)
