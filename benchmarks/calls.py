"""Callers that cost little: the load must not take the processors from what is measured. HTTP/1.1, kept connections."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from typing import Final, cast

HEAD_ENDS: Final = b"\r\n\r\n"
LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

Answered = Callable[[int], None]
"""Told the status of an answer; 0 where the connection ended first."""


class Calls:
    """POSTs to one address, over at most so many connections: what is more waits for one."""

    def __init__(self, port: int, most: int) -> None:
        self._port, self._most = port, most
        self._made = 0
        self._idle = list[_Connection]()
        self._waiting = deque[tuple[bytes, Answered]]()

    def request(self, path: str, body: bytes) -> bytes:
        """The bytes of a request."""
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def send(self, request: bytes, answered: Answered) -> None:
        """Send a request now, or as soon as there is a connection."""
        if self._idle:
            self._idle.pop().send(request, answered)
            return
        self._waiting.append((request, answered))
        if self._made < self._most:
            self._made += 1
            task = asyncio.get_running_loop().create_task(self._connect())
            task.add_done_callback(lambda done: done.result())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port)
        self.free(made)

    def free(self, connection: _Connection) -> None:
        """A connection has nothing to do."""
        if self._waiting:
            connection.send(*self._waiting.popleft())
        else:
            self._idle.append(connection)

    def lost(self, connection: _Connection) -> None:
        """One has ended."""
        self._made -= 1
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """End those that have nothing to do."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


class _Connection(asyncio.Protocol):
    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._answered: Answered | None = None
        self._read = bytearray()
        self._whole = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes, answered: Answered) -> None:
        self._answered = answered
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._read += data
        if not self._whole:
            head = self._read.find(HEAD_ENDS)
            if head < 0:
                return
            length = LENGTH.search(self._read, 0, head + 2)
            self._whole = head + len(HEAD_ENDS) + (0 if length is None else int(length[1]))
        if len(self._read) < self._whole:
            return
        status, answered = int(self._read[9:12]), self._answered
        self._read.clear()
        self._whole, self._answered = 0, None
        if answered is not None:
            answered(status)
        self._calls.free(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._calls.lost(self)
        if self._answered is not None:
            self._answered(0)

    def close(self) -> None:
        self._transport.close()
