"""Bulk syncs: whole resources of a connection, copied to a connection of kind `records`.

Source of paths, members and words: the published API, versions 2023-04-25 to 2025-09-18.
"""

from __future__ import annotations

from functions._shared.errors import ErrorSpec

PATH = "/api/bulk/syncs"  # what those of its endpoints begin with

# In examples.
SYNC_ID = "248df4b7-aa70-47b8-a036-33ac447e668d"
EXECUTION_ID = "01a20382-fece-7d96-a5c5-b8c163abfe5d"

SYNC_NOT_FOUND = ErrorSpec(404, "bulk_sync_not_found", "There is no bulk sync with this id.")
EXECUTION_NOT_FOUND = ErrorSpec(404, "execution_not_found", "This sync has no execution with this id.")
UNKNOWN_SCHEMA = ErrorSpec(
    400,
    "unknown_schema",
    "The source has no schema of that name; it has those in `available`.",
    {"schema": "flight", "available": ["flights", "weather"]},
)
