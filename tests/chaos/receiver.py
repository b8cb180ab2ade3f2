"""A webhook receiver that keeps the records of events."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING

from functions._local.web_server import WebServer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment


class Receiver:
    """`numbers`: the tail numbers of the planes that each run has delivered."""

    def __init__(self) -> None:
        self.numbers: defaultdict[str, set[str]] = defaultdict(set)
        self._server = WebServer(self._receive, threads=8)
        self.url = f"{self._server.url}/events"
        self.close = self._server.close

    def _receive(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        payload = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))["payload"]
        run = payload.get("sync_job_run_id") or payload.get("id")
        self.numbers[run] |= {record["tailnum"] for record in payload.get("records", [])}
        start_response("200 OK", [("content-length", "0")])
        return []
