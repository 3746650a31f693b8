"""Following compacted topics: the newest value of every key, and how far they have been read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka_errors

from streamproc.core.processor import Seen
from streamproc.errors import BrokerUnavailable, UserError
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.watchdog import guard

log = logging.getLogger(__name__)

POLL_MS = 1_000
FIRST_READ_SECONDS = 60.0
RETRY_SECONDS = 1.0

Values: TypeAlias = Mapping[str, Mapping[bytes, bytes]]
"""By topic, the newest value of each key."""
Views: TypeAlias = Callable[[Values], Mapping[str, Any]]
"""What the newest values mean, by the names of the views: made anew whenever one of them changed."""


class Follower:
    """The views of some topics, as a snapshot that is replaced and never changed. Made by ``following``."""

    def __init__(self, consumer: Any, topics: Sequence[str], views: Views) -> None:
        self._consumer, self._views = consumer, views
        self._values: dict[str, dict[bytes, bytes]] = {topic: {} for topic in topics}
        self._seen = Seen(views(self._values))
        self._polled = asyncio.Condition()

    def seen(self) -> Seen:
        """The present snapshot."""
        return self._seen

    async def show(self) -> None:
        """Make the views anew of what is known, because what they depend on changed."""
        offsets = await self._offsets()
        self._seen = Seen(self._views(self._values), offsets)

    async def catch_up(self) -> None:
        """Read all that is there now. Raises BrokerUnavailable where that takes too long."""
        tps = self._consumer.assignment()
        await self._consumer.seek_to_beginning(*tps)
        ends = await self._consumer.end_offsets(tps)
        try:
            async with asyncio.timeout(FIRST_READ_SECONDS):
                while not await self._is_at(ends):
                    await self._poll()
        except TimeoutError as error:
            topics = ", ".join(self._values)
            raise BrokerUnavailable(f"{topics} could not be read in {FIRST_READ_SECONDS:.0f} s") from error
        await self.show()

    async def follow(self) -> None:
        """Keep up, for ever: a broker that is away is waited for."""
        while True:
            try:
                await self._poll()
                await self._show_what_is_new()
            except kafka_errors.KafkaError as error:
                log.warning("following %s: %s, trying again", ", ".join(self._values), type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
            async with self._polled:
                self._polled.notify_all()

    async def shows_all(self) -> None:
        """Wait until the snapshot shows all that is committed now. A broker that is away is waited for."""
        tps = self._consumer.assignment()
        while True:
            try:
                ends = await self._consumer.end_offsets(tps)
                break
            except kafka_errors.KafkaError as error:
                log.warning("asking for the end of %s: %s", ", ".join(self._values), type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
        async with self._polled:
            while any(self._seen.offsets.get(f"{tp.topic}-{tp.partition}", 0) < end for tp, end in ends.items()):
                await self._polled.wait()

    async def _is_at(self, ends: Mapping[TopicPartition, int]) -> bool:
        return all([await self._consumer.position(tp) >= end for tp, end in ends.items()])

    async def _show_what_is_new(self) -> None:
        """Make the views anew where anything was passed, be it only the mark of a transaction, and is not shown yet."""
        if await self._offsets() != self._seen.offsets:
            await self.show()

    async def _offsets(self) -> dict[str, int]:
        tps = sorted(self._consumer.assignment())
        return {f"{tp.topic}-{tp.partition}": await self._consumer.position(tp) for tp in tps}

    async def _poll(self) -> None:
        """Take what is new."""
        for tp, records in (await self._consumer.getmany(timeout_ms=POLL_MS)).items():
            values = self._values[tp.topic]
            for record in records:
                if record.value is None:
                    values.pop(record.key, None)
                elif record.key is not None:
                    values[record.key] = record.value


@contextmanager
def reading(connection: Connection, topics: Sequence[str]) -> Iterator[None]:
    """What Kafka says while a worker reads its own topics, as UserError and BrokerUnavailable."""
    try:
        yield
    except kafka_errors.TopicAuthorizationFailedError as error:
        raise UserError(
            f"not allowed: Read on {', '.join(topics)}",
            "`streamproc topics FILE --acls` lists the permissions that a worker needs",
        ) from error
    except kafka_errors.KafkaError as error:
        raise BrokerUnavailable(f"the broker at {connection.address} failed: {error}") from error


@asynccontextmanager
async def following(connection: Connection, topics: Sequence[str], views: Views) -> AsyncIterator[Follower]:
    """A follower that has read all there was, and keeps up until the end."""
    infos = await admin.describe(connection, topics)
    consumer = AIOKafkaConsumer(
        **connection.client_kwargs(),
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    try:
        with reading(connection, topics):
            await consumer.start()
            consumer.assign(
                [TopicPartition(topic, part) for topic in topics for part in range(infos[topic].partitions)]
            )
            follower = Follower(consumer, topics, views)
            await follower.catch_up()
            keeping_up = asyncio.create_task(guard(follower.follow()), name=f"following {', '.join(topics)}")
            try:
                yield follower
            finally:
                keeping_up.cancel()
                await asyncio.wait({keeping_up})
    finally:
        await consumer.stop()
