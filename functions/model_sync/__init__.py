"""Model syncs map fields of a model's records to rows of an object in a connection of type `records`.

Source of paths, fields and status values: the published API, versions 2023-04-25 to 2025-09-18.
"""

from __future__ import annotations

PATH = "/api/syncs"  # of all its endpoints

# In examples.
SYNC_ID = "248df4b7-aa70-47b8-a036-33ac447e668d"
EXECUTION_ID = "01a20382-fece-7d96-a5c5-b8c163abfe5d"
