"""An HTTP server of this process's own, for demonstrations and tests: on loopback, in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from aiohttp import web

from streamproc.errors import EnvironmentFault

START_SECONDS = 10.0
SHUTDOWN_SECONDS = 0.2
LARGEST_REQUEST = 64 << 20
Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Loopback:
    """Answers POSTs to one path with ``handler``, which is cancelled where its caller leaves. ``loop`` is the thread's.

    The port is the system's choice; ``url`` is the address without the path.
    """

    def __init__(self, path: str, handler: Handler) -> None:
        self._path, self._handler = path, handler
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="loopback", daemon=True)
        self._runner: web.AppRunner | None = None
        self.url = ""

    def start(self) -> None:
        """Listen. Raises EnvironmentFault where that is not possible."""
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._serve(), self.loop).result(START_SECONDS)
        except (OSError, TimeoutError) as error:
            raise EnvironmentFault("no server can be started on 127.0.0.1", type(error).__name__) from error

    def stop(self) -> None:
        """Leave off, whoever still waits for an answer."""
        if self._runner is not None:
            asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self.loop).result(START_SECONDS)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(START_SECONDS)
        self.loop.close()

    async def _serve(self) -> None:
        app = web.Application(client_max_size=LARGEST_REQUEST)
        app.router.add_post(self._path, self._handler)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_SECONDS)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
