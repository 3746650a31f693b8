"""Topics of a run: making, filling, watching and removing them."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks.events import Pool
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection

PARTITIONS = 12
BATCH_BYTES = 1 << 16
TURN = 12_000  # events put together before the loop is let in; a multiple of the partitions


def create(connection: Connection, names: list[str], partitions: int = PARTITIONS) -> None:
    asyncio.run(admin.create(connection, [admin.TopicSpec(name, partitions, 1) for name in names]))


def remove(connection: Connection, prefix: str) -> None:
    """Delete the topics whose name begins so, and wait for it."""

    async def run() -> None:
        there = await admin.describe(connection)
        await admin.delete_topics(connection, [name for name in there if name.startswith(prefix)])

    asyncio.run(run())


def fill(connection: Connection, topic: str, pool: Pool, first: int, count: int) -> None:
    """Produce events ``first`` to ``first + count - 1``, as fast as it goes."""

    async def run() -> None:
        producer = make_producer(connection, linger_ms=5)
        await producer.start()
        try:
            for start in range(first, first + count, TURN):
                await send(producer, topic, pool, start, min(start + TURN, first + count))
            await producer.flush()
        finally:
            await producer.stop()

    asyncio.run(run())


def make_producer(connection: Connection, linger_ms: int) -> Any:
    return AIOKafkaProducer(
        **connection.client_kwargs(), enable_idempotence=True, linger_ms=linger_ms, max_batch_size=BATCH_BYTES
    )


async def send(producer: Any, topic: str, pool: Pool, first: int, stop: int) -> None:
    """Hand over events ``first`` to ``stop - 1``, as a few batches for each partition."""
    for place in range(PARTITIONS):
        batch = producer.create_batch()
        for number in range(first + (place - first) % PARTITIONS, stop, PARTITIONS):
            key, value = b"%d" % number, pool.value(number)
            if batch.append(timestamp=None, key=key, value=value, headers=[]) is None:
                await producer.send_batch(batch, topic, partition=place)
                batch = producer.create_batch()
                batch.append(timestamp=None, key=key, value=value, headers=[])
        if batch.record_count():
            await producer.send_batch(batch, topic, partition=place)


async def ends(connection: Connection, consumer: Any, names: list[str]) -> int:
    """The sum of these topics' end offsets, markers of transactions included; what is not there yet counts as 0."""
    there = await admin.describe(connection, names)
    parts = [TopicPartition(name, number) for name, info in there.items() for number in range(info.partitions)]
    return sum((await consumer.end_offsets(parts)).values()) if parts else 0


def make_consumer(connection: Connection, **more: Any) -> Any:
    settings: dict[str, Any] = {"enable_auto_commit": False, "fetch_max_wait_ms": 20} | more
    consumer = AIOKafkaConsumer(**connection.client_kwargs(), **settings)
    return consumer
