"""Ends the process when a lane has work and makes no progress. Stalls end by themselves: a supervisor starts it again.

It runs in a thread of its own, so that an event loop that hangs is noticed as well.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable

from streamproc.errors import Exit, Stalled, StreamprocError

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0


def end_process(error: BaseException) -> None:
    """End this worker at once, saying why. Nothing of the cycle in flight is kept: its transaction is aborted."""
    if isinstance(error, StreamprocError):
        code = error.exit_code
        log.critical("%s%s", error.message, f" ({error.hint})" if error.hint else "")
    else:
        code = Exit.BUG
        # The text of a foreign exception may quote an event, so it is shown at debug level only.
        text = f": {error}" if log.isEnabledFor(logging.DEBUG) else ""
        frames = "".join(traceback.format_tb(error.__traceback__))
        log.critical("a bug ended this worker: %s%s\n%s", type(error).__name__, text, frames)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Watchdog:
    """Calls ``stuck`` every second; it says what is stuck for longer than allowed, or nothing."""

    def __init__(self, stuck: Callable[[float], str | None], seconds: float) -> None:
        self._stuck = stuck
        self._seconds = seconds
        self._beat = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def beat(self) -> None:
        """The event loop is alive."""
        self._beat = time.monotonic()

    def _watch(self) -> None:
        while not self._stop.wait(CHECK_SECONDS):
            reason = self._stuck(self._seconds)
            if time.monotonic() - self._beat > self._seconds:
                reason = "the event loop hangs"
            if reason is not None:
                end_process(Stalled(f"no progress for {self._seconds:.0f} s: {reason}"))
