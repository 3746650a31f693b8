"""How long a worker takes to restore the state of its lanes: ``python -m benchmarks.restore [--keys 1000000]``.

Writes that many keys to a changelog of four partitions, restores them as an opening worker does, and says how long that
took, and for how long at most the event loop stood still meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator

from aiokafka import AIOKafkaProducer, TopicPartition

from streamproc.core.state import Tables, changelog_key
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.dev_broker import DevBroker
from streamproc.kafka.restore import restore

TOPIC, TABLE, PARTITIONS = "bench.state", "counts", 4
VALUE_BYTES = 40
TICK_SECONDS = 0.02


async def run(connection: Connection, keys: int) -> tuple[int, float, float]:
    """Keys restored, seconds, and the longest time in seconds that the event loop was busy at once."""
    await admin.create(connection, [admin.TopicSpec(TOPIC, PARTITIONS, cleanup_policy="compact")])
    await write(connection, keys)
    tables = {TopicPartition(TOPIC, number): Tables([TABLE]) for number in range(PARTITIONS)}
    gaps: list[float] = []
    ticker = asyncio.create_task(tick(gaps))
    started = time.perf_counter()
    await restore(connection, tables, lambda read: None)
    seconds = time.perf_counter() - started
    ticker.cancel()
    return sum(map(len, tables.values())), seconds, max(gaps)


async def write(connection: Connection, keys: int) -> None:
    producer = AIOKafkaProducer(**connection.client_kwargs(), max_batch_size=1 << 19)
    await producer.start()
    try:
        for partition in range(PARTITIONS):
            batch = producer.create_batch()
            for key, value in entries(partition, keys):
                if batch.append(timestamp=None, key=key, value=value) is None:
                    await producer.send_batch(batch, TOPIC, partition=partition)
                    batch = producer.create_batch()
                    batch.append(timestamp=None, key=key, value=value)
            await producer.send_batch(batch, TOPIC, partition=partition)
        await producer.flush()
    finally:
        await producer.stop()


def entries(partition: int, keys: int) -> Iterator[tuple[bytes, bytes]]:
    for number in range(partition, keys, PARTITIONS):
        yield changelog_key(TABLE, b"customer-%09d" % number), b"%0*d" % (VALUE_BYTES, number)


async def tick(gaps: list[float]) -> None:
    last = time.perf_counter()
    while True:
        await asyncio.sleep(TICK_SECONDS)
        now = time.perf_counter()
        gaps.append(now - last - TICK_SECONDS)
        last = now


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--keys", type=int, default=1_000_000, help="default: 1,000,000")
    given = parser.parse_args()
    with DevBroker() as broker:
        found, seconds, gap = asyncio.run(run(Connection((broker.address,)), given.keys))
    print(f"{found:,} keys in {seconds:.1f} s; the event loop stood still for {gap * 1000:.0f} ms at most")


if __name__ == "__main__":
    main()
