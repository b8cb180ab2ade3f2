"""A process that must not outlive the one that started it."""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable


def dies_with_parent(how: signal.Signals) -> Callable[[], None]:
    """For `preexec_fn`: on Linux the kernel sends `how` when the parent is gone, even one that was killed outright."""

    def ask() -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, how)

    return ask
