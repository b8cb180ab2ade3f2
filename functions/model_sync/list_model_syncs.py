"""Lists your agency's model syncs, last changed first."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import INVALID_PAGE_TOKEN
from functions._shared.error_format import POLYTOMIC
from functions._shared.fields import PgInt, PgText
from functions._shared.lambda_adapter import lambda_handler
from functions.connection import Pagination
from functions.model_sync.get_model_sync import EXAMPLE, ModelSync


class ListModelSyncs(BaseModel):
    """`page_token` is the `next_page_token` of the previous page. `limit` is at most 50, which is the default."""

    active: bool | None = None
    mode: PgText | None = None
    target_connection_id: UUID | None = None
    page_token: PgText | None = None
    limit: PgInt | None = None


class ModelSyncs(BaseModel):
    data: list[ModelSync]
    pagination: Pagination


endpoint = Endpoint(
    __name__,
    "GET",
    path="/api/syncs",
    request=ListModelSyncs,
    response=ModelSyncs,
    error_format=POLYTOMIC,
    errors=(INVALID_PAGE_TOKEN,),
    example_response={"data": [EXAMPLE], "pagination": {"next_page_token": ""}},
)
handler = lambda_handler(endpoint)
