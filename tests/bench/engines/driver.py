"""Shared by the drivers in Python: reads {batch, jobs} per line from stdin, writes the seconds taken to stdout."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def run(fill: Callable[[int], Awaitable[None]], take: Callable[[int], Awaitable[int]]) -> None:
    """`fill` queues jobs. `take` claims and completes at most that many and returns their number."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        asked = json.loads(line)
        await fill(asked["jobs"])
        begun, left = time.perf_counter(), asked["jobs"]
        while left > 0:
            taken = await take(asked["batch"])
            assert taken, "the queue has lost jobs"
            left -= taken
        print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)
