"""Following a compacted topic: the newest value of every key, and how far it has been read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka_errors

from streamproc.core.processor import Seen
from streamproc.errors import BrokerUnavailable
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.watchdog import guard

log = logging.getLogger(__name__)

POLL_MS = 1_000
FIRST_READ_SECONDS = 60.0
RETRY_SECONDS = 1.0

View: TypeAlias = Callable[[Mapping[bytes, bytes]], Any]
"""What the newest values mean: made anew whenever one of them changed."""


class Follower:
    """The view of one topic under a name, as a snapshot that is replaced and never changed. Made by ``following``."""

    def __init__(self, consumer: Any, topic: str, name: str, view: View) -> None:
        self._consumer, self._topic, self._name, self._view = consumer, topic, name, view
        self._values: dict[bytes, bytes] = {}
        self._seen = Seen({name: view({})})

    def seen(self) -> Seen:
        """The present snapshot."""
        return self._seen

    async def catch_up(self) -> None:
        """Read all that is there now. Raises BrokerUnavailable where that takes too long."""
        tps = self._consumer.assignment()
        await self._consumer.seek_to_beginning(*tps)
        ends = await self._consumer.end_offsets(tps)
        try:
            async with asyncio.timeout(FIRST_READ_SECONDS):
                while any([await self._consumer.position(tp) < ends[tp] for tp in tps]):
                    await self._poll()
        except TimeoutError as error:
            raise BrokerUnavailable(f"{self._topic} could not be read in {FIRST_READ_SECONDS:.0f} s") from error
        await self._show(tps)

    async def follow(self) -> None:
        """Keep up, for ever: a broker that is away is waited for."""
        while True:
            try:
                if await self._poll():
                    await self._show(self._consumer.assignment())
            except kafka_errors.KafkaError as error:
                log.warning("following %s: %s, trying again", self._topic, type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)

    async def _poll(self) -> bool:
        changed = False
        for records in (await self._consumer.getmany(timeout_ms=POLL_MS)).values():
            for record in records:
                changed = True
                if record.value is None:
                    self._values.pop(record.key, None)
                elif record.key is not None:
                    self._values[record.key] = record.value
        return changed

    async def _show(self, tps: Any) -> None:
        offsets = {f"{tp.topic}-{tp.partition}": await self._consumer.position(tp) for tp in sorted(tps)}
        self._seen = Seen({self._name: self._view(self._values)}, offsets)


@asynccontextmanager
async def following(connection: Connection, topic: str, name: str, view: View) -> AsyncIterator[Follower]:
    """A follower that has read all there was, and keeps up until the end."""
    infos = await admin.describe(connection, [topic])
    consumer = AIOKafkaConsumer(
        **connection.client_kwargs(),
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    try:
        await consumer.start()
        consumer.assign([TopicPartition(topic, number) for number in range(infos[topic].partitions)])
        follower = Follower(consumer, topic, name, view)
        await follower.catch_up()
        keeping_up = asyncio.create_task(guard(follower.follow()), name=f"following {topic}")
        try:
            yield follower
        finally:
            keeping_up.cancel()
            await asyncio.wait({keeping_up})
    except kafka_errors.KafkaError as error:
        raise BrokerUnavailable(f"the broker at {connection.address} failed: {error}") from error
    finally:
        await consumer.stop()
