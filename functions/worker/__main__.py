"""`python -m functions.worker`: claims and runs executions until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal

from functions._shared import logs
from functions._shared.services import with_secrets
from functions.worker.context import number, worker_context

CHECK_CONCURRENCY = 2


async def main() -> None:
    logs.to_stderr()
    shutdown = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, shutdown.set)
    environment = with_secrets(os.environ)
    concurrency = int(number(environment, "WORKER_CONCURRENCY", "4"))
    async with worker_context(environment) as context:
        await asyncio.gather(
            context.worker("runs", concurrency).run(shutdown),
            context.worker("checks", CHECK_CONCURRENCY).run(shutdown),
            context.outbox().run(shutdown),
            context.secret_cleanup().run(shutdown),
        )


if __name__ == "__main__":
    asyncio.run(main())
    # An orderly exit would wait for a connection that a frozen database never accepts. All work is done.
    os._exit(0)
