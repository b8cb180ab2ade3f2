"""What the Python drivers share: a line {batch, jobs} on stdin, the seconds that it took on stdout."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def obey(fill: Callable[[int], Awaitable[None]], take: Callable[[int], Awaitable[int]]) -> None:
    """`fill` queues so many jobs; `take` claims and finishes at most so many and answers how many there were."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        asked = json.loads(line)
        await fill(asked["jobs"])
        begun, left = time.perf_counter(), asked["jobs"]
        while left > 0:
            taken = await take(asked["batch"])
            assert taken, "the queue was shorter than what was put in it"
            left -= taken
        print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)
