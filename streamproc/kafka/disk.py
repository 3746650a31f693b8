"""Calls that a disk may never answer, in a thread that the end of the process does not wait for."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")


class Disk:
    """Runs one call after another. One that nobody waits for any more is still finished before the next."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(self, function: Callable[..., Result], *args: Any) -> Result:
        """What the call returns or raises. Where it is cancelled before its turn it is left out."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()

        def call() -> None:
            if answer.cancelled():
                return
            try:
                result = function(*args)
            except BaseException as error:
                tell(answer.set_exception, error)
            else:
                tell(answer.set_result, result)

        def tell(set_it: Callable[[Any], None], what: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(lambda: None if answer.done() else set_it(what))

        self._calls.put(call)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="disk", daemon=True)
            self._thread.start()
        return await answer

    def _work(self) -> None:
        while True:
            self._calls.get()()
