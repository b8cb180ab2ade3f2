"""Your agency's bulk syncs, the last changed first, page by page."""

from __future__ import annotations

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_format import POLYTOMIC
from functions._shared.fields import PgInt, PgText
from functions.bulk_sync.get_bulk_sync import EXAMPLE, BulkSync
from functions.connection import INVALID_PAGE_TOKEN, Pagination


class ListBulkSyncs(BaseModel):
    """`page_token` is the `next_page_token` of the page before; `limit` is at most 50, which it is without."""

    active: bool | None = None
    page_token: PgText | None = None
    limit: PgInt | None = None


class BulkSyncs(BaseModel):
    data: list[BulkSync]
    pagination: Pagination


endpoint = Endpoint(
    __name__,
    "GET",
    path="/api/bulk/syncs",
    rpc="list_bulk_syncs",
    request=ListBulkSyncs,
    response=BulkSyncs,
    error_format=POLYTOMIC,
    errors=(INVALID_PAGE_TOKEN,),
    example_response={"data": [EXAMPLE], "pagination": {"next_page_token": ""}},
)
handler = endpoint.handler
