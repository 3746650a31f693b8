"""How far a door sees the lanes behind: by the oldest event that waits, and not by the end of the topic."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.producer import message_accumulator, producer
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from streamproc.core.processor import Records
from streamproc.errors import LaneStopped
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.group import Claim, GroupOffsets, Member
from streamproc.serve import lag as lags
from streamproc.serve.lag import PROBE_BYTES, Lag, watching
from tests.kafka import car_loan
from tests.kafka.conftest import TopicFactory
from tests.kafka.doors import door, wait_until_ready
from tests.kafka.records import NotText

HOUR = 3600
ROWS = [value or b"" for _, value in car_loan.events(5, damaged=False)]


async def transaction(
    connection: Connection,
    topic: str,
    count: int,
    *,
    age: float = 0,
    abort: bool = False,
    value: bytes = b"{}",
    header: str | None = None,
) -> None:
    """Records on partition 0, and behind them the mark of how their transaction ended."""
    client = AIOKafkaProducer(**connection.client_kwargs(), transactional_id=uuid4().hex)
    headers = [] if header is None else [(header, b"x")]
    await client.start()
    try:
        await client.begin_transaction()
        for _ in range(count):
            stamp = int((time.time() - age) * 1000)
            await client.send_and_wait(topic, value, partition=0, timestamp_ms=stamp, headers=headers)
        await (client.abort_transaction() if abort else client.commit_transaction())
    finally:
        await client.stop()


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


def test_an_event_whose_header_has_no_name_waits_like_any_other(
    connection: Connection, topic: TopicFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (producer, message_accumulator):
        monkeypatch.setattr(module, "DefaultRecordBatchBuilder", _DefaultRecordBatchBuilderPy)
    events, group, nameless = topic(), uuid4().hex, NotText("x")

    async def test() -> None:
        await transaction(connection, events, 1, age=4 * HOUR, abort=True, header=nameless)  # 0, a mark
        await transaction(connection, events, 1, age=2 * HOUR, header=nameless)
        await transaction(connection, events, 1, age=HOUR)
        async with watching(connection, group, [events]) as lag:
            await until(lag, lambda: 2 * HOUR < lag.seconds < 2 * HOUR + 120)
            await commit(connection, group, events, 3)
            await until(lag, lambda: HOUR < lag.seconds < HOUR + 120)

    run(test)


def test_what_was_aborted_is_passed_bit_by_bit(
    connection: Connection, topic: TopicFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, group, left = topic(), uuid4().hex, [0]

    async def take(*of: Any, **more: Any) -> dict[TopicPartition, Records]:
        left[0] -= 1
        if left[0] < 0:
            raise TimeoutError
        return await lags_take(*of, **more)

    async def test() -> None:
        await transaction(connection, events, 20, abort=True, value=b"x" * PROBE_BYTES)
        async with watching(connection, group, [events]) as lag:
            async with asyncio.timeout(60):
                await lag.look()
                assert lag.seconds > 0, "it may be an event"
                while lag.seconds > 0:  # a look ends long before it is through
                    left[0] = 4
                    await lag.look()

    lags_take = lags.take_any
    monkeypatch.setattr(lags, "take_any", take)
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
