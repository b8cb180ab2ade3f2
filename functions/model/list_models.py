"""Lists your agency's models, last changed first."""

from __future__ import annotations

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import INVALID_PAGE_TOKEN
from functions._shared.error_format import POLYTOMIC
from functions._shared.fields import PgInt, PgText
from functions._shared.lambda_adapter import lambda_handler
from functions.connection import Pagination
from functions.model.get_model import EXAMPLE, Model


class ListModels(BaseModel):
    """`page_token` is the `next_page_token` of the previous page. `limit` is at most 50, which is the default."""

    page_token: PgText | None = None
    limit: PgInt | None = None


class Models(BaseModel):
    data: list[Model]
    pagination: Pagination


endpoint = Endpoint(
    __name__,
    "GET",
    path="/api/models",
    request=ListModels,
    response=Models,
    error_format=POLYTOMIC,
    errors=(INVALID_PAGE_TOKEN,),
    example_response={"data": [EXAMPLE], "pagination": {"next_page_token": ""}},
)
handler = lambda_handler(endpoint)
