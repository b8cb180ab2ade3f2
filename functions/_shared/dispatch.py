"""Notifies workers that there is something to claim.

A notification is sent after the commit and is only a hint: a lost one delays an execution until the next tick, and a
repeated one finds nothing to claim.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal, Protocol

from functions._shared import aws

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

# Source checks have a queue of their own, because a caller waits for them.
Queue = Literal["runs", "checks"]
QUEUES: tuple[Queue, ...] = ("runs", "checks")


class Dispatcher(Protocol):
    def notify(self, queue: Queue, count: int = 1) -> None:
        """Requests `count` workers. Never raises, because the commit has succeeded."""
        ...


class PollingDispatcher:
    """For workers that poll the database on every tick."""

    def notify(self, queue: Queue, count: int = 1) -> None:
        pass


class SqsDispatcher:
    """One message per requested worker."""

    def __init__(self, urls: Mapping[Queue, str]) -> None:
        self._urls = urls

    def notify(self, queue: Queue, count: int = 1) -> None:
        try:
            aws.send(self._urls[queue], [{"queue": queue}] * count)
        except Exception as error:  # network, AWS or settings: the next tick makes up for it
            log.warning("could not notify workers", extra={"queue": queue, "error": f"{type(error).__name__}: {error}"})
