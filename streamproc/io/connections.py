"""Connections of models behind HTTP."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

import aiohttp

from streamproc.io.model import Unavailable

Result = TypeVar("Result")
CLOSE_SECONDS = 5.0


class TooLarge(ValueError):
    """An answer of more bytes than may be."""


async def body_of(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The body of a response. Raises TooLarge, and closes the connection, where it has more bytes than that."""
    chunks, size = list[bytes](), 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > most:
            response.close()
            raise TooLarge("the answer is too large")
        chunks.append(chunk)
    return b"".join(chunks)


class Connections:
    """An event loop in a thread of its own, because batches are scored from any thread, and what is open on it."""

    def __init__(self, **settings: Any) -> None:
        """``settings`` are those of the session beside the usual ones."""
        self._settings = settings
        self._closed = False
        self._others = list[Callable[[], Awaitable[object]]]()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session: aiohttp.ClientSession | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def run(self, routine: Coroutine[Any, Any, Result]) -> Result:
        """Run a routine there, and wait for its end. Raises Unavailable where the connections are closed meanwhile."""
        try:
            return self.begin(routine).result()
        except CancelledError as error:
            raise Unavailable("closed") from error

    def begin(self, routine: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Run a routine there. Raises Unavailable where the connections are closed."""
        with self._starting:
            if self._closed:
                routine.close()
                raise Unavailable("closed")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="http-model", daemon=True)
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(routine, self._loop)  # within the lock: before a disconnection

    def session(self) -> aiohttp.ClientSession:
        """The one session. To be called on the loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(trust_env=False, **self._settings)
        return self._session

    def also_close(self, what: Callable[[], Awaitable[object]]) -> None:
        """Something else that is open on the loop, and closed after the calls have ended."""
        self._others.append(what)

    def close(self) -> None:
        """Close what is open, and end the thread."""
        with self._starting:
            loop, thread, self._loop, self._closed = self._loop, self._thread, None, True
        if loop is None or thread is None:
            return
        closed = asyncio.run_coroutine_threadsafe(self._disconnect(), loop)
        closed.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
        if threading.current_thread() is not thread:  # a garbage collection may come about there too
            thread.join(CLOSE_SECONDS)
            if not thread.is_alive():
                loop.close()

    async def _disconnect(self) -> None:
        """Whoever waits for an answer is told that none comes: a thread that waits for ever keeps its process."""
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        for close in self._others:
            await close()
        if self._session is not None:
            await self._session.close()
            self._session = None
