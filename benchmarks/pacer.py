"""A process that produces events at a steady rate, and notes when it handed each over.

    python -m benchmarks.pacer ADDRESS JOB TOPIC FIRST COUNT RATE OUT

OUT is an .npz with ``stops`` (the number after the last event of each hand-over) and ``times`` (seconds since 1970,
just before it). A hand-over is due every two milliseconds; one that comes late makes up for what is due by then.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

import numpy as np

from benchmarks.events import Pool, make_pool
from benchmarks.jobs import JOBS
from benchmarks.topics import make_producer, send
from streamproc.kafka.connection import Connection

TICK_SECONDS = 0.002


async def run(
    address: str, pool: Pool, topic: str, first: int, count: int, rate: float
) -> tuple[list[int], list[float]]:
    producer = make_producer(Connection((address,)), linger_ms=0)
    await producer.start()
    stops: list[int] = []
    times: list[float] = []
    try:
        started, done = time.perf_counter(), 0
        while done < count:
            due = min(int((time.perf_counter() - started) * rate) + 1, count)
            if due > done:
                times.append(time.time())
                stops.append(first + due)
                await send(producer, topic, pool, first + done, first + due)
                done = due
            await asyncio.sleep(TICK_SECONDS)
        await producer.flush()
    finally:
        await producer.stop()
    return stops, times


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("job", choices=sorted(JOBS))
    parser.add_argument("topic")
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("rate", type=float)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    pool = make_pool(JOBS[given.job])
    stops, times = asyncio.run(run(given.address, pool, given.topic, given.first, given.count, given.rate))
    np.savez(given.out, stops=stops, times=times)


if __name__ == "__main__":
    main()
