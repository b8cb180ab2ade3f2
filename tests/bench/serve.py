"""`python -m tests.bench.serve ours|plain` serves the functions, or their peer in Python, on PORT."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from functions._local.web_server import WebServer

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication


def _application(name: str) -> WSGIApplication:
    if name == "plain":
        from tests.bench.peers.plain_function import application  # noqa: PLC0415

        return application
    from functions._shared import logs, registry, services  # noqa: PLC0415
    from functions._shared.wsgi_adapter import wsgi  # noqa: PLC0415

    logs.to_stderr()
    registry.endpoints()
    made = services.from_deployment()
    return wsgi(lambda request: registry.handle(request, made))


if __name__ == "__main__":
    WebServer(_application(sys.argv[1]), int(os.environ["PORT"]), threads=16)
    signal.pause()
