"""A compacted topic as a table in memory: the newest row of each key, and how far behind it may be.

Rows are decoded once, when they are read. That the table is at the end of its topic is known as of the moment in which
the end was asked for, so its age is measured and not guessed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors

from streamproc import metrics
from streamproc.core.names import NO_SUCH_KEY, STALE
from streamproc.core.processor import Answer, Lookup, Records
from streamproc.core.table import Row, RowReader
from streamproc.errors import BrokerUnavailable, HeaderNotText
from streamproc.kafka.by_hand import read_by_hand
from streamproc.kafka.fetching import take

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
MOST_RECORDS = 2_000
"""Taken at once, so that the event loop gets its turn."""
RETRY_SECONDS = 1.0
CHECKS = 4
"""So often the end of the topic is asked for, in the time that a table may be old."""
CHECK_SECONDS = (0.05, 1.0)
"""But not more and not less often than so."""
STUCK_SECONDS = 60.0
"""A load that makes no progress for so long has failed."""
TELL_SECONDS = 5.0
LOAD_SECONDS = 30.0
"""For a partition that is asked for the first time, which its lane waits for."""
LET_GO_SECONDS = 300.0
"""A partition that nobody has asked for so long is held no longer."""
NO_SUCH_PARTITION = "no_such_partition"
"""The reason for lanes that the topic has no partition for."""
EVERYTHING = -1
"""Where the rows of a table are that is held as a whole."""


@dataclass(frozen=True, slots=True)
class TablePolicy:
    """What is promised of a table. Times are in seconds."""

    name: str
    topic: str
    by_lane: bool = False
    fresh: bool = False
    staleness: float = 10.0
    timeout: float = 1.0


class Table:
    """Answers look-ups from rows in memory. To be used on its event loop alone."""

    def __init__(self, policy: TablePolicy, reader: RowReader, consumer: Any, partitions: int) -> None:
        """The consumer is started, reads committed records, and is the table's own."""
        self._policy, self._reader, self._consumer = policy, reader, consumer
        self._wanted = dict.fromkeys(() if policy.by_lane else range(partitions), time.monotonic())
        self._partitions = partitions
        self._rows: dict[int, dict[bytes, Row]] = {} if policy.by_lane else {EVERYTHING: {}}
        self._next: dict[int, int] = {}
        self._whole: dict[int, float] = {}
        """When each partition was last known to be read to its end; those that never were are not in it."""
        self._ends: dict[int, tuple[float, int]] = {}
        """Ends that are not reached yet, and when they were asked for."""
        self._polled = asyncio.Condition()
        self._check, self._want = asyncio.Event(), asyncio.Event()
        self._told = self._lacked = float("-inf")
        self._in_vain = False
        """Whether a batch has waited for what did not come: those after it need not."""

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    @property
    def name(self) -> str:
        """As the pipeline file calls it."""
        return self._policy.name

    def age(self) -> float:
        """Seconds since all that is held was known to be the newest; infinite before that."""
        return self._age(self._wanted)

    async def __call__(self, ask: Lookup) -> Answer:
        """One entry per key, never an exception."""
        policy = self._policy
        lanes = self._lanes(ask)
        partitions = self._reach(lanes)
        if lanes is not None and not await self._holds(partitions):
            return Answer.nothing(len(ask.keys), "loading", self._version(partitions))
        health = ""
        if policy.fresh:
            if not await self._is_fresh(partitions):
                return Answer.nothing(len(ask.keys), "not_fresh", self._version(partitions))
        elif self._age(partitions) > policy.staleness:
            self._check.set()
            wait = 0.0 if self._in_vain else policy.timeout
            if not await self._until(lambda: self._age(partitions) <= policy.staleness, wait):
                health, self._in_vain = STALE, True
        return self._answer(ask, lanes, partitions, health)

    def now(self, ask: Lookup) -> Answer:
        """The same at once, from what is held, whatever its age. It may be called from any thread."""
        lanes = self._lanes(ask)
        return self._answer(ask, lanes, self._reach(lanes), "")

    async def load(self) -> None:
        """Read all that is there, of a table that is held as a whole; of another one nothing is asked for yet.

        Raises BrokerUnavailable where that makes no progress.
        """
        if self._policy.by_lane:
            return
        started = told = moved = time.monotonic()
        ends = await self._consumer.end_offsets(self._tps(self._wanted))
        total, before = sum(ends.values()), -1
        while True:
            await self._step()
            now, done = time.monotonic(), sum(self._next.values())
            if all(self._next.get(tp.partition, -1) >= end for tp, end in ends.items()):
                break
            if done != before:
                before, moved = done, now
            elif now - moved > STUCK_SECONDS:
                raise BrokerUnavailable(f"the table {self.name} could not be read in {STUCK_SECONDS:.0f} s")
            if now - told > TELL_SECONDS:
                log.info("loading the table %s: at %d of %d offsets, %d rows", self.name, done, total, len(self))
                told = now
        self._whole = dict.fromkeys(self._next, started)
        log.info("the table %s has %d rows, read in %.1f s", self.name, len(self), time.monotonic() - started)

    async def follow(self) -> None:
        """Keep up, for ever: a broker that is away is waited for."""
        while True:
            try:
                await self._step()
            except kafka_errors.KafkaError as error:
                log.warning("following the table %s: %s, trying again", self.name, type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
            async with self._polled:
                self._polled.notify_all()

    async def check_ends(self) -> None:
        """Ask for the end of the topic again and again, for ever: in one request for all partitions."""
        least, most = CHECK_SECONDS
        pause = min(max(self._policy.staleness / CHECKS, least), most)
        while True:
            try:
                await self._ask_ends()
            except kafka_errors.KafkaError as error:
                log.warning("asking for the end of the table %s: %s", self.name, type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
            async with self._polled:
                self._polled.notify_all()
            await _set_or_after(self._check, pause)

    def _lanes(self, ask: Lookup) -> list[int] | None:
        """The partition of each key; ``None`` where all rows are held together."""
        if not self._policy.by_lane or ask.lanes is None:
            return None
        lanes: list[int] = ask.lanes.tolist()
        return lanes

    def _reach(self, lanes: list[int] | None) -> Collection[int]:
        """The partitions that are asked for. What the topic lacks would never be read, and keep the others waiting."""
        if lanes is None:
            return range(self._partitions)
        wanted = sorted(set(lanes))
        if wanted and wanted[-1] >= self._partitions and time.monotonic() - self._lacked > STUCK_SECONDS:
            self._lacked = time.monotonic()
            there = f"{self._policy.topic} has {self._partitions} partitions and so none for lane {wanted[-1]}"
            log.error("%s: with `hold: lanes` it needs as many as the events topic", there)
        return [partition for partition in wanted if partition < self._partitions]

    def _answer(self, ask: Lookup, lanes: list[int] | None, partitions: Collection[int], health: str) -> Answer:
        if lanes is None:
            values = list(map(self._of(EVERYTHING).get, ask.keys))
        else:
            values = [self._of(lane).get(key) for key, lane in zip(ask.keys, lanes, strict=True)]
        reasons = [NO_SUCH_KEY if row is None else None for row in values]
        if lanes is not None and max(lanes, default=0) >= self._partitions:
            there = [lane < self._partitions for lane in lanes]
            reasons = [why if here else NO_SUCH_PARTITION for why, here in zip(reasons, there, strict=True)]
        return Answer(values, reasons, self._version(partitions), health)

    async def _ask_ends(self) -> None:
        asked = time.monotonic()
        self._note_more_partitions()
        if not self._wanted:
            return
        for tp, end in (await self._consumer.end_offsets(self._tps(self._wanted))).items():
            self._ends.setdefault(tp.partition, (asked, end))  # one that was asked for earlier is reached first
        self._note_whole()

    def _note_more_partitions(self) -> None:
        """Read partitions that were added too, once the client knows of them; lanes ask for theirs."""
        count = len(self._consumer.partitions_for_topic(self._policy.topic) or ())
        if count > self._partitions:
            log.info("%s has %d partitions now, and had %d", self._policy.topic, count, self._partitions)
            if not self._policy.by_lane:
                self._wanted |= dict.fromkeys(range(self._partitions, count), time.monotonic())
            self._partitions = count

    def _note_whole(self) -> None:
        for partition, (asked, end) in list(self._ends.items()):
            if partition not in self._wanted:
                del self._ends[partition]
            elif self._next.get(partition, -1) >= end:
                self._whole[partition] = max(asked, self._whole.get(partition, asked))
                self._in_vain = False
                del self._ends[partition]

    async def _step(self) -> None:
        """Take what is new of what is wanted."""
        await self._assign()
        tps = self._tps(self._wanted)
        if not tps:
            await _set_or_after(self._want, POLL_SECONDS)
            return
        try:
            taken = await take(self._consumer, tps, seconds=POLL_SECONDS, most=MOST_RECORDS)
        except HeaderNotText as error:
            await self._step_by_hand(error.partition)
        else:
            for tp, records in taken.items():
                self._apply(tp.partition, records)
        for tp in tps:
            position = await self._consumer.position(tp)
            if position < self._next.get(tp.partition, 0):
                self._begin_again(tp.partition)
            self._next[tp.partition] = position
        self._note_whole()

    async def _step_by_hand(self, partition: int) -> None:
        """Take what is new of a partition with a record whose headers cannot be read: it is refused as others are."""
        [tp] = self._tps([partition])
        records, nameless, behind = await read_by_hand(self._consumer, tp)
        if nameless:
            values = list(records.values)
            for place in nameless:
                values[place] = None
            first = int(records.offsets[nameless[0]])
            self._tell_refused(partition, first, len(nameless), "the name of a header is not UTF-8")
            records = replace(records, values=values)
        self._apply(partition, records)
        self._consumer.seek(tp, behind)

    async def _assign(self) -> None:
        """Have the consumer read what is wanted: it forgets where it was when that changes."""
        late = time.monotonic() - LET_GO_SECONDS
        if self._policy.by_lane:
            self._wanted = {partition: asked for partition, asked in self._wanted.items() if asked > late}
        wanted = set(self._tps(self._wanted))
        if wanted == self._consumer.assignment():
            return
        for held in (self._next, self._whole, self._ends, self._rows):
            for partition in held.keys() - self._wanted.keys() - {EVERYTHING}:
                del held[partition]
        if not wanted:
            self._consumer.unsubscribe()
            return
        self._consumer.assign(sorted(wanted))
        await self._consumer.seek_to_beginning(*[tp for tp in wanted if tp.partition not in self._next])
        for partition, offset in self._next.items():
            self._consumer.seek(TopicPartition(self._policy.topic, partition), offset)

    def _apply(self, partition: int, records: Records) -> None:
        """Take records into the rows."""
        own, changes = self._of(partition), self._reader.changes(records.keys, records.values)
        for key, row in changes.rows.items():
            if row is None:
                own.pop(key, None)
            else:
                own[key] = row
        if changes.refused:
            first = min(changes.refused)
            reason = changes.refused[first].reason
            self._tell_refused(partition, int(records.offsets[first]), len(changes.refused), reason)

    def _tell_refused(self, partition: int, offset: int, count: int, reason: str) -> None:
        metrics.TABLE_REFUSED.labels(self.name).inc(count)
        if time.monotonic() - self._told > STUCK_SECONDS:
            self._told = time.monotonic()
            place = f"{self._policy.topic}-{partition}, offset {offset}"
            what = "rows that do not satisfy its contract are left out"
            log.warning("the table %s: %s, as at %s: %s", self.name, what, place, reason)

    def _begin_again(self, partition: int) -> None:
        """The topic is another one than it was: of what was read nothing holds."""
        log.warning("%s-%d begins again: its rows are read anew", self._policy.topic, partition)
        self._of(partition).clear()
        self._whole.pop(partition, None)

    def _of(self, partition: int) -> dict[bytes, Row]:
        return self._rows.setdefault(partition if self._policy.by_lane else EVERYTHING, {})

    async def _holds(self, partitions: Collection[int]) -> bool:
        """Want partitions, and wait until they are read."""
        self._wanted |= dict.fromkeys(partitions, time.monotonic())
        if all(partition in self._whole for partition in partitions):
            return True
        self._want.set()
        self._check.set()
        wait = self._policy.timeout if self._in_vain else LOAD_SECONDS
        loaded = await self._until(lambda: all(partition in self._whole for partition in partitions), wait)
        self._in_vain = not loaded
        return loaded

    async def _is_fresh(self, partitions: Collection[int]) -> bool:
        """Whether all that is committed now was read, within the time for it."""
        try:
            async with asyncio.timeout(self._policy.timeout):
                ends = await self._consumer.end_offsets(self._tps(partitions))
                async with self._polled:
                    while any(self._next.get(tp.partition, -1) < end for tp, end in ends.items()):
                        await self._polled.wait()
        except (TimeoutError, kafka_errors.KafkaError):
            return False
        return True

    async def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds), self._polled:
                while not condition():
                    await self._polled.wait()
        except TimeoutError:
            return False
        return True

    def _age(self, partitions: Collection[int]) -> float:
        since = min((self._whole.get(partition, float("-inf")) for partition in partitions), default=time.monotonic())
        return max(0.0, time.monotonic() - since)

    def _version(self, partitions: Collection[int]) -> str:
        """The topic, and the next offset of each partition."""
        return " ".join([self._policy.topic, *(f"{one}:{self._next.get(one, 0)}" for one in partitions)])

    def _tps(self, partitions: Collection[int] | Mapping[int, float]) -> list[TopicPartition]:
        return [TopicPartition(self._policy.topic, partition) for partition in sorted(partitions)]


async def _set_or_after(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
    event.clear()
