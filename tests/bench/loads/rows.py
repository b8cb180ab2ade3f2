"""The rows that every contender loads: JSON lines in a file, read before the clock starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

KEY = ("time_hour", "carrier", "flight")


def read(file: str) -> list[dict[str, Any]]:
    with Path(file).open() as lines:
        return [json.loads(line) for line in lines]
