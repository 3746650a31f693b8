"""What the demonstration sends, and how: real events, some of them damaged."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from aiokafka import AIOKafkaProducer

from streamproc.core.partitioner import partitions
from streamproc.core.processor import Headers
from streamproc.core.records import TRACEPARENT
from streamproc.demo.surroundings import PARTITIONS
from streamproc.kafka.connection import Connection

PACE_SECONDS = 0.02
BURST = 4000


@dataclass(frozen=True, slots=True)
class Events:
    """What is produced: keys and values, and how many of them were damaged on purpose."""

    keys: list[bytes]
    values: list[bytes | None]
    damaged: int
    incomplete: int = 0
    """How many of them have a value missing, as the package's own damaged file has them."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields of an event to damage: one that is a number, one that must be there, one that is never negative."""

    number: str
    needed: str
    positive: str


def damage(values: list[bytes | None], share: float, fields: Fields, chance: random.Random) -> list[int]:
    """Damage so large a share of the events; which ones."""
    damaged = chance.sample(range(len(values)), round(len(values) * share))
    for number in damaged:
        values[number] = _damaged(values[number] or b"", fields, chance)
    return damaged


def _damaged(value: bytes, fields: Fields, chance: random.Random) -> bytes | None:
    event = orjson.loads(value)
    ways: list[Callable[[], bytes | None]] = [
        lambda: value[: len(value) // 2],
        lambda: orjson.dumps(event | {fields.number: "a lot"}),
        lambda: orjson.dumps({name: item for name, item in event.items() if name != fields.needed}),
        lambda: orjson.dumps(event | {fields.positive: -1}),
        lambda: value.replace(b'":"', b'":"\xff', 1),
        lambda: b"",
        lambda: None,
    ]
    return chance.choice(ways)()


Number = Callable[[int, int, Headers], int]
"""Which event it is, counted from 0, by its partition, its offset, and the headers of what was made of it."""


def by_place(keys: Sequence[bytes]) -> Number:
    """How events are known again that were sent in this order to a topic of their own, and nobody else sent any."""
    lanes = partitions(list(keys), PARTITIONS, 0)
    order = [np.flatnonzero(lanes == lane).tolist() for lane in range(PARTITIONS)]
    return lambda partition, offset, headers: order[partition][offset]


def traced(number: int) -> tuple[str, bytes]:
    """A header that says which event it is, as a W3C trace: it is passed on to all that is made of the event."""
    return TRACEPARENT, b"00-%032x-%016x-01" % (number + 1, 1)  # zeros are no trace


def by_trace(partition: int, offset: int, headers: Headers) -> int:
    """How events are known again that were sent with ``traced``."""
    return next(int((value or b"")[3:35], 16) for name, value in headers if name == TRACEPARENT) - 1


async def produce(
    connection: Connection, topic: str, events: Events, rate: float | None, but: Collection[int] | None = None
) -> None:
    """Send the events in order, as fast as it goes or at ``rate`` a second, partitioned as Java's clients do.

    Those with the numbers ``but`` are left out, and the others are ``traced`` then.
    """
    producer = AIOKafkaProducer(
        **connection.client_kwargs(), enable_idempotence=True, linger_ms=0, max_batch_size=1 << 19
    )
    await producer.start()
    try:
        places = partitions(list(events.keys), PARTITIONS, 0).tolist()
        started, sent, count = time.perf_counter(), 0, len(events.values)
        while sent < count:
            due = count if rate is None else min(int((time.perf_counter() - started) * rate) + 1, count)
            until = min(due, sent + BURST)
            if until > sent:
                await _send(producer, topic, events, places, range(sent, until), but)
                sent = until
            if rate is not None:
                await asyncio.sleep(PACE_SECONDS)
        await producer.flush()
    finally:
        await producer.stop()


async def _send(
    producer: Any, topic: str, events: Events, places: list[int], numbers: range, but: Collection[int] | None
) -> None:
    now = int(time.time() * 1000)
    batches: dict[int, Any] = {}
    for number in numbers:
        if but is not None and number in but:
            continue
        place, headers = places[number], [] if but is None else [traced(number)]
        batch = batches.get(place) or batches.setdefault(place, producer.create_batch())
        key, value = events.keys[number], events.values[number]
        if batch.append(timestamp=now, key=key, value=value, headers=headers) is None:
            await producer.send_batch(batch, topic, partition=place)
            batch = batches[place] = producer.create_batch()
            batch.append(timestamp=now, key=key, value=value, headers=headers)
    for place, batch in batches.items():
        await producer.send_batch(batch, topic, partition=place)
