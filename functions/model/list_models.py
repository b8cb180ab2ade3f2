"""Your agency's models, the last changed first, page by page."""

from __future__ import annotations

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_format import POLYTOMIC
from functions._shared.fields import PgInt, PgText
from functions.connection import INVALID_PAGE_TOKEN, Pagination
from functions.model.get_model import EXAMPLE, Model


class ListModels(BaseModel):
    """`page_token` is the `next_page_token` of the page before; `limit` is at most 50, which it is without."""

    page_token: PgText | None = None
    limit: PgInt | None = None


class Models(BaseModel):
    data: list[Model]
    pagination: Pagination


endpoint = Endpoint(
    __name__,
    "GET",
    path="/api/models",
    rpc="list_models",
    request=ListModels,
    response=Models,
    error_format=POLYTOMIC,
    errors=(INVALID_PAGE_TOKEN,),
    example_response={"data": [EXAMPLE], "pagination": {"next_page_token": ""}},
)
handler = endpoint.handler
