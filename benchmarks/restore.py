"""How long a worker takes to restore the state of its lanes: ``python -m benchmarks.restore [--keys 1000000]``.

Writes that many keys to a changelog of four partitions, restores them as an opening worker does, from the changelog and
from checkpoints, and says how long each took, and for how long at most the event loop stood still meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer, TopicPartition

from examples.counter.counter import TABLE, Counter
from streamproc.core.state import Tables, changelog_key
from streamproc.kafka import admin
from streamproc.kafka.agent import Agent
from streamproc.kafka.changelogs import Changelogs
from streamproc.kafka.checkpoints import Checkpoints
from streamproc.kafka.connection import Connection
from streamproc.kafka.dev_broker import DevBroker
from streamproc.kafka.lane import Lane
from streamproc.kafka.logged import Logged
from streamproc.kafka.restore import bounds, restore

TOPIC, PARTITIONS = "bench.state.changelog", 4
AGENT = Agent("state", ("bench.events",), Counter("bench.events", "bench.totals"), tables=(TABLE,))
VALUE_BYTES = 150
TICK_SECONDS = 0.02


class Took(NamedTuple):
    """Seconds, and the longest time in seconds that the event loop was busy at once."""

    what: str
    keys: int
    seconds: float
    gap: float


async def run(connection: Connection, keys: int, folder: Path) -> list[Took]:
    """How long restoring takes from the changelog, writing checkpoints, and restoring from these."""
    await admin.create(connection, [admin.TopicSpec(TOPIC, PARTITIONS, cleanup_policy="compact")])
    await write(connection, keys)
    took = []

    async def timed(what: str, lanes: Sequence[Lane], step: Coroutine[Any, Any, Any]) -> Any:
        gaps: list[float] = []
        ticker = asyncio.create_task(tick(gaps))
        started = time.perf_counter()
        result = await step
        seconds = time.perf_counter() - started
        ticker.cancel()
        took.append(Took(what, sum(len(lane.tables) for lane in lanes), seconds, max(gaps, default=0.0)))
        return result

    infos = await admin.describe(connection, [TOPIC])
    lanes, checkpoints = made(), Checkpoints(folder, "bench", 300.0, Changelogs(connection))
    _, ends = await timed("restored from the changelog", lanes, restore(connection, tables(lanes), lambda read: None))
    for lane in lanes:
        offset = ends[TopicPartition(TOPIC, lane.partition)]
        lane.logged = Logged(infos[TOPIC].topic_id, offset, time.time(), infos[TOPIC].epochs[lane.partition])
    await timed("checkpoints written", lanes, checkpoints.leave(lanes))

    async def again(lanes: Sequence[Lane]) -> None:
        limits = await bounds(connection, list(tables(lanes)))
        since = await checkpoints.load(lanes, infos, limits, lambda: None)
        await restore(connection, tables(lanes), lambda read: None, since)

    lanes = made()
    await timed("restored from checkpoints", lanes, again(lanes))
    return took


def made() -> list[Lane]:
    """Lanes without state."""
    return [Lane(AGENT, number, {}, {}, Tables([TABLE])) for number in range(PARTITIONS)]


def tables(lanes: Sequence[Lane]) -> dict[TopicPartition, Tables]:
    return {TopicPartition(TOPIC, lane.partition): lane.tables for lane in lanes}


async def write(connection: Connection, keys: int) -> None:
    producer = AIOKafkaProducer(**connection.client_kwargs(), max_batch_size=1 << 19)
    await producer.start()
    try:
        for partition in range(PARTITIONS):
            batch = producer.create_batch()
            for key, value in entries(partition, keys):
                if batch.append(timestamp=None, key=key, value=value) is None:
                    await producer.send_batch(batch, TOPIC, partition=partition)
                    batch = producer.create_batch()
                    batch.append(timestamp=None, key=key, value=value)
            await producer.send_batch(batch, TOPIC, partition=partition)
        await producer.flush()
    finally:
        await producer.stop()


def entries(partition: int, keys: int) -> Iterator[tuple[bytes, bytes]]:
    for number in range(partition, keys, PARTITIONS):
        yield changelog_key(TABLE, b"customer-%09d" % number), b"%0*d" % (VALUE_BYTES, number)


async def tick(gaps: list[float]) -> None:
    last = time.perf_counter()
    while True:
        await asyncio.sleep(TICK_SECONDS)
        now = time.perf_counter()
        gaps.append(now - last - TICK_SECONDS)
        last = now


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--keys", type=int, default=1_000_000, help="default: 1,000,000")
    given = parser.parse_args()
    with DevBroker() as broker, tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(run(Connection((broker.address,)), given.keys, Path(folder)))
    for what, keys, seconds, gap in found:
        print(f"{what}: {keys:,} keys in {seconds:.1f} s; the event loop stood still for {gap * 1000:.0f} ms at most")


if __name__ == "__main__":
    main()
