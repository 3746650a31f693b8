"""Calls that a disk may never answer: one after another, and nobody has to wait for them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable

from streamproc.kafka.disk import Disk


def test_one_call_after_another_whoever_waits() -> None:
    """A write whose waiter is gone is finished before the next, so that an older file does not replace it."""
    order: list[str] = []
    go = threading.Event()

    def slow(begun: Callable[[], object]) -> None:
        begun()
        go.wait(10)
        order.append("first")

    async def both() -> None:
        disk, loop, begun = Disk(), asyncio.get_running_loop(), asyncio.Event()
        first = asyncio.create_task(disk.run(slow, lambda: loop.call_soon_threadsafe(begun.set)))
        await begun.wait()
        first.cancel()
        second = asyncio.create_task(disk.run(order.append, "second"))
        go.set()
        await second

    asyncio.run(both())
    assert order == ["first", "second"]


HANGS = """
import asyncio, threading, time
from streamproc.kafka.disk import Disk

async def main():
    try:
        async with asyncio.timeout(0.2):
            await Disk().run(threading.Event().wait)
    except TimeoutError:
        print("left", flush=True)

asyncio.run(main())
"""


def test_a_disk_that_hangs_does_not_keep_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, timeout=30, check=True)
    assert done.stdout == b"left\n"
