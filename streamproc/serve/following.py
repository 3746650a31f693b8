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

from streamproc.core.processor import Headers, Records
from streamproc.core.records import EVENT, FIRST, DeadLetter
from streamproc.errors import BrokerUnavailable
from streamproc.kafka import admin
from streamproc.kafka.by_hand import take_any
from streamproc.kafka.connection import Connection
from streamproc.kafka.fetching import fetch_without_pause
from streamproc.kafka.follower import reading
from streamproc.kafka.watchdog import guard
from streamproc.serve.answers import Answers, digest_of

log = logging.getLogger(__name__)

FETCH_WAIT_MS: Final = 10
"""A partition that was just read waits for the fetch that is under way without it."""
POLL_SECONDS: Final = 0.5
MOST: Final = 4_000
"""Records that are looked at without a turn for others."""
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
        found = await take_any(self._consumer, self._consumer.assignment(), seconds=POLL_SECONDS, most=MOST)
        for tp, records in found.items():
            if tp.topic == self._decisions:
                self._decided(records)
            else:
                self._refused(records)
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

    def _decided(self, records: Records) -> None:
        decided = self._answers.decided
        rows = zip(records.values, records.timestamps.tolist(), records.headers, records.keys, strict=True)
        for value, stamp, headers, key in rows:
            if value is not None:
                decided(value, stamp, digest_of(_of(headers, EVENT)), key)

    def _refused(self, records: Records) -> None:
        for headers in records.headers:
            if (event := digest_of(_of(headers, EVENT))) is not None:
                said = {part: _text(headers, f"sp-{part}") for part in ("stage", "reason", "path", "detail")}
                self._answers.refused(DeadLetter(**said, first=_text(headers, FIRST)), event)


def _of(headers: Headers, wanted: str) -> bytes | None:
    for name, value in headers:
        if name == wanted:
            return value
    return None


def _text(headers: Headers, name: str) -> str:
    return (_of(headers, name) or b"").decode(errors="replace")


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
            fetch_without_pause(consumer)
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
