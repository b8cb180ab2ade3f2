"""Tells workers that there is something to claim, where they do not look by themselves.

Said after the commit, and only a hint: one that is lost delays a run until the next tick, one that comes twice finds
nothing more to claim.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

# What runs for hours must not be in the way of what somebody waits for.
Queue = Literal["runs", "checks"]
QUEUES: tuple[Queue, ...] = ("runs", "checks")


class Dispatcher(Protocol):
    def notify(self, lane: Queue, count: int = 1) -> None:
        """Asks for so many workers. Never raises: what was committed is committed."""
        ...


class PollingDispatcher:
    """Workers that ask the database themselves, every tick or when it notifies them."""

    def notify(self, lane: Queue, count: int = 1) -> None:
        pass


class SqsDispatcher:
    """A message for each worker that is wanted; what it says is for people who read the queue."""

    def __init__(self, urls: Mapping[Queue, str]) -> None:
        self._urls = urls

    def notify(self, lane: Queue, count: int = 1) -> None:
        from functions._shared import aws  # noqa: PLC0415 (a cancel does not pay for it)

        try:
            aws.send(self._urls[lane], [{"queue": lane}] * count)
        except Exception as error:  # of the network, of AWS or of the settings: the tick makes up for it
            log.warning("nobody was woken", extra={"queue": lane, "error": f"{type(error).__name__}: {error}"})


def make(queue_url: str | None, check_queue_url: str | None) -> Dispatcher:
    if queue_url is None or check_queue_url is None:
        return PollingDispatcher()
    return SqsDispatcher({"runs": queue_url, "checks": check_queue_url})
