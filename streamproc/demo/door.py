"""The door of the demonstration: `streamproc serve` as a process of its own."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

import aiohttp

from streamproc.demo.surroundings import POLL_MS, READY_SECONDS, Child
from streamproc.errors import EnvironmentFault
from streamproc.kafka.connection import Connection

ASK_SECONDS: Final = 5.0


class Door(Child):
    """Serves the pipeline on loopback. ``url`` is its address without a path."""

    def __init__(self, file: Path, connection: Connection, port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        super().__init__("door", ["serve", str(file), "--kafka", connection.address, "--port", str(port)], log)

    async def until_ready(self) -> None:
        """Wait until events can be sent. Raises EnvironmentFault when it ends or takes too long."""
        deadline = time.monotonic() + READY_SECONDS
        async with aiohttp.ClientSession(self.url, timeout=aiohttp.ClientTimeout(ASK_SECONDS)) as session:
            while not await _is_ready(session):
                self.check()
                if time.monotonic() > deadline:
                    raise EnvironmentFault(f"the door was not ready after {READY_SECONDS:.0f} s", f"see {self.log}")
                await asyncio.sleep(POLL_MS / 1000)


async def _is_ready(session: aiohttp.ClientSession) -> bool:
    try:
        async with session.get("/readyz") as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False  # it does not listen yet
