"""Committed records of one topic: a bounded scan, following it, or one record by its offset.

Everything here reads with read_committed and without a group, so it moves nobody's offsets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Literal, TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka_errors

from streamproc.errors import BrokerUnavailable, UserError
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection

POLL_MS = 500
FETCH_BYTES = 4 << 20

Start: TypeAlias = Literal["beginning", "end"] | int | datetime
"""Where to begin in every partition: an offset, or the first record that is not older than a time (aware)."""

Progress: TypeAlias = Callable[[int, int], None]
"""Told how many offsets have been passed, and how many there are to pass."""


class TopicReader:
    """Reads the committed records of one topic. Made by ``reading``."""

    def __init__(self, consumer: Any, topic: str, partitions: int) -> None:
        self.topic = topic
        self.partitions = partitions
        self._consumer = consumer

    async def scan(
        self,
        start: Start = "beginning",
        *,
        only: Collection[int] | None = None,
        progress: Progress | None = None,
    ) -> AsyncIterator[list[Any]]:
        """Every committed record from ``start`` to what is the end now, in lists, by timestamp within a list.

        ``only`` names the partitions to read. The end is the last stable offset: what lies behind a
        transaction that is still open is not read.
        """
        ends = await self._begin(start, only)
        total = sum([max(0, end - await self._consumer.position(tp)) for tp, end in ends.items()])
        while not await self._is_through(ends):
            yield [record for record in await self._poll() if record.offset < ends[_place(record)]]
            if progress is not None:
                left = sum([max(0, end - await self._consumer.position(tp)) for tp, end in ends.items()])
                progress(total - left, total)

    async def follow(self, start: Start) -> AsyncIterator[list[Any]]:
        """Every committed record from ``start`` on, for ever."""
        await self._begin(start, None)
        while True:
            yield await self._poll()

    async def one(self, partition: int, offset: int) -> Any | None:
        """The record at an offset, or ``None`` where none is kept there."""
        async for records in self.between(partition, offset, offset + 1):
            for record in records:
                return record
        return None

    async def kept(self, partition: int) -> tuple[int, int]:
        """The first offset that is kept, and the one after the last committed record."""
        tp = TopicPartition(self.topic, partition)
        low, end = await self._consumer.beginning_offsets([tp]), await self._consumer.end_offsets([tp])
        return low[tp], end[tp]

    async def first_since(self, partition: int, start: datetime) -> int:
        """The offset of the first record that is not older than a time (aware); the end where there is none."""
        tp = TopicPartition(self.topic, partition)
        found = await self._offsets_since([tp], start)
        return found[tp]

    async def between(self, partition: int, first: int, end: int) -> AsyncIterator[list[Any]]:
        """The committed records of a partition with offsets from ``first`` up to ``end``, where they are kept."""
        tp = TopicPartition(self.topic, partition)
        low, high = await self.kept(partition)
        if not first < high or end <= low:
            return
        self._consumer.assign([tp])
        self._consumer.seek(tp, max(low, first))
        while not await self._is_through({tp: min(end, high)}):
            yield [record for record in await self._poll() if record.offset < end]

    async def _offsets_since(self, tps: list[TopicPartition], start: datetime) -> dict[TopicPartition, int]:
        stamp = max(0, int(start.timestamp() * 1000))
        ends = await self._consumer.end_offsets(tps)
        found = await self._consumer.offsets_for_times(dict.fromkeys(tps, stamp))
        return {tp: ends[tp] if found.get(tp) is None else found[tp].offset for tp in tps}

    async def _begin(self, start: Start, only: Collection[int] | None) -> dict[TopicPartition, int]:
        numbers = range(self.partitions) if only is None else sorted(only)
        tps = [TopicPartition(self.topic, number) for number in numbers]
        self._consumer.assign(tps)
        low = await self._consumer.beginning_offsets(tps)
        ends: dict[TopicPartition, int] = await self._consumer.end_offsets(tps)
        since = await self._offsets_since(tps, start) if isinstance(start, datetime) else {}
        for tp in tps:
            if isinstance(start, datetime):
                first = since[tp]
            elif isinstance(start, int):
                first = max(start, low[tp])
            else:
                first = low[tp] if start == "beginning" else ends[tp]
            self._consumer.seek(tp, first)
        return ends

    async def _poll(self) -> list[Any]:
        batches = await self._consumer.getmany(timeout_ms=POLL_MS)
        records = [record for batch in batches.values() for record in batch]
        return sorted(records, key=lambda record: record.timestamp) if len(batches) > 1 else records

    async def _is_through(self, ends: dict[TopicPartition, int]) -> bool:
        for tp, end in ends.items():
            if await self._consumer.position(tp) < end:
                return False
        return True


def _place(record: Any) -> TopicPartition:
    return TopicPartition(record.topic, record.partition)


@asynccontextmanager
async def reading(connection: Connection, topic: str) -> AsyncIterator[TopicReader]:
    """A reader of one topic.

    Raises UserError where there is no such topic or it may not be read, BrokerUnavailable where nobody
    answers.
    """
    infos = await admin.describe(connection, [topic])
    if topic not in infos:
        raise UserError(
            f"topic {topic} does not exist", "`streamproc topics FILE` lists what a pipeline reads and writes"
        )
    consumer = AIOKafkaConsumer(
        **connection.client_kwargs(),
        isolation_level="read_committed",
        enable_auto_commit=False,
        max_partition_fetch_bytes=FETCH_BYTES,
    )
    try:
        await consumer.start()
        yield TopicReader(consumer, topic, infos[topic].partitions)
    except kafka_errors.TopicAuthorizationFailedError as error:
        raise UserError(
            f"not allowed: Read on topic {topic}",
            hint=f"grant it: kafka-acls --add --allow-principal User:… --operation Read --topic {topic}",
        ) from error
    except kafka_errors.KafkaError as error:
        raise BrokerUnavailable(f"the broker at {connection.address} failed: {error}") from error
    finally:
        await _stop(consumer)


async def _stop(consumer: Any) -> None:
    """Stop a consumer. aiokafka's own cancelled tasks surface here when it is stopped right after its start."""
    try:
        await consumer.stop()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
