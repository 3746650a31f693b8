"""How far a door sees the lanes behind: by the oldest event that waits, and not by the end of the topic."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from streamproc.errors import LaneStopped
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.group import Claim, GroupOffsets, Member
from streamproc.serve.lag import Lag, watching
from tests.kafka import car_loan
from tests.kafka.conftest import TopicFactory
from tests.kafka.doors import door, wait_until_ready

HOUR = 3600
ROWS = [value or b"" for _, value in car_loan.events(5, damaged=False)]


async def transaction(connection: Connection, topic: str, count: int, *, age: float = 0, abort: bool = False) -> None:
    """Records on partition 0, and behind them the mark of how their transaction ended."""
    producer = AIOKafkaProducer(**connection.client_kwargs(), transactional_id=uuid4().hex)
    await producer.start()
    try:
        await producer.begin_transaction()
        for _ in range(count):
            stamp = int((time.time() - age) * 1000)
            await producer.send_and_wait(topic, b"{}", partition=0, timestamp_ms=stamp)
        await (producer.abort_transaction() if abort else producer.commit_transaction())
    finally:
        await producer.stop()


async def commit(connection: Connection, group: str, topic: str, offset: int) -> None:
    consumer = AIOKafkaConsumer(**connection.client_kwargs(), group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        await consumer.commit({TopicPartition(topic, 0): offset})
    finally:
        await consumer.stop()


async def until(lag: Lag, holds: Callable[[], bool]) -> None:
    """Look until something holds."""
    async with asyncio.timeout(60):
        while not holds():
            await lag.look()
            await asyncio.sleep(0.05)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(120):
            await test()

    asyncio.run(bounded())


def test_marks_of_transactions_behind_the_last_event_are_no_event(connection: Connection, topic: TopicFactory) -> None:
    events, group = topic(partitions=2), uuid4().hex

    async def test() -> None:
        await transaction(connection, events, 3, age=2 * HOUR)
        await transaction(connection, events, 4, age=2 * HOUR, abort=True)  # 0 to 2, a mark, 4 to 7, a mark
        await commit(connection, group, events, 3)
        async with watching(connection, group, [events]) as lag:
            assert lag.seconds == 0
            began = time.monotonic()
            await until(lag, lambda: time.monotonic() - began > 2)
            assert lag.seconds == 0
            await transaction(connection, events, 1)
            await until(lag, lambda: lag.seconds > 1)
            assert lag.seconds < HOUR, "what comes while a door looks has the age that it saw"
            await commit(connection, group, events, 10)
            await until(lag, lambda: lag.seconds == 0)

    run(test)


def test_a_door_that_starts_knows_how_old_the_events_are_that_wait(connection: Connection, topic: TopicFactory) -> None:
    events, group = topic(), uuid4().hex

    async def test() -> None:
        await transaction(connection, events, 2, age=2 * HOUR)
        await transaction(connection, events, 1, age=HOUR)
        async with watching(connection, group, [events]) as lag:  # no lane has committed anything
            assert 2 * HOUR < lag.seconds < 2 * HOUR + 120
            await commit(connection, group, events, 2)  # the mark behind the first two
            await until(lag, lambda: HOUR < lag.seconds < HOUR + 120)
            await commit(connection, group, events, 0)  # a reset
            await until(lag, lambda: lag.seconds > 2 * HOUR)

    run(test)


def test_lanes_that_worked_on_a_topic_of_other_partitions_are_noticed(
    connection: Connection, topic: TopicFactory
) -> None:
    events, group = topic(partitions=3), uuid4().hex

    async def test() -> None:
        offsets = GroupOffsets(connection, group)
        await offsets.start()
        topic_id = (await admin.describe(connection, [events]))[events].topic_id
        tp = TopicPartition(events, 0)
        for count, fits in ((3, True), (2, False)):
            await offsets.commit(Member(group), {tp: (0, Claim("worker", 1, topic_id, count))})
            if fits:
                async with watching(connection, group, [events]) as lag:
                    await lag.look()
            else:
                with pytest.raises(LaneStopped, match="3 partitions now and had 2"):
                    async with watching(connection, group, [events]):
                        pass
        await offsets.stop()

    run(test)


@pytest.mark.timeout(240)
def test_an_idle_pipeline_that_repartitions_is_not_behind(connection: Any) -> None:
    changes = [
        ("  key: id\n", "  key: id\n  repartition_by: salary_range\n"),
        ("actions:\n", "serve: {max_lag: 2s}\nactions:\n"),
    ]
    made = car_loan.make(connection, partitions=2, changes=changes)
    with car_loan.worker(made), door(made) as opened:
        assert opened.decide(ROWS[0]).status == 200
        wait_until_ready(opened)  # the worker has just begun
        old = time.monotonic() + 4  # the marks of this event's transactions are older than max_lag by then
        while time.monotonic() < old:
            ready = opened.call("GET", "/readyz")
            assert ready.status == 200, ready.body
        assert opened.decide(ROWS[1]).status == 200
