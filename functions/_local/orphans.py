"""Child processes that must not outlive their parent."""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable

_SET_PARENT_DEATH_SIGNAL = 1
# Loaded here and not in the child, because loading a library between fork and exec can wait for a lock indefinitely.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def dies_with_parent(how: signal.Signals) -> Callable[[], None]:
    """For `preexec_fn`. On Linux the kernel sends `how` to the child when the parent ends, even by SIGKILL."""

    def set_parent_death_signal() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, how)

    return set_parent_death_signal
