"""Writing records for callers: acks=all, idempotent, bounded in bytes and in time.

aiokafka's idempotent producer tries a batch again until it is taken, however long the broker is away. Callers are not
kept waiting for that: they are told that nobody knows, and what they repeat has the same id. A producer that cannot go
on, or whose records do not move although a broker is there, is replaced.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors

from streamproc.core.processor import Headers
from streamproc.kafka.connection import Connection
from streamproc.kafka.watchdog import guard

log = logging.getLogger(__name__)

BATCH_BYTES: Final = 256 << 10
LARGEST: Final = 256 << 20  # what is too large is refused before
MANY: Final = 24
"""So many records at once are made into batches here: aiokafka would make a future for each."""
PATIENCE_SECONDS: Final = 5.0
"""How long a caller waits for the broker."""
AWAY_SECONDS: Final = 2.0
"""Where the oldest record waits for so long, the broker counts as away."""
STUCK_SECONDS: Final = 60.0
STOP_SECONDS: Final = 3.0
LOOK_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record on its way. Without a partition its key says where it goes; a null key then goes anywhere."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a record stands now. ``offset`` is -1 where the broker has it, and cannot say where any more."""

    topic: str
    partition: int
    offset: int
    timestamp: int


class Away(Exception):
    """The broker did not take a record in time, or will not: nobody knows whether it has it."""


class Writer:
    """Writes records. Made by ``writing``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._producer: Any = None
        self._broken = False
        self._on_their_way: dict[Any, tuple[float, int]] = {}
        self.bytes = 0

    @property
    def away(self) -> bool:
        """Whether the broker does not take what it is given."""
        return self._broken or self._oldest > AWAY_SECONDS

    @property
    def _oldest(self) -> float:
        """For how long the oldest record has been on its way."""
        oldest = next(iter(self._on_their_way.values()), None)
        return 0.0 if oldest is None else time.monotonic() - oldest[0]

    async def write(self, records: Sequence[Outgoing]) -> list[Placed]:
        """Write records, and say where they stand. Raises Away."""
        if self._broken:
            raise Away
        stamp = int(time.time() * 1000)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                sent = await (self._each(records, stamp) if len(records) < MANY else self._batches(records, stamp))
                found: list[Placed] = await sent
                return found
        except TimeoutError as error:
            raise Away from error
        except kafka_errors.KafkaError as error:
            self._broken = True  # a sequence number was given away: what follows would be refused
            log.warning("a record was not taken: %s", type(error).__name__)
            raise Away from error

    async def _each(self, records: Sequence[Outgoing], stamp: int) -> Any:
        futures = []
        for one in records:
            sending = self._producer.send(
                one.topic, one.value, one.key, one.partition, timestamp_ms=stamp, headers=list(one.headers)
            )
            futures.append(self._watched(await sending, len(one.value)))

        async def placed() -> list[Placed]:
            return [_placed(found, 0, stamp) for found in await asyncio.gather(*futures)]

        return placed()

    async def _batches(self, records: Sequence[Outgoing], stamp: int) -> Any:
        """Records with partitions, as batches that are made here."""
        by_place = defaultdict[tuple[str, int], list[int]](list)
        for number, one in enumerate(records):
            assert one.partition is not None
            by_place[one.topic, one.partition].append(number)
        sent = list[tuple[Any, list[int]]]()
        for (topic, partition), numbers in by_place.items():
            for builder, part in self._built(records, numbers, stamp):
                future = await self._producer.send_batch(builder, topic, partition=partition)
                sent.append((self._watched(future, builder.size()), part))

        async def placed() -> list[Placed]:
            found = await asyncio.gather(*(future for future, _ in sent))
            places = list[Any]([None] * len(records))
            for base, (_, numbers) in zip(found, sent, strict=True):
                for place, number in enumerate(numbers):
                    places[number] = _placed(base, place, stamp)
            return places

        return placed()

    def _built(self, records: Sequence[Outgoing], numbers: list[int], stamp: int) -> list[tuple[Any, list[int]]]:
        made = list[tuple[Any, list[int]]]()
        builder, part = self._producer.create_batch(), list[int]()
        for number in numbers:
            one = records[number]
            while (
                builder.append(timestamp=stamp, key=one.key, value=one.value, headers=list(one.headers)) is None
            ):  # it is full
                made.append((builder, part))
                builder, part = self._producer.create_batch(), []
            part.append(number)
        builder.close()
        return [*made, (builder, part)]

    def _watched(self, future: Any, size: int) -> Any:
        self._on_their_way[future] = time.monotonic(), size
        self.bytes += size
        future.add_done_callback(self._arrived)
        return asyncio.shield(future)

    def _arrived(self, future: Any) -> None:
        self.bytes -= self._on_their_way.pop(future)[1]
        if not future.cancelled():
            future.exception()  # whoever waited has gone

    async def start(self) -> None:
        """Connect. Raises KafkaError."""
        producer = AIOKafkaProducer(
            **self._connection.client_kwargs(),
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=BATCH_BYTES,
            max_request_size=LARGEST,
        )
        try:
            await producer.start()
        except BaseException:
            await _end(producer)
            raise
        self._producer, self._broken = producer, False

    async def stop(self) -> None:
        """Let what is on its way arrive, for a moment."""
        if self._producer is not None:
            await _end(self._producer)

    async def keep(self) -> None:
        """Replace a producer that cannot go on, for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._oldest > STUCK_SECONDS:
                self._broken = True
            if self._broken:
                await _end(self._producer)
                for future in list(self._on_their_way):
                    future.cancel()
                with suppress(kafka_errors.KafkaError, OSError):
                    await self.start()
                    log.info("a new producer took over")


async def _end(producer: Any) -> None:
    """Stop a producer, also one that waits for a broker in vain."""
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await producer.stop()
    except TimeoutError:
        with suppress(TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(STOP_SECONDS):
                await producer._sender.close()
        await producer.client.close()
    except kafka_errors.KafkaError:
        pass


def _placed(found: Any, number: int, stamp: int) -> Placed:
    offset = -1 if found.offset is None or found.offset < 0 else found.offset + number
    # aiokafka gives the first record's own time to all of a batch; the topic's clock is another matter
    return Placed(found.topic, found.partition, offset, found.timestamp if found.timestamp_type == 1 else stamp)


@asynccontextmanager
async def writing(connection: Connection) -> AsyncIterator[Writer]:
    """A writer that is connected."""
    writer = Writer(connection)
    await writer.start()
    keeping = asyncio.create_task(guard(writer.keep()), name="writing")
    try:
        yield writer
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})
        await writer.stop()
