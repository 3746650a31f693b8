"""Vectors of texts, made in threads beside the event loop: first those that somebody waits for."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from streamproc.core.llm.nearby import Vector

log = logging.getLogger(__name__)

MOST_THREADS: Final = 4
MOST_WAITING: Final = 512
"""Texts that are not begun with. Of more, the oldest that nobody waits for has no vector, and where there is none of
those, the new one."""


def threads_here() -> int:
    """One for two processors: lanes, the broker's client and other workers want some too."""
    return max(1, min(MOST_THREADS, (os.cpu_count() or 1) // 2))


@dataclass(eq=False, slots=True)
class Making:
    """A text whose vector is made, for so many that ``want`` it, of whom some ``wait`` for it: ``None`` where it has
    none, or is not reached."""

    text: str
    want: int = 0
    wait: int = 0
    reached: bool = False
    """Whether the model said what its vector is, or that it has none. It may another time where it did not."""
    vector: asyncio.Future[Vector | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Vectors:
    """``vector`` is called in so many ``threads``; all else on one event loop. Equal texts at one time are one."""

    def __init__(self, vector: Callable[[str], Vector | None], threads: int) -> None:
        self._vector, self._threads = vector, threads
        self._makings = dict[str, Making]()
        self._soon, self._later = OrderedDict[str, Making](), OrderedDict[str, Making]()
        self._running = 0
        self._pool: ThreadPoolExecutor | None = None
        self._told = ""

    def __len__(self) -> int:
        """Texts that are waiting, or being made a vector of."""
        return len(self._makings)

    def warm_up(self) -> None:
        """Make one for nothing in the thread that calls it: what makes them is opened then."""
        self._vector("")

    def make(self, text: str, *, soon: bool) -> Making:
        """Begin with a text: before all others that nobody waits for, where it is wanted ``soon``."""
        making = self._makings.get(text)
        if making is None:
            making = Making(text)
            if not self._has_room(soon):
                making.vector.set_result(None)
                return making
            self._makings[text] = making
            (self._soon if soon else self._later)[text] = making
            self._begin()
        elif soon and text in self._later:
            self._soon[text] = self._later.pop(text)
        making.want += 1
        making.wait += soon
        return making

    def later(self, making: Making) -> None:
        """One who wanted it soon no longer waits for it. Where nobody does, what somebody waits for goes before it."""
        making.wait -= 1
        if not making.wait and self._soon.get(making.text) is making:
            self._later[making.text] = self._soon.pop(making.text)

    def leave(self, making: Making) -> None:
        """One no longer wants it. Where nobody does, and it is not begun with, it is not made."""
        making.want -= 1
        waiting = making.text in self._soon or making.text in self._later
        if not making.want and waiting and self._makings.get(making.text) is making:
            self._drop(making)

    async def idle(self) -> None:
        """Wait until nothing is left to be made."""
        while self._makings:
            await asyncio.wait([making.vector for making in self._makings.values()])

    def close(self) -> None:
        """End the threads. What waits has no vector."""
        for making in [*self._soon.values(), *self._later.values()]:
            self._drop(making)
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _has_room(self, soon: bool) -> bool:
        if len(self._soon) + len(self._later) < MOST_WAITING:
            return True
        if self._later:
            self._drop(next(iter(self._later.values())))
            return True
        return False

    def _drop(self, making: Making) -> None:
        self._soon.pop(making.text, None)
        self._later.pop(making.text, None)
        self._end(making, None)

    def _end(self, making: Making, vector: Vector | None) -> None:
        del self._makings[making.text]
        if not making.vector.done():
            making.vector.set_result(vector)

    def _begin(self) -> None:
        """Give the threads that are free something to do."""
        while self._running < self._threads and (self._soon or self._later):
            _, making = (self._soon or self._later).popitem(last=False)
            self._pool = self._pool or ThreadPoolExecutor(self._threads, "vectors")
            self._running += 1
            made = asyncio.get_running_loop().run_in_executor(self._pool, self._vector, making.text)
            made.add_done_callback(lambda made, making=making: self._made(making, made))  # type: ignore[misc]

    def _made(self, making: Making, made: asyncio.Future[Vector | None]) -> None:
        self._running -= 1
        error = None if made.cancelled() else made.exception()
        if error is not None and self._told != type(error).__name__:
            # No memory, a file that is none. What it says may quote the event.
            self._told = type(error).__name__
            log.warning("the model for texts that are alike: %s", self._told)
        making.reached = not made.cancelled() and error is None
        self._end(making, made.result() if making.reached else None)
        self._begin()
