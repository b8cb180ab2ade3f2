"""Completes every source check, like a worker, and does nothing else."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from tests.chaos.target import Target


class SourceChecker:
    """Every source can be read, and its records have one field."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._check, daemon=True)
        self._thread.start()

    def _check(self) -> None:
        claim = """select public.worker_claim('checker', '["source_check"]', 100) as checks"""
        finish = """select public.worker_complete(%s, %s, '{"fields": [{"name": "id", "type": "string"}]}')"""
        with psycopg.connect(self._target.url, autocommit=True) as connection:
            connection.execute("set role service_role")
            while not self._stop.wait(0.02):
                for row in connection.execute(claim).fetchall():
                    for check in row[0]:
                        connection.execute(finish, (check["id"], check["lease_token"]))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
