"""Following the decisions and the dead letters of a pipeline: committed records of all partitions, without a group."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka_errors

from streamproc.core.records import EVENT, FIRST, DeadLetter
from streamproc.errors import BrokerUnavailable
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.follower import reading
from streamproc.kafka.watchdog import guard
from streamproc.serve.answers import Answers, digest_of, id_of

log = logging.getLogger(__name__)

FETCH_WAIT_MS: Final = 10
"""A partition that was just read waits for the fetch that is under way without it."""
POLL_MS: Final = 500
RETRY_SECONDS: Final = 1.0
START_SECONDS: Final = 60.0
NOTE_SECONDS: Final = 0.1
MOST_BACK: Final = 20_000
"""So many records of a partition are read back at most, when a door starts."""


class Following:
    """Reads the topics of answers into ``answers``. Made by ``following``."""

    def __init__(self, consumer: Any, decisions: str, answers: Answers) -> None:
        self._consumer, self._decisions, self._answers = consumer, decisions, answers
        self._at_end: dict[TopicPartition, float] = {}
        self._noted = 0.0

    @property
    def behind(self) -> float:
        """Since when not all that is decided has been read, in seconds, or nobody knows whether it has."""
        return max(0.0, time.time() - min(self._at_end.values(), default=0.0))

    async def catch_up(self, look_back: timedelta) -> None:
        """Read what was decided lately. Raises BrokerUnavailable where that takes too long."""
        consumer, tps = self._consumer, sorted(self._consumer.assignment())
        since = int((time.time() - look_back.total_seconds()) * 1000)
        try:
            async with asyncio.timeout(START_SECONDS):
                ends = await consumer.end_offsets(tps)
                found = await consumer.offsets_for_times(dict.fromkeys(tps, since))
                for tp in tps:
                    first = ends[tp] if found.get(tp) is None else found[tp].offset
                    consumer.seek(tp, max(0, first, ends[tp] - MOST_BACK))
                while not all([await consumer.position(tp) >= end for tp, end in ends.items()]):
                    await self._poll()
        except TimeoutError as error:
            raise BrokerUnavailable(f"{self._decisions} could not be read in {START_SECONDS:.0f} s") from error

    async def run(self) -> None:
        """Keep up, for ever: a broker that is away is waited for."""
        while True:
            try:
                await self._poll()
            except kafka_errors.KafkaError as error:
                log.warning("following %s: %s, trying again", self._decisions, type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)

    async def _poll(self) -> None:
        for tp, records in (await self._consumer.getmany(timeout_ms=POLL_MS)).items():
            take = self._decided if tp.topic == self._decisions else self._refused
            for record in records:
                take(record)
        if time.monotonic() - self._noted > NOTE_SECONDS:
            self._noted = time.monotonic()
            for tp in self._consumer.assignment():
                await self._note(tp)

    async def _note(self, tp: TopicPartition) -> None:
        """Note when a partition was read to its end, by what the broker said last."""
        end, stamp = self._consumer.last_stable_offset(tp), self._consumer.last_poll_timestamp(tp)
        if end is not None and await self._consumer.position(tp) >= end:
            self._at_end[tp] = stamp / 1000
        else:
            self._at_end.setdefault(tp, 0.0)

    def _decided(self, record: Any) -> None:
        if record.value is None or id_of(record.value) is None:
            return  # somebody else's
        digest = next((value for name, value in record.headers if name == EVENT), None)
        self._answers.decided(record.value, record.timestamp, digest_of(digest), record.key)

    def _refused(self, record: Any) -> None:
        named = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
        digest = next((value for name, value in record.headers if name == EVENT), None)
        if (event := digest_of(digest)) is not None:
            said = {part: named.get(f"sp-{part}", "") for part in ("stage", "reason", "path", "detail")}
            self._answers.refused(DeadLetter(**said, first=named.get(FIRST, "")), event)


@asynccontextmanager
async def following(
    connection: Connection, topics: Sequence[str], answers: Answers, look_back: timedelta
) -> AsyncIterator[Following]:
    """``answers`` knows what was decided lately, and keeps up until the end. The decisions topic is the first one."""
    infos = await admin.describe(connection, topics)
    consumer = AIOKafkaConsumer(
        **connection.client_kwargs(),
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=FETCH_WAIT_MS,
    )
    try:
        with reading(connection, topics):
            await consumer.start()
            consumer.assign(
                [TopicPartition(topic, part) for topic in topics for part in range(infos[topic].partitions)]
            )
            follower = Following(consumer, topics[0], answers)
            await follower.catch_up(look_back)
        keeping_up = asyncio.create_task(guard(follower.run()), name=f"following {', '.join(topics)}")
        try:
            yield follower
        finally:
            keeping_up.cancel()
            await asyncio.wait({keeping_up})
    finally:
        await consumer.stop()
