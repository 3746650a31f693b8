"""Reading topics back, as a consumer that only sees committed records."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from streamproc.kafka.connection import Connection
from streamproc.kafka.restore import bounds


class NotText(str):
    """The name of a header as clients in other languages may send it."""

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"\xff\xfe"


async def read_all(connection: Connection, topic: str) -> list[Any]:
    """Every committed record of a topic, up to what is its end now."""
    return await read_until(connection, topic, None, 30.0)


async def read_until(
    connection: Connection, topic: str, enough: Callable[[list[Any]], bool] | None, seconds: float
) -> list[Any]:
    """Committed records from the beginning until there are enough of them, or until the time is over."""
    consumer = AIOKafkaConsumer(
        **connection.client_kwargs(),
        isolation_level="read_committed",
        enable_auto_commit=False,
        fetch_max_wait_ms=50,
    )
    await consumer.start()
    records: list[Any] = []
    deadline = time.monotonic() + seconds
    try:
        count = len(await consumer._client._wait_on_metadata(topic))
        parts = [TopicPartition(topic, number) for number in range(count)]
        consumer.assign(parts)
        await consumer.seek_to_beginning(*parts)
        # Not the last stable offset: it may lag behind markers of a committed transaction that are on their way.
        ends = {tp: high for tp, (_, high) in (await bounds(connection, parts)).items()}
        while time.monotonic() < deadline:
            if enough is not None and enough(records):
                break
            if enough is None and await _through(consumer, ends):
                break
            for batch in (await consumer.getmany(timeout_ms=100)).values():
                records += batch
        return records
    finally:
        await consumer.stop()


async def _through(consumer: Any, ends: dict[TopicPartition, int]) -> bool:
    positions = await asyncio.gather(*(consumer.position(tp) for tp in ends))
    return all(at >= end for at, end in zip(positions, ends.values(), strict=True))
