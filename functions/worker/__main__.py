"""`python -m functions.worker`: claims and runs executions until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal

from functions._shared import logs
from functions._shared.services import with_secrets
from functions.worker.deployment import crew, number

LOOKS_AT_ONCE = 2


async def main() -> None:
    logs.to_stderr()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for one in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(one, stop.set)
    environment = with_secrets(os.environ)
    concurrency = int(number(environment, "WORKER_CONCURRENCY", "4"))
    async with crew(environment) as workers:
        await asyncio.gather(
            workers.worker("runs", concurrency).run(stop),
            workers.worker("checks", LOOKS_AT_ONCE).run(stop),
            workers.outbox().run(stop),
            workers.secret_cleanup().run(stop),
        )


if __name__ == "__main__":
    asyncio.run(main())
    # An orderly exit would wait for a connection that a frozen database never accepts. All work is done.
    os._exit(0)
