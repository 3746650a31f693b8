"""Writing records for callers: acks=all, idempotent, bounded in time.

Records that come while others are on their way are sent together behind them, and for a moment after the last request
began there is none: requests are small when idle and large under load. What is on its way goes on for a minute, whoever
has given up waiting for it. A producer that cannot go on is replaced.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.transaction import InitProducerIdRequest

from streamproc.core.partitioner import partitions
from streamproc.core.processor import Headers
from streamproc.errors import StreamprocError
from streamproc.kafka.admin import TopicInfo
from streamproc.kafka.batches import record_batches
from streamproc.kafka.connection import Connection
from streamproc.kafka.lane import Entries
from streamproc.kafka.pace import Mean
from streamproc.kafka.sending import QUICK_SECONDS, Sending, Written, raise_unless_retriable
from streamproc.kafka.watchdog import guard

log = logging.getLogger(__name__)

LOT_RECORDS: Final = 4_000
LOT_BYTES: Final = 4 << 20
"""So much is sent at once, and one request's more."""
PATIENCE_SECONDS: Final = 5.0
"""How long a caller waits for the broker."""
AWAY_SECONDS: Final = 2.0
"""Where the oldest record waits for so long, the broker counts as away."""
STUCK_SECONDS: Final = 60.0
START_SECONDS: Final = 10.0
STOP_SECONDS: Final = 3.0
LOOK_SECONDS: Final = 0.5
APART, MOST_APART = 2.0, 0.01
"""From the beginning of one request to that of the next are so many times what one takes, and no more than so many
seconds: each costs the door, the broker and the workers as much as several records do."""
PLAIN: Final = 0
"""Attributes of record batches: not compressed, and of no transaction."""
ANOTHER: Final = InitProducerIdRequest(None, 0)
"""Asks to be a producer like no other, without transactions."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record on its way. Without a partition its key says where it goes; a null key then goes anywhere."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes
    headers: Headers = ()


class Placed(NamedTuple):
    """Where a record stands now. ``offset`` is -1 where the broker has it, and cannot say where any more."""

    topic: str
    partition: int
    offset: int
    timestamp: int


Arriving: TypeAlias = "asyncio.Future[list[Placed]]"


class Away(Exception):
    """The broker did not take a record in time, or will not: nobody knows whether it has it."""


@dataclass(frozen=True, slots=True)
class _Lot:
    """What one caller wants to be written: ``since`` is when it came, in monotonic seconds."""

    records: Sequence[Outgoing]
    bytes: int
    since: float
    arriving: Arriving


class Writer:
    """Writes records. Made by ``writing``."""

    def __init__(self, connection: Connection, counts: Mapping[str, int], limits: Mapping[str, int]) -> None:
        self._connection, self._counts, self._limits = connection, counts, limits
        self._client: AIOKafkaClient | None = None
        self._sending: Sending | None = None
        self._waiting, self._under_way = deque[_Lot](), list[_Lot]()
        self._news = asyncio.Event()
        self._request, self._began = Mean(), 0.0
        self.bytes = 0

    @property
    def away(self) -> bool:
        """Whether the broker does not take what it is given."""
        oldest = next(iter(self._under_way), None) or next(iter(self._waiting), None)
        return self._sending is None or (oldest is not None and time.monotonic() - oldest.since > AWAY_SECONDS)

    async def write(self, records: Sequence[Outgoing]) -> list[Placed]:
        """Write records, and say where they stand. Raises Away."""
        return await patiently(self.send(records))

    def send(self, records: Sequence[Outgoing]) -> Arriving:
        """Write records: where they stand then, or Away where the producer could not go on. Raises Away."""
        if self._sending is None:
            raise Away
        arriving: Arriving = asyncio.get_running_loop().create_future()
        arriving.add_done_callback(_looked_at)
        lot = _Lot(records, sum(len(one.value) for one in records), time.monotonic(), arriving)
        self._waiting.append(lot)
        self.bytes += lot.bytes
        self._news.set()
        return arriving

    async def run(self) -> None:
        """Send what waits, and replace a producer that cannot go on, for ever."""
        while True:
            await self._news.wait()
            await asyncio.sleep(self._began + min(APART * self._request.seconds, MOST_APART) - time.monotonic())
            self._take()
            self._began = time.monotonic()
            try:
                async with asyncio.timeout(STUCK_SECONDS):
                    await self._send()
                self._request.took(time.monotonic() - self._began)
            except (kafka_errors.KafkaError, StreamprocError, TimeoutError) as error:
                log.warning("records were not taken: %s", type(error).__name__)
                await self._replace()

    def _take(self) -> None:
        records, size = 0, 0
        while self._waiting and records < LOT_RECORDS and size < LOT_BYTES:
            lot = self._waiting.popleft()
            self._under_way.append(lot)
            records, size = records + len(lot.records), size + lot.bytes
        if not self._waiting:
            self._news.clear()

    async def _send(self) -> None:
        assert self._sending is not None
        stamp = int(time.time() * 1000)
        records = [one for lot in self._under_way for one in lot.records]
        places = list(zip([one.topic for one in records], self._partitions(records), strict=True))
        outgoing, rows = defaultdict[tuple[str, int], Entries](Entries), defaultdict[tuple[str, int], list[int]](list)
        for row, (one, place) in enumerate(zip(records, places, strict=True)):
            outgoing[place].add(one.key, one.value, one.headers)
            rows[place].append(row)
        batches = record_batches(outgoing, stamp, self._limits, PLAIN)
        await self._sending.learn({topic for topic, _ in outgoing})
        placed = _placed(await self._sending.send(batches), rows, len(records), stamp)
        begin = 0
        for lot in self._under_way:
            end = begin + len(lot.records)
            lot.arriving.set_result(placed[begin:end])
            self.bytes -= lot.bytes
            begin = end
        self._under_way = []

    def _partitions(self, records: Sequence[Outgoing]) -> list[int]:
        by_key = defaultdict[str, list[int]](list)
        found = [one.partition or 0 for one in records]
        for row, one in enumerate(records):
            if one.partition is None:
                by_key[one.topic].append(row)
        for topic, rows in by_key.items():
            count, keys = self._counts[topic], [records[row].key for row in rows]
            anywhere = random.randrange(count)  # noqa: S311 - no secret
            for row, partition in zip(rows, partitions(keys, count, anywhere).tolist(), strict=True):
                found[row] = partition
        return found

    async def _replace(self) -> None:
        """Nobody knows what became of what was under way; what waits has not been sent, and may be yet."""
        await self._disconnect()
        under_way, self._under_way = self._under_way, []
        for lot in under_way:
            self._give_up(lot)
        while self._sending is None:
            await asyncio.sleep(LOOK_SECONDS)
            while self._waiting and time.monotonic() - self._waiting[0].since > STUCK_SECONDS:
                self._give_up(self._waiting.popleft())
            with suppress(kafka_errors.KafkaError, StreamprocError, OSError, TimeoutError):
                await self.start()
        if self._waiting:
            self._news.set()
        log.info("a new producer took over")

    def _give_up(self, lot: _Lot) -> None:
        self.bytes -= lot.bytes
        lot.arriving.set_exception(Away())

    async def start(self) -> None:
        """Connect, as a producer that has sent nothing yet. Raises KafkaError, TimeoutError."""
        self._client = client = AIOKafkaClient(**self._connection.quick_kwargs())
        try:
            async with asyncio.timeout(START_SECONDS):
                await client.bootstrap()
                while (response := await client.send(client.get_random_node(), ANOTHER)).error_code:
                    raise_unless_retriable({response.error_code})  # a broker that has just started has no ids yet
                    await asyncio.sleep(QUICK_SECONDS)
        except BaseException:
            await self._disconnect()
            raise
        self._sending = Sending(client)
        self._sending.producer = response.producer_id, response.producer_epoch

    async def stop(self) -> None:
        """Let what is on its way arrive, for a moment."""
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                for lot in (*self._under_way, *self._waiting):
                    await asyncio.wait({lot.arriving})

    async def _disconnect(self) -> None:
        self._sending, client = None, self._client
        if client is not None:
            with suppress(TimeoutError, kafka_errors.KafkaError, OSError):
                async with asyncio.timeout(STOP_SECONDS):
                    await client.close()


async def patiently(arriving: Arriving) -> list[Placed]:
    """Where records stand. Raises Away where a caller cannot wait any longer: they stay on their way."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await asyncio.shield(arriving)
    except TimeoutError as error:
        raise Away from error


def _looked_at(arriving: Arriving) -> None:
    if not arriving.cancelled():
        arriving.exception()  # whoever waited has gone


def _placed(written: Written, rows: Mapping[tuple[str, int], list[int]], count: int, stamp: int) -> list[Placed]:
    placed = [Placed("", 0, -1, 0)] * count
    for (topic, partition), several in written.items():
        numbers = iter(rows[topic, partition])
        for base, records, given in several:
            timestamp = stamp if given < 0 else given
            for place in range(records):
                offset = -1 if base < 0 else base + place
                placed[next(numbers)] = Placed(topic, partition, offset, timestamp)
    return placed


@asynccontextmanager
async def writing(connection: Connection, topics: Collection[TopicInfo]) -> AsyncIterator[Writer]:
    """A writer to some topics, that is connected."""
    limits = {topic.name: topic.most_bytes for topic in topics}
    writer = Writer(connection, {topic.name: topic.partitions for topic in topics}, limits)
    await writer.start()
    running = asyncio.create_task(guard(writer.run()), name="writing")
    try:
        yield writer
    finally:
        await writer.stop()
        running.cancel()
        await asyncio.wait({running})
        await writer._disconnect()
