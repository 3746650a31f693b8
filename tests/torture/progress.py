"""How far the lanes are, sampled from outside all the time, and how long they stood still."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from streamproc.kafka.connection import Connection
from streamproc.kafka.group import Committed, GroupOffsets

SAMPLE_SECONDS = 0.1
ANSWER_SECONDS = 2.0
BEHIND_SECONDS = 0.25
"""A lane is not behind when it has done what was there so long ago: under load nothing is ever all done."""

Offsets = Mapping[TopicPartition, int]


@dataclass(frozen=True)
class Sample:
    """Committed offsets, and the ends of their partitions, as they were at a moment (monotonic seconds)."""

    at: float
    committed: Offsets
    ends: Offsets


@dataclass(frozen=True)
class Recovery:
    """Seconds from the end of a fault: until there was new input for every partition, until every partition moved,
    until each had once not been behind; and the longest time that any partition had work and stood still, from the
    fault's beginning until every worker had lanes again."""

    fed: float
    moved: float
    caught_up: float
    still: float


def recovery(samples: Sequence[Sample], ended: float, source: str) -> Recovery | None:
    """What the samples say about a fault, or None while they do not show its end yet. ``source`` is the topic that is
    fed from outside."""
    after = [sample for sample in samples if sample.at >= ended]
    if not after:
        return None
    fed = _first(after, lambda sample: {tp: end for tp, end in sample.ends.items() if tp.topic == source})
    moved = _first(after, lambda sample: sample.committed)
    if not fed or not moved:
        return None
    caught_up = _caught_up([sample for sample in after if sample.at >= moved], after)
    if not caught_up:
        return None
    return Recovery(fed - ended, moved - ended, caught_up - ended, longest(samples))


def longest(samples: Sequence[Sample]) -> float:
    """The longest time that any partition had work and stood still."""
    return max((standstill(samples, tp) for tp in samples[0].committed), default=0.0) if samples else 0.0


def standstill(samples: Sequence[Sample], tp: TopicPartition) -> float:
    """The longest time that a partition had work and its committed offset did not move."""
    worst, since, offset = 0.0, None, -2
    for sample in samples:
        moved, offset = sample.committed[tp] != offset, sample.committed[tp]
        if sample.ends[tp] <= offset:
            since = None
        elif moved or since is None:
            since = sample.at
        else:
            worst = max(worst, sample.at - since)
    return worst


def _first(samples: Sequence[Sample], of: Callable[[Sample], Offsets]) -> float | None:
    """When every partition had more than in the first sample."""
    before = of(samples[0])
    for sample in samples:
        if all(offset > max(before[tp], 0) for tp, offset in of(sample).items()):
            return sample.at
    return None


def _caught_up(samples: Sequence[Sample], after: Sequence[Sample]) -> float | None:
    """When every lane had not been behind once. Not all at one moment: with more workers than cores the lanes take
    turns, and one of them is always waiting for its transaction."""
    behind = set(after[0].committed)
    for sample in samples:
        earlier = [one.ends for one in after if one.at <= sample.at - BEHIND_SECONDS]
        behind -= {tp for tp in behind if earlier and sample.committed[tp] >= earlier[-1][tp]}
        if not behind:
            return sample.at
    return None


class Monitor:
    """Samples a group's offsets on some topics until it is cancelled. Survives brokers that come and go."""

    def __init__(self, connection: Connection, group: str, partitions: Sequence[TopicPartition], source: str) -> None:
        self._connection, self._group, self._partitions, self._source = connection, group, list(partitions), source
        self._new = asyncio.Event()
        self.samples: list[Sample] = []

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            consumer = AIOKafkaConsumer(**self._connection.client_kwargs(), isolation_level="read_committed")
            offsets = GroupOffsets(self._connection, self._group)
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await consumer.start()
                    await offsets.start()
                while True:
                    await self._sample(consumer, offsets)
                    await asyncio.sleep(SAMPLE_SECONDS)
            except (KafkaError, OSError, TimeoutError, AssertionError):
                # The broker is gone: connect again. aiokafka asserts that there is one where the only one is fenced.
                await asyncio.sleep(SAMPLE_SECONDS)
            finally:
                await asyncio.wait({asyncio.ensure_future(one.stop()) for one in (consumer, offsets)}, timeout=5)

    async def recovered(self, began: float, ended: float, seconds: float) -> Recovery | None:
        """Wait for every partition to move and to have caught up; None when it takes longer than allowed."""
        try:
            async with asyncio.timeout(seconds):
                while (found := recovery(self._since(began), ended, self._source)) is None:
                    self._new.clear()
                    await self._new.wait()
                return found
        except TimeoutError:
            return None

    def stood_still(self, began: float) -> float:
        """The longest standstill of any partition since then."""
        return longest(self._since(began))

    async def reached(self, offsets: Offsets, seconds: float) -> bool:
        """Wait until so much is committed."""
        try:
            async with asyncio.timeout(seconds):
                while not self.samples or any(self.samples[-1].committed[tp] < at for tp, at in offsets.items()):
                    self._new.clear()
                    await self._new.wait()
                return True
        except TimeoutError:
            return False

    async def committed(self) -> dict[TopicPartition, Committed]:
        """Committed offsets with their claims, asked now."""
        offsets = GroupOffsets(self._connection, self._group)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await offsets.start()
                return await offsets.fetch(self._partitions, stable=False)
        finally:
            await offsets.stop()

    def behind(self) -> str:
        """The lanes that have something to do, for a message."""
        last = self.samples[-1]
        found = [
            f"{tp.topic.rpartition('.')[2]}-{tp.partition}: {last.committed[tp]} of {end}"
            for tp, end in last.ends.items()
            if last.committed[tp] < end
        ]
        return ", ".join(found) or "none"

    def _since(self, began: float) -> list[Sample]:
        return [sample for sample in self.samples if sample.at >= began]

    async def _sample(self, consumer: AIOKafkaConsumer, offsets: GroupOffsets) -> None:
        at = time.monotonic()
        async with asyncio.timeout(ANSWER_SECONDS):
            ends = await consumer.end_offsets(self._partitions)
            committed = await offsets.fetch(self._partitions, stable=False)
        self.samples.append(Sample(at, {tp: entry.offset for tp, entry in committed.items()}, ends))
        self._new.set()
