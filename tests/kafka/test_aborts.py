"""Transactions that come to nothing, and topics that end in what is no record."""

from __future__ import annotations

import asyncio
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition

from streamproc.demo import free_ports
from streamproc.kafka.connection import Connection
from streamproc.kafka.group import GroupOffsets
from streamproc.kafka.producer import end_transactions_of
from tests.kafka import car_loan
from tests.kafka.conftest import TopicFactory
from tests.kafka.processes import Workers
from tests.kafka.records import read_all, read_until

FENCES = 15
EVENTS = 3_000


async def fence_again_and_again(connection: Connection, source: str, target: str) -> dict[str, Any]:
    """Feed events, and end the worker's transactions under it by taking its transactional id for a moment."""
    group, ends = GroupOffsets(connection, f"{source}-counter"), []
    await group.start()
    producer = AIOKafkaProducer(**connection.client_kwargs(), enable_idempotence=True)
    await producer.start()
    parts = [TopicPartition(source, number) for number in range(2)]
    try:
        async with asyncio.timeout(60):
            while True:
                claimed = await group.fetch(parts, stable=False)
                if all(entry.claim for entry in claimed.values()):
                    break
                await asyncio.sleep(0.05)
        owner = next(entry.claim.owner for entry in claimed.values() if entry.claim)
        for number in range(EVENTS):
            await producer.send(source, b"%d" % number, key=b"k%d" % (number % 7), partition=number % 2)
            if number % (EVENTS // FENCES) == 0:
                await producer.flush()
                await end_transactions_of(connection, owner)
                ends.append(number)
        await producer.flush()
    finally:
        await producer.stop()
        await group.stop()
    results = await read_until(connection, target, lambda found: len(found) >= EVENTS, 60)
    return {"results": results, "ends": ends}


@pytest.mark.timeout(180)
def test_aborted_transactions_leave_no_hole(connection: Connection, topic: TopicFactory, tmp_path: Path) -> None:
    source, target, log = topic(partitions=2), topic(partitions=2), tmp_path / "worker.log"
    command = ["examples/counter/counter.py", source, target]
    with Workers(command, 1, log, {"STREAMPROC_KAFKA": connection.address}) as workers:
        run = asyncio.run(fence_again_and_again(connection, source, target))
        assert workers.ended == [], log.read_text()[-2000:]
    text = log.read_text()
    assert "asking what became of it" in text, "no transaction was ended under the worker"
    seen = Counter((v["partition"], v["offset"]) for v in (orjson.loads(r.value) for r in run["results"]))
    assert (len(seen), max(seen.values())) == (EVENTS, 1), text[-2000:]
    last: dict[bytes, int] = {}
    for record in asyncio.run(read_all(connection, target)):
        value = orjson.loads(record.value)
        last[record.key, value["partition"]] = max(last.get((record.key, value["partition"]), 0), value["count"])
    assert sum(last.values()) == EVENTS


@pytest.mark.timeout(120)
def test_a_topic_that_ends_in_markers_is_not_behind(connection: Connection) -> None:
    made = car_loan.make(connection)

    async def committed_then_aborted() -> None:
        producer = AIOKafkaProducer(**connection.client_kwargs(), transactional_id=f"{made.name}-source")
        await producer.start()
        for commit in (True, False):
            await producer.begin_transaction()
            for number, (key, value) in enumerate(car_loan.events(20, damaged=False)):
                await producer.send(made.topic("events"), value, key=key, partition=number % 2)
            await (producer.commit_transaction() if commit else producer.abort_transaction())
        await producer.stop()

    asyncio.run(committed_then_aborted())
    port = free_ports(1)
    with car_loan.worker(made, "--watchdog", "3", "--web-port", str(port)) as process:
        car_loan.wait_for_results(made, 20)
        quiet = time.monotonic() + 8  # several times the watchdog's patience
        while time.monotonic() < quiet:
            assert process.poll() is None, (made.file.parent / "worker.log").read_text()[-2000:]
            assert page(port, "/healthz")[0] == 200
            time.sleep(0.5)
        lags = [line for line in page(port, "/metrics")[1].splitlines() if line.startswith("streamproc_lag_records{")]
        assert len(lags) == 2
        assert all(line.endswith(" 0.0") for line in lags)


def page(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
