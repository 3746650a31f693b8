"""Ends the process when a lane has work and makes no progress. Stalls end by themselves: a supervisor starts it again.

It runs in a thread of its own, so that an event loop that hangs is noticed as well.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import NoReturn

from streamproc.errors import Exit, Stalled, StreamprocError, UserError

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
LAST_WORDS_SECONDS = 5.0


def end_process(error: BaseException) -> NoReturn:
    """End this worker at once, saying why. Nothing of the cycle in flight is kept: its transaction is aborted."""
    # What waiting mends is for the supervisor to start again, whatever it would mean on a command line.
    code = error.exit_code if isinstance(error, UserError) else Exit.BUG
    # The thread that hangs may hold the lock of the log, or its pipe may be full.
    deadline = threading.Timer(LAST_WORDS_SECONDS, os._exit, (code,))
    deadline.daemon = True
    deadline.start()
    if isinstance(error, StreamprocError):
        log.critical("%s%s", error.message, f" ({error.hint})" if error.hint else "")
    else:
        # The text of a foreign exception may quote an event, so it is shown at debug level only.
        text = f": {error}" if log.isEnabledFor(logging.DEBUG) else ""
        frames = "".join(traceback.format_tb(error.__traceback__))
        log.critical("a bug ended this worker: %s%s\n%s", type(error).__name__, text, frames)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def guard(routine: Awaitable[None]) -> None:
    """Run a routine whose failure nobody awaits: it ends the process."""
    try:
        await routine
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        end_process(error)


class Watchdog:
    """Calls ``stuck`` every second; it says what is stuck for longer than allowed, or nothing."""

    def __init__(self, stuck: Callable[[float], str | None], seconds: float) -> None:
        self._stuck = stuck
        self._seconds = seconds
        self._beat = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to look, in a daemon thread of its own: it sees an event loop that hangs."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; it does not wait for the thread."""
        self._stop.set()

    def beat(self) -> None:
        """The event loop is alive."""
        self._beat = time.monotonic()

    def _watch(self) -> None:
        before = None
        while not self._stop.wait(CHECK_SECONDS):
            try:
                reason = self._stuck(self._seconds)
            except Exception as error:
                end_process(error)
            if time.monotonic() - self._beat > self._seconds:
                reason = "the event loop hangs"
            if reason is not None and before is not None:  # twice: a single look may fall between two steps
                end_process(Stalled(f"no progress for {self._seconds:.0f} s: {reason}"))
            before = reason
