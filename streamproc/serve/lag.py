"""How far the lanes are behind, by the offsets that they have committed; and whether anybody answers.

A committed offset that is not the end need not mean that an event waits: behind the last event the marks of
transactions may stand, and what was aborted. So the first record that is still to be decided is looked for, where it
cannot be young.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka_errors

from streamproc.errors import EnvironmentFault
from streamproc.kafka import admin
from streamproc.kafka.by_hand import take_any
from streamproc.kafka.connection import Connection
from streamproc.kafka.follower import reading
from streamproc.kafka.group import GroupOffsets
from streamproc.kafka.opening import check_topic
from streamproc.kafka.watchdog import guard
from streamproc.serve.ends import Ends

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
PATIENCE_SECONDS: Final = 3.0
POLL_SECONDS: Final = 0.2
PROBE_BYTES: Final = 64 << 10
"""One record of a partition is wanted; where a batch is larger, the broker gives it all the same."""


@dataclass(frozen=True, slots=True)
class _Found:
    """The first record from an offset on, or that up to ``until`` there is none. ``stamp`` is in milliseconds."""

    since: int
    until: int
    offset: int | None = None
    stamp: int = 0


class Lag:
    """The age of the oldest event that no lane has finished, in seconds, as it was a second ago. Less than a second is
    none."""

    def __init__(
        self, connection: Connection, group: GroupOffsets, consumer: Any, tps: Sequence[TopicPartition]
    ) -> None:
        self._connection, self._group, self._consumer, self._tps = connection, group, consumer, tps
        self._ends = {tp: Ends() for tp in tps}
        self._found: dict[TopicPartition, _Found] = {}
        self.answered = time.monotonic()
        self.seconds = 0.0

    @property
    def silent(self) -> float:
        """Since when no broker has answered, in seconds."""
        return time.monotonic() - self.answered

    async def check(self, infos: Mapping[str, admin.TopicInfo]) -> None:
        """Raises LaneStopped where lanes worked on these topics when those had other partitions, or were others."""
        for tp, committed in (await self._group.fetch(self._tps, stable=False)).items():
            check_topic(tp, committed.claim, infos[tp.topic])

    async def look(self) -> None:
        """Ask once. Raises KafkaError, TimeoutError and StreamprocError."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            ends = await self._consumer.end_offsets(self._tps)
            committed = await self._group.fetch(self._tps, stable=False)
        self.answered = now = time.monotonic()
        positions = {tp: max(0, entry.offset) for tp, entry in committed.items()}
        old = dict[TopicPartition, int]()
        for tp in self._tps:
            seen, position = self._ends[tp], positions.setdefault(tp, 0)
            seen.add(now, ends[tp])
            seen.forget(position)
            if position < ends[tp] and (position < seen.first or seen.age(now, position) > LOOK_SECONDS):
                old[tp] = position
        with suppress(TimeoutError):  # what is not known then counts as old
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._find(old, ends)
        self.seconds = max((self._age(tp, position, ends[tp], now) for tp, position in old.items()), default=0.0)

    def _known(self, tp: TopicPartition, position: int, end: int) -> _Found | None:
        """What is known of the first record from a position on."""
        found = self._found.get(tp)
        if found is None or position < found.since:
            return None
        if found.offset is None:
            return found if found.until >= end else None
        return found if found.offset >= position else None

    def _age(self, tp: TopicPartition, position: int, end: int, now: float) -> float:
        found, seen = self._known(tp, position, end), self._ends[tp]
        if found is None:
            return seen.age(now, position)
        if found.offset is None:
            return 0.0
        age = seen.age(now, found.offset)
        # what was there before the door has the time at which it was written
        return age if found.offset >= seen.first else max(age, time.time() - found.stamp / 1000)

    async def _find(self, wanted: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> None:
        """Find the first committed record of each partition from a position on, where it is not known."""
        consumer, since = self._consumer, dict[TopicPartition, int]()
        for tp, position in wanted.items():
            if self._known(tp, position, ends[tp]) is None:
                before = self._found.get(tp)
                passed = before is not None and before.offset is None and before.since <= position
                since[tp] = max(position, before.until) if before is not None and passed else position
                consumer.seek(tp, since[tp])
                consumer.resume(tp)
        left = set(since)
        try:
            while left:
                for tp, records in (await take_any(consumer, left, seconds=POLL_SECONDS, most=1)).items():
                    if len(records):
                        offset, stamp = int(records.offsets[0]), int(records.timestamps[0])
                        self._found[tp] = _Found(wanted[tp], offset, offset, stamp)
                        consumer.pause(tp)
                        left.discard(tp)
                for tp in tuple(left):  # as far as it came: the next look goes on there
                    self._found[tp] = _Found(wanted[tp], at := await consumer.position(tp))
                    if at >= ends[tp]:
                        left.discard(tp)
        finally:
            consumer.pause(*since)

    async def run(self) -> None:
        """Ask every second, for ever. Raises UserError where that is not allowed any more."""
        while True:
            try:
                with reading(self._connection, sorted({tp.topic for tp in self._tps})):
                    await self.look()
            except (kafka_errors.KafkaError, TimeoutError, EnvironmentFault, OSError) as error:
                log.debug("asking how far lanes are: %s", type(error).__name__)
            await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def watching(connection: Connection, pipeline: str, topics: Sequence[str]) -> AsyncIterator[Lag]:
    """The lag of a pipeline's lanes on the topics that they read events from. Raises UserError where they may not be
    read, and LaneStopped where they are not those that lanes have worked on."""
    infos = await admin.describe(connection, topics)
    tps = [TopicPartition(topic, part) for topic in topics for part in range(infos[topic].partitions)]
    group = GroupOffsets(connection, pipeline)
    consumer = AIOKafkaConsumer(
        **connection.client_kwargs(),
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=PROBE_BYTES,
    )
    try:
        with reading(connection, topics):
            await group.start()
            await consumer.start()
            consumer.assign(tps)
            consumer.pause(*tps)
            lag = Lag(connection, group, consumer, tps)
            await lag.check(infos)
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
