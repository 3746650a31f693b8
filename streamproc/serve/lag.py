"""How far the lanes are behind, by the offsets that they have committed; and whether anybody answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka_errors

from streamproc.errors import StreamprocError
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.group import GroupOffsets
from streamproc.kafka.watchdog import guard

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
PATIENCE_SECONDS: Final = 3.0
SAMPLES: Final = 600


class Ends:
    """The ends of some partitions over time: how long ago an offset was the end. Pure, time is given in seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=SAMPLES)

    def add(self, now: float, end: int) -> None:
        """The end is that now."""
        if self._samples and self._samples[-1][1] == end:
            return
        self._samples.append((now, end))

    def age(self, now: float, position: int) -> float:
        """Since when the record at a position has been there, at least; 0 where none is."""
        for since, end in self._samples:
            if end > position:
                return now - since
        return 0.0


class Lag:
    """The age of the oldest event that no lane has finished, in seconds, as it was a second ago."""

    def __init__(self, group: GroupOffsets, consumer: Any, tps: Sequence[TopicPartition]) -> None:
        self._group, self._consumer, self._tps = group, consumer, tps
        self._ends = {tp: Ends() for tp in tps}
        self._begun = False
        self.answered = time.monotonic()
        self.seconds, self.records = 0.0, 0

    @property
    def silent(self) -> float:
        """Since when no broker has answered, in seconds."""
        return time.monotonic() - self.answered

    async def look(self) -> None:
        """Ask once. Raises KafkaError, TimeoutError and StreamprocError."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            ends = await self._consumer.end_offsets(self._tps)
            committed = await self._group.fetch(self._tps, stable=False)
        now = time.monotonic()
        seconds, records = 0.0, 0
        for tp in self._tps:
            self._ends[tp].add(now, ends[tp])
            entry = committed.get(tp)
            position = 0 if entry is None or entry.offset < 0 else entry.offset
            seconds = max(seconds, self._ends[tp].age(now, position))
            records += max(0, ends[tp] - position)
        self.seconds, self.records, self.answered = seconds, records, now

    async def run(self) -> None:
        """Ask every second, for ever."""
        while True:
            try:
                await self.look()
            except (kafka_errors.KafkaError, TimeoutError, StreamprocError, OSError) as error:
                log.debug("asking how far lanes are: %s", type(error).__name__)
            await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def watching(connection: Connection, pipeline: str, topics: Sequence[str]) -> AsyncIterator[Lag]:
    """The lag of a pipeline's lanes on the topics that they read events from."""
    infos = await admin.describe(connection, topics)
    tps = [TopicPartition(topic, part) for topic in topics for part in range(infos[topic].partitions)]
    group = GroupOffsets(connection, pipeline)
    consumer = AIOKafkaConsumer(**connection.client_kwargs(), isolation_level="read_uncommitted")
    try:
        await group.start()
        await consumer.start()
        lag = Lag(group, consumer, tps)
        await lag.look()
        looking = asyncio.create_task(guard(lag.run()), name="lag")
        try:
            yield lag
        finally:
            looking.cancel()
            await asyncio.wait({looking})
    finally:
        with suppress(kafka_errors.KafkaError):
            await group.stop()
        await consumer.stop()
