"""A process that reads decisions as they come, read_committed, and notes when it saw each.

    python -m benchmarks.reader ADDRESS OUT TOPIC…

Reads until SIGTERM; then OUT is an .npz with ``numbers`` (of events) and ``times`` (seconds since 1970).
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import time
from array import array
from pathlib import Path

import numpy as np
from aiokafka import TopicPartition

from benchmarks.topics import make_consumer
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.fetching import fetch_without_pause

POLL_MS = 100


async def run(address: str, topics: list[str]) -> tuple[array[int], array[float]]:
    connection = Connection((address,))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    numbers, times = array("q"), array("d")
    consumer = make_consumer(connection, isolation_level="read_committed", max_partition_fetch_bytes=2 << 20)
    await consumer.start()
    fetch_without_pause(consumer)  # the pause would be our latency, and nobody else's
    try:
        there = await admin.describe(connection, topics)
        parts = [TopicPartition(name, number) for name, info in there.items() for number in range(info.partitions)]
        consumer.assign(parts)
        await consumer.seek_to_beginning(*parts)
        while not stop.is_set():
            batches = await consumer.getmany(timeout_ms=POLL_MS)
            now = time.time()
            for records in batches.values():
                numbers.extend([int(record.key) for record in records])
                times.extend([now] * len(records))
    finally:
        await consumer.stop()
    return numbers, times


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("out", type=Path)
    parser.add_argument("topics", nargs="+")
    given = parser.parse_args()
    numbers, times = asyncio.run(run(given.address, given.topics))
    np.savez(given.out, numbers=np.frombuffer(numbers, np.int64), times=np.frombuffer(times, np.float64))


if __name__ == "__main__":
    main()
