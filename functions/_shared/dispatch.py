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
Lane = Literal["runs", "looks"]
LANES: tuple[Lane, ...] = ("runs", "looks")


class Dispatcher(Protocol):
    def wake(self, lane: Lane, count: int = 1) -> None:
        """Asks for so many workers. Never raises: what was committed is committed."""
        ...


class Polling:
    """Workers that ask the database themselves, every tick or when it notifies them."""

    def wake(self, lane: Lane, count: int = 1) -> None:
        pass


class Queues:
    """A message for each worker that is wanted; what it says is for people who read the queue."""

    def __init__(self, urls: Mapping[Lane, str]) -> None:
        self._urls = urls

    def wake(self, lane: Lane, count: int = 1) -> None:
        from functions._shared import aws  # noqa: PLC0415 (a cancel does not pay for it)

        try:
            aws.send(self._urls[lane], [{"lane": lane}] * count)
        except Exception as error:  # of the network, of AWS or of the settings: the tick makes up for it
            log.warning("nobody was woken", extra={"lane": lane, "error": f"{type(error).__name__}: {error}"})


def make(queue_url: str | None, look_queue_url: str | None) -> Dispatcher:
    if queue_url is None or look_queue_url is None:
        return Polling()
    return Queues({"runs": queue_url, "looks": look_queue_url})
