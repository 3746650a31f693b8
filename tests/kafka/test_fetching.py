"""Fetches that wait, on a real consumer: they end when they are told to."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.fetching import fetch_without_pause, take

LONG = 60.0


@asynccontextmanager
async def consuming(
    connection: Connection, not_before: Callable[[], float] = lambda: 0.0
) -> AsyncIterator[tuple[Any, TopicPartition]]:
    """A consumer of an empty topic."""
    name = f"fetching-{uuid4().hex[:8]}"
    await admin.create(connection, [admin.TopicSpec(name, 1)])
    consumer = AIOKafkaConsumer(**connection.client_kwargs(), enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    try:
        fetch_without_pause(consumer, not_before)
        consumer.assign([TopicPartition(name, 0)])
        yield consumer, TopicPartition(name, 0)
    finally:
        await consumer.stop()


def test_a_fetch_that_waits_ends_when_it_is_enough(connection: Connection) -> None:
    async def run() -> float:
        async with consuming(connection) as (consumer, tp):
            enough: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            began = time.monotonic()
            waiting = asyncio.create_task(take(consumer, {tp}, seconds=LONG, most=10, enough=enough))
            await asyncio.sleep(0)
            enough.set_result(None)
            assert await waiting == {}
            assert await take(consumer, {tp}, seconds=LONG, most=10, enough=enough) == {}
            return time.monotonic() - began

    assert asyncio.run(run()) < LONG / 2


def test_no_fetch_begins_before_it_may(connection: Connection) -> None:
    async def run() -> None:
        begins = [math.inf]
        async with consuming(connection, lambda: begins[0]) as (consumer, tp):
            producer = AIOKafkaProducer(**connection.client_kwargs())
            await producer.start()
            try:
                await producer.send_and_wait(tp.topic, b"one", partition=0)
            finally:
                await producer.stop()
            assert await take(consumer, {tp}, seconds=0.5, most=10) == {}
            begins[0] = 0.0
            assert (await take(consumer, {tp}, seconds=LONG, most=10))[tp].values == [b"one"]

    asyncio.run(run())
