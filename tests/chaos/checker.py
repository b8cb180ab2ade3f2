"""Looks at every source, as a worker would, and does nothing else."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from tests.chaos.target import Target


class Looker:
    """They all answer, with records of one field."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        claim = """select public.worker_claim('looker', '["source_check"]', 100) as looks"""
        finish = """select public.worker_complete(%s, %s, '{"fields": [{"name": "id", "type": "string"}]}')"""
        with psycopg.connect(self._target.url, autocommit=True) as connection:
            connection.execute("set role service_role")
            while not self._stop.wait(0.02):
                for row in connection.execute(claim).fetchall():
                    for look in row[0]:
                        connection.execute(finish, (look["id"], look["lease_token"]))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
