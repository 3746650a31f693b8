"""The limit in Python: aiokafka copies every record, at-least-once, and looks at none.

As fast as its interface allows: whole batches in, batches built by hand out, offsets committed once a second.
"""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from benchmarks.contestants.base import Setup, arguments

COMMIT_SECONDS = 1.0


async def run(setup: Setup) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    consumer = AIOKafkaConsumer(
        setup.input,
        bootstrap_servers=setup.address,
        group_id=setup.topics.prefix,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    producer = AIOKafkaProducer(bootstrap_servers=setup.address, max_batch_size=1 << 16)
    await producer.start()
    await consumer.start()
    try:
        committed = time.monotonic()
        while not stop.is_set():
            fetched = await consumer.getmany(timeout_ms=100)
            for partition, records in fetched.items():
                await _copy(producer, setup.topics.decisions, partition.partition, records)
            if time.monotonic() - committed > COMMIT_SECONDS:
                await producer.flush()
                await consumer.commit()
                committed = time.monotonic()
    finally:
        await producer.stop()
        await consumer.stop()


async def _copy(producer: Any, topic: str, partition: int, records: list[Any]) -> None:
    batch = producer.create_batch()
    for record in records:
        if batch.append(timestamp=None, key=record.key, value=record.value, headers=[]) is None:
            await producer.send_batch(batch, topic, partition=partition)
            batch = producer.create_batch()
            batch.append(timestamp=None, key=record.key, value=record.value, headers=[])
    await producer.send_batch(batch, topic, partition=partition)


if __name__ == "__main__":
    asyncio.run(run(arguments()))
