"""The sockets of a door: connections that are counted from their first packet on, and TLS in a bounded time."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import web

from streamproc.errors import EnvironmentFault
from streamproc.serve.settings import ServeSettings

SILENT: Final = logging.Logger("aiohttp", logging.CRITICAL + 1)
"""aiohttp quotes what it cannot parse, which may be a key or an event. What handlers raise is logged by ours."""

KEEP_ALIVE_SECONDS: Final = 75.0
"""Longer than balancers keep a connection that is idle."""
STOP_SECONDS: Final = 5.0
HANDSHAKE_SECONDS: Final = 10.0


@asynccontextmanager
async def listening(app: web.Application, settings: ServeSettings, tls: ssl.SSLContext | None) -> AsyncIterator[None]:
    """The application is served; at the end what was asked is answered. Raises EnvironmentFault."""
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=SILENT,
        keepalive_timeout=KEEP_ALIVE_SECONDS,
        lingering_time=1.0,
        auto_decompress=False,
        shutdown_timeout=STOP_SECONDS,
    )
    await runner.setup()
    assert runner.server is not None
    gate = Gate(runner.server, settings.connections, tls)
    try:
        try:
            sockets = await asyncio.get_running_loop().create_server(
                gate.connected, settings.host, settings.port, reuse_address=True
            )
        except OSError as error:
            raise EnvironmentFault(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
        try:
            yield
        finally:
            sockets.close()
            gate.close()
    finally:
        await runner.cleanup()


class Gate:
    """Lets so many connections in: each takes memory, be it silent or not, in its handshake or behind it."""

    def __init__(self, server: web.Server, most: int, tls: ssl.SSLContext | None) -> None:
        self._server, self._most, self._tls = server, most, tls
        self._greeting = set[asyncio.Task[None]]()

    def connected(self) -> asyncio.BaseProtocol:
        """The protocol of a connection until it is let in."""
        return _Arrival(self)

    def let_in(self, arrival: _Arrival, transport: asyncio.Transport) -> None:
        """Serve a connection, after its handshake; one that is one too many is closed at once."""
        if len(self._server.connections) + len(self._greeting) >= self._most:
            transport.abort()
        elif self._tls is None:
            self._serve(transport)
        else:
            transport.pause_reading()
            task = asyncio.create_task(self._greet(arrival, transport, self._tls))
            self._greeting.add(task)
            task.add_done_callback(self._greeting.discard)

    def close(self) -> None:
        """End the handshakes that are under way."""
        for task in self._greeting:
            task.cancel()

    async def _greet(self, arrival: _Arrival, transport: asyncio.Transport, tls: ssl.SSLContext) -> None:
        over = None
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                over = await asyncio.get_running_loop().start_tls(transport, arrival, tls, server_side=True)
        except (OSError, TimeoutError):
            return  # no TLS, no certificate of ours, gone, or silent: TLS has told the caller, if anything can
        finally:
            if over is None:
                transport.abort()
        if over is not None and not over.is_closing():
            self._serve(over, arrival.came)

    def _serve(self, transport: asyncio.Transport, came: Sequence[bytes] = ()) -> None:
        handler = self._server()
        transport.set_protocol(handler)
        handler.connection_made(transport)
        for data in came:
            handler.data_received(data)


class _Arrival(asyncio.Protocol):
    """A connection that is not let in yet; what comes with the end of its handshake is kept."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self.came = gate, list[bytes]()

    def connection_made(self, transport: Any) -> None:
        self._gate.let_in(self, transport)

    def data_received(self, data: bytes) -> None:
        self.came.append(data)
