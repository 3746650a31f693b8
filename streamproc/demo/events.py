"""What the demonstration sends: real loan applications, some of them damaged, some with values missing."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
import polars as pl
from aiokafka import AIOKafkaProducer

from streamproc.core.partitioner import partitions
from streamproc.demo.surroundings import PARTITIONS
from streamproc.kafka.connection import Connection
from streamproc.sample import car_loans

PACE_SECONDS = 0.02
BURST = 4000
SEED = 7


@dataclass(frozen=True, slots=True)
class Events:
    """What is produced: keys and values, and how many of them were damaged on purpose."""

    keys: list[bytes]
    values: list[bytes | None]
    damaged: int
    incomplete: int = 0
    """How many of them have a value missing, as the package's own damaged file has them."""


def real_events(count: int, bad_share: float, missing_share: float = 0.0) -> Events:
    """The car-loan analysis file as events (from the start again where more are wanted), some of them damaged."""
    rows = pl.read_csv(car_loans().analysis).select(pl.exclude("y_pred_proba", "y_pred"))
    lines = [orjson.dumps(row) for row in rows.to_dicts()]
    ids = rows["id"].to_list()
    values: list[bytes | None] = [lines[number % len(lines)] for number in range(count)]
    keys = [b"%d" % ids[number % len(ids)] for number in range(count)]
    chance = random.Random(SEED)  # noqa: S311 - not for secrets
    damaged = chance.sample(range(count), round(count * bad_share))
    for number in damaged:
        values[number] = _damage(values[number] or b"", chance)
    incomplete = _incomplete() if missing_share else {}
    sound = set(range(count)) - set(damaged)
    chosen = [number for number in sorted(sound) if keys[number] in incomplete and chance.random() < missing_share]
    for number in chosen:
        values[number] = incomplete[keys[number]]
    return Events(keys, values, len(damaged), len(chosen))


def _incomplete() -> dict[bytes, bytes]:
    """Applications with a value missing, by their keys."""
    rows = pl.read_csv(car_loans().incomplete).select(pl.exclude("y_pred_proba", "y_pred"))
    rows = rows.filter(pl.any_horizontal(pl.all().is_null()))
    return {b"%d" % row["id"]: orjson.dumps(row) for row in rows.to_dicts()}


def _damage(value: bytes, chance: random.Random) -> bytes | None:
    event = orjson.loads(value)
    ways: list[Callable[[], bytes | None]] = [
        lambda: value[: len(value) // 2],
        lambda: orjson.dumps(event | {"car_value": "a lot"}),
        lambda: orjson.dumps({name: item for name, item in event.items() if name != "salary_range"}),
        lambda: orjson.dumps(event | {"debt_to_income_ratio": -1}),
        lambda: value.replace("€".encode(), b"\xff"),
        lambda: b"",
        lambda: None,
    ]
    return chance.choice(ways)()


async def produce(connection: Connection, topic: str, events: Events, rate: float | None) -> None:
    """Send the events in order, as fast as it goes or at ``rate`` a second, partitioned as Java's clients do."""
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
                await _send(producer, topic, events, places, sent, until)
                sent = until
            if rate is not None:
                await asyncio.sleep(PACE_SECONDS)
        await producer.flush()
    finally:
        await producer.stop()


async def _send(producer: Any, topic: str, events: Events, places: list[int], first: int, last: int) -> None:
    now = int(time.time() * 1000)
    batches: dict[int, Any] = {}
    for number in range(first, last):
        place = places[number]
        batch = batches.get(place) or batches.setdefault(place, producer.create_batch())
        key, value = events.keys[number], events.values[number]
        if batch.append(timestamp=now, key=key, value=value, headers=[]) is None:
            await producer.send_batch(batch, topic, partition=place)
            batch = batches[place] = producer.create_batch()
            batch.append(timestamp=now, key=key, value=value, headers=[])
    for place, batch in batches.items():
        await producer.send_batch(batch, topic, partition=place)
