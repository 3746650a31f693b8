"""The input: events in transactions, some of them aborted, some sent twice, some poisonous or large when asked for."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import Sequence
from itertools import count, cycle
from random import Random
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from streamproc.kafka.connection import Connection
from tests.kafka import car_loan

KEYS = 300
PAUSE = 0.1
ABORTED = 0.1
TWICE = 0.02
FIRST_ID = 10_000_000
ID = re.compile(rb'^\{"id":\d+')
TRANSACTION_SECONDS = 20.0
STOP_SECONDS = 5.0
DIFFERENT = 2_000
MAX_REQUEST_BYTES = 4 << 20


class Feed:
    """Sends events until told to stop. What of it was committed, the topic knows. All events of a key are on one
    partition, so that their order means something."""

    def __init__(self, connection: Connection, topic: str, partitions: int, rate: int, chance: Random) -> None:
        self._connection, self._topic, self.partitions = connection, topic, partitions
        self._count, self._chance = max(int(rate * PAUSE), partitions), chance
        self._values = cycle(value for _, value in car_loan.events(DIFFERENT))
        self._ids = count(FIRST_ID)
        self._again: deque[tuple[int, bytes]] = deque()
        self._special: deque[tuple[list[bytes], bool, asyncio.Event]] = deque()
        self._stop = asyncio.Event()
        self.ended = asyncio.Event()
        self._producer: AIOKafkaProducer | None = None
        self.aborted = 0
        self.failed = 0

    async def run(self) -> None:
        """Feed until ``stop``, through whatever happens to the broker; then end each partition with a plain record."""
        try:
            while not self._stop.is_set():
                await self._transaction()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), PAUSE)
            await self._finish()
            self.ended.set()
        finally:
            await self._discard()

    def stop(self) -> None:
        self._stop.set()

    async def send(self, values: Sequence[bytes], *, abort: bool = False) -> None:
        """Put events into a transaction, and wait for its end; they may come twice when the broker goes away."""
        done = asyncio.Event()
        self._special.append((list(values), abort, done))
        await done.wait()

    async def _transaction(self) -> None:
        values, abort, done = self._special[0] if self._special else ([], self._chance.random() < ABORTED, None)
        try:
            async with asyncio.timeout(TRANSACTION_SECONDS):
                producer = await self._ready()
                await producer.begin_transaction()
                for _ in range(len(self._again)):
                    await self._send(producer, *self._again.popleft())
                for value in [*(next(self._values) for _ in range(self._count)), *values]:
                    await self._one(producer, value)
                await producer.flush()
                await (producer.abort_transaction() if abort else producer.commit_transaction())
        except (KafkaError, OSError, AssertionError, TimeoutError):  # the broker is gone: begin again
            self.failed += 1
            await self._discard()
            return
        self.aborted += abort
        if done is not None:
            self._special.popleft()
            done.set()

    async def _one(self, producer: AIOKafkaProducer, value: bytes | None) -> None:
        """Send an event with an id of its own. A few are sent again, in the next transaction."""
        customer = self._chance.randrange(KEYS)
        if value is not None:
            value = ID.sub(b'{"id":%d' % next(self._ids), value)
            if self._chance.random() < TWICE:
                self._again.append((customer, value))
        await self._send(producer, customer, value)

    async def _send(self, producer: AIOKafkaProducer, customer: int, value: bytes | None) -> None:
        key = b"customer-%d" % customer
        headers = [("traceparent", b"00-" + key)]
        await producer.send(self._topic, value, key=key, partition=customer % self.partitions, headers=headers)

    async def _finish(self) -> None:
        """A partition that ends in a record and not in a marker: its last offset plus one is where a lane ends."""
        while True:
            try:
                async with asyncio.timeout(TRANSACTION_SECONDS):
                    await self._ready()  # the same id: ends a transaction that a failure left open
                    plain = AIOKafkaProducer(**self._connection.client_kwargs(), enable_idempotence=True)
                    await plain.start()
                    try:
                        for partition in range(self.partitions):
                            key = b"customer-%d" % partition
                            headers = [("traceparent", b"00-" + key)]
                            await plain.send_and_wait(
                                self._topic, ordinary(), key=key, partition=partition, headers=headers
                            )
                    finally:
                        await stopped(plain)
                return
            except (KafkaError, OSError, AssertionError, TimeoutError):
                self.failed += 1
                await self._discard()
                await asyncio.sleep(PAUSE)

    async def _ready(self) -> AIOKafkaProducer:
        if self._producer is None:
            self._producer = AIOKafkaProducer(
                **self._connection.client_kwargs(),
                transactional_id=f"feed-{self._topic}",
                max_request_size=MAX_REQUEST_BYTES,
            )
            await self._producer.start()
        return self._producer

    async def _discard(self) -> None:
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await stopped(producer)


async def stopped(client: Any) -> None:
    """Stop a client of aiokafka's; its ``stop`` can hang where it has failed."""
    task = asyncio.ensure_future(client.stop())
    await asyncio.wait({task}, timeout=STOP_SECONDS)
    if task.done() and not task.cancelled():
        task.exception()
    else:
        task.cancel()


def ordinary(**changes: object) -> bytes:
    """A sound event with some of its fields changed or added."""
    value = car_loan.events(1, damaged=False)[0][1]
    return orjson.dumps({**orjson.loads(value or b"{}"), **changes})
