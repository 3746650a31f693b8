"""From the commit of a change of drift, or of what people said, to the moment when decisions see it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from aiokafka import AIOKafkaProducer

from streamproc.core.processor import Seen
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.dev_broker import DevBroker
from streamproc.kafka.follower import Values, following

CHANGES = 300
PAUSE_SECONDS = 0.05
LIMIT_SECONDS = 10.0
TOPICS = ("seen.control", "seen.drift-state")


def measure() -> Iterator[dict[str, Any]]:
    """Milliseconds, over changes that are committed one after another on a broker of its own."""
    with DevBroker() as broker:
        taken = asyncio.run(_taken(Connection((broker.address,))))
    median, ninety_nine = np.percentile(taken, [50, 99]).tolist()
    what = f"ms from the commit of a change to {len(taken)} times that it was seen"
    yield {"what": what, "value": f"median {median:.0f}, 99 % {ninety_nine:.0f}, most {max(taken):.0f}"}


async def _taken(connection: Connection) -> list[float]:
    await admin.create(connection, [admin.TopicSpec(topic, 1, cleanup_policy="compact") for topic in TOPICS])
    shown = asyncio.Event()

    def views(values: Values) -> Mapping[str, Any]:
        shown.set()
        return {"newest": values[TOPICS[1]].get(b"k")}

    producer = AIOKafkaProducer(**connection.client_kwargs(), transactional_id="seen")
    await producer.start()
    taken = list[float]()
    try:
        async with following(connection, TOPICS, views) as follower:
            for number in range(CHANGES):
                value = b"%d" % number
                async with producer.transaction():
                    await producer.send_and_wait(TOPICS[1], value, key=b"k")
                committed = time.perf_counter()
                async with asyncio.timeout(LIMIT_SECONDS):
                    while _newest(follower.seen()) != value:
                        shown.clear()
                        await shown.wait()
                taken.append((time.perf_counter() - committed) * 1000)
                await asyncio.sleep(PAUSE_SECONDS)
    finally:
        await producer.stop()
    return taken


def _newest(seen: Seen) -> bytes | None:
    newest: bytes | None = seen.views["newest"]
    return newest
