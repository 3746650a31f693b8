"""Nothing missing, nothing twice, keyed state right: three workers on four partitions, and one fault after another."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from streamproc.core.state import split_changelog_key
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.dev_broker import DevBroker
from streamproc.kafka.group import GroupOffsets
from tests.kafka.processes import Workers
from tests.kafka.records import read_all, read_until

KEYS = 200
BATCH = 100
PAUSE = 0.1
SEED = 20
PAUSED_SECONDS = 10


async def feed(connection: Connection, topic: str, stop: asyncio.Event) -> int:
    """Send events in transactions until told to stop; every fifth is aborted. What was committed, the topic knows."""
    chance, aborted = random.Random(SEED), 0
    producer: AIOKafkaProducer | None = None
    number = 0
    while not stop.is_set():
        try:
            if producer is None:
                producer = AIOKafkaProducer(**connection.client_kwargs(), transactional_id=f"feed-{topic}")
                await producer.start()
            await producer.begin_transaction()
            for _ in range(BATCH):
                key = b"key-%d" % chance.randrange(KEYS)
                await producer.send(topic, b"%d" % number, key=key, partition=chance.randrange(4))
                number += 1
            await producer.flush()
            if chance.random() < 0.2:
                aborted += 1
                await producer.abort_transaction()
            else:
                await producer.commit_transaction()
        except (KafkaError, AssertionError):  # the broker is gone: begin again
            if producer is not None:
                await asyncio.wait({asyncio.ensure_future(producer.stop())}, timeout=5)
            producer = None
        await asyncio.sleep(PAUSE)
    if producer is not None:
        await producer.stop()
    return aborted


async def moved(connection: Connection, group: str, source: str, seconds: float = 60.0) -> None:
    """Wait until every partition's committed offset has moved on."""
    offsets = GroupOffsets(connection, group)
    await offsets.start()
    parts = [TopicPartition(source, number) for number in range(4)]
    try:
        async with asyncio.timeout(seconds):
            before = await offsets.fetch(parts, stable=False)
            while True:
                now = await offsets.fetch(parts, stable=False)
                if all(now[tp].offset > max(before[tp].offset, 0) for tp in parts):
                    return
                await asyncio.sleep(0.05)
    finally:
        await offsets.stop()


async def faults(workers: Workers, broker: DevBroker, progress: Callable[[], Awaitable[None]]) -> None:
    """One fault after another; after each, every partition must move again."""
    await progress()
    workers.kill(0)
    await progress()
    workers.pause(1)
    await asyncio.sleep(PAUSED_SECONDS)
    workers.resume(1)
    await progress()
    broker.kill()
    await asyncio.to_thread(broker.restart)
    await progress()


async def scenario(broker: DevBroker, connection: Connection, source: str, target: str, log: Path) -> dict[str, Any]:
    await admin.create(connection, [admin.TopicSpec(source, 4), admin.TopicSpec(target, 4)])
    stop = asyncio.Event()
    command = ["examples/counter/counter.py", source, target]
    with Workers(command, 3, log, {"STREAMPROC_KAFKA": connection.address}) as workers:
        feeding = asyncio.create_task(feed(connection, source, stop))
        await faults(workers, broker, lambda: moved(connection, f"{source}-counter", source))
        stop.set()
        aborted = await feeding
        events = await read_all(connection, source)
        results = await read_until(connection, target, lambda found: len(found) >= len(events), 90)
        codes = workers.stop()
    results = await read_all(connection, target)
    state = await read_all(connection, f"{source}-counter.counter.changelog")
    return {
        "aborted": aborted, "events": events, "results": results, "state": state,
        "ended": workers.ended, "codes": codes,
    }  # fmt: skip


@pytest.mark.timeout(240)
def test_nothing_is_lost_or_doubled_whatever_is_killed(tmp_path: Path) -> None:
    with DevBroker() as broker:
        connection = Connection((broker.address,))
        run = asyncio.run(scenario(broker, connection, "faults-in", "faults-out", tmp_path / "workers.log"))
    log = (tmp_path / "workers.log").read_text()[-3000:]
    events, results = run["events"], run["results"]
    assert run["aborted"] > 5
    assert len(events) > 5_000
    assert -9 in run["ended"], run["ended"]

    seen = Counter((v["partition"], v["offset"]) for v in map(_value, results))
    expected = {(event.partition, event.offset) for event in events}
    assert expected - set(seen) == set(), log
    assert set(seen) - expected == set(), "records of aborted transactions were taken for events"
    assert [place for place, times in seen.items() if times > 1] == [], log

    plain: dict[tuple[int, bytes], int] = defaultdict(int)
    for event in sorted(events, key=lambda event: (event.partition, event.offset)):
        plain[event.partition, event.key] += 1
    counts: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    for result in sorted(results, key=lambda result: (_value(result)["partition"], _value(result)["offset"])):
        counts[_value(result)["partition"], result.key].append(_value(result)["count"])
    wrong = [key for key, numbers in counts.items() if numbers != list(range(1, plain[key] + 1))]
    assert wrong == [], f"{len(wrong)} of {len(counts)} keyed counts are wrong\n{log}"

    kept = {}
    for record in sorted(run["state"], key=lambda record: record.offset):
        table, key = split_changelog_key(record.key)
        if table == "counts":
            kept[record.partition, key] = int(record.value)
    assert kept == dict(plain)
    assert set(run["codes"]) <= {0, -15}, log  # -15: one that was only just starting


def _value(record: Any) -> dict[str, int]:
    value: dict[str, int] = orjson.loads(record.value)
    return value
