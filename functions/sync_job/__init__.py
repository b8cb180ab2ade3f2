"""Sync jobs define which resources of a connection are read, and which depend on others.

Source of paths, fields and status values: the published API of sync jobs.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from functions._shared.error_catalog import CIRCULAR_DEPENDENCY, INVALID_RESOURCES, UNKNOWN_DEPENDENCY
from functions._shared.fields import AcceptsOnly, PgJson, PgText, StrictRequest, SupportedValues

PATH = "/sync-job"  # of all its endpoints

# In examples.
JOB_ID = "4a4de828-f4db-4c9e-adfd-434e0864c3c7"
ENVIRONMENT_ID = "7d9c7b7e-6e0c-4cfb-8c58-2d1f2c0f6a11"

RESOURCE_ERRORS = (INVALID_RESOURCES, UNKNOWN_DEPENDENCY, CIRCULAR_DEPENDENCY)


class ResourceNode(StrictRequest):
    """`depends_on`: read once per record of that resource, which is `{{resources.<name>.<field>}}` in `id` and `query`.

    `loop_on`: read once per element of that list; the element replaces the list. `persist`: whether records are stored
    or delivered, rather than only read for dependent resources. By default, if the name has a slash.
    """

    resource: Annotated[PgText, Field(min_length=1, max_length=200)]
    method: Annotated[str, SupportedValues("list", "get")]
    id: PgText | None = None
    query: PgJson | None = None
    loop_on: PgText | None = None
    depends_on: PgText | None = None
    persist: bool | None = None


def _as_number(value: object) -> object:
    return int(value) if isinstance(value, str) and value in {"1", "2", "3", "4"} else value


Resources = Annotated[list[ResourceNode], Field(min_length=1, max_length=100)]
# Clients send a number or a string.
Version = Annotated[int, BeforeValidator(_as_number), SupportedValues(1, 2, 3)]
Unsupported = Annotated[str | None, AcceptsOnly("")]
