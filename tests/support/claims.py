"""Arguments of a claim that the database must reject."""

from __future__ import annotations

from typing import Any

INVALID_CLAIMS: list[dict[str, Any]] = [
    {"max_executions": 0}, {"max_executions": -1}, {"max_executions": 101}, {"max_executions": 1000},
    {"max_executions": None},
    {"lease_seconds": 0}, {"lease_seconds": -30}, {"lease_seconds": 3601}, {"lease_seconds": None},
    {"worker": ""}, {"worker": "x" * 201}, {"worker": None},
    {"families": None}, {"families": {}}, {"families": '"bulk_sync"'}, {"families": "1"}, {"families": "null"},
]  # fmt: skip
