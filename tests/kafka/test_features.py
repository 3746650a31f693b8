"""What a model learns from is what a worker decided with, also one that was killed and came back."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import orjson
import pytest
from aiokafka import AIOKafkaProducer

from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from tests import features_history
from tests.features_history import LANES, History
from tests.kafka.car_loan import Example, wait_for_results, worker

EVENTS, CARDS = 20_000, 200


def produce(made: Example, events: History, begin: float, end: float) -> None:
    """Send a part of the history to its lanes, as if it had been written when it was. The part is told in shares."""

    async def send() -> None:
        producer = AIOKafkaProducer(**made.connection.client_kwargs(), enable_idempotence=True, linger_ms=5)
        await producer.start()
        try:
            for lane, rows in enumerate(events.lanes()):
                for row in rows[int(begin * len(rows)) : int(end * len(rows))]:
                    key, value, written = events.keys[row], events.values[row], int(events.written[row])
                    await producer.send(made.topic("events"), value, key, partition=lane, timestamp_ms=written)
        finally:
            await producer.stop()

    asyncio.run(send())


@pytest.mark.timeout(300)
def test_a_worker_that_is_killed_decides_with_the_features_of_the_file(connection: Connection, tmp_path: Path) -> None:
    name = f"features-{uuid4().hex[:8]}"
    made = Example(name, features_history.pipeline(tmp_path, name), connection)
    asyncio.run(admin.create(connection, [admin.TopicSpec(made.topic("events"), LANES)]))
    events = features_history.history(EVENTS, CARDS, datetime.now(UTC) - timedelta(hours=6))
    produce(made, events, 0.0, 0.6)
    with worker(made) as process:
        wait_for_results(made, EVENTS // 20)
        process.kill()
    produce(made, events, 0.6, 1.0)  # so that much is left to do, however quick it was
    with worker(made):
        wait_for_results(made, EVENTS)
    decisions = [orjson.loads(record.value) for record in made.read("decisions")]
    assert len(decisions) + len(made.read("dead-letter")) == EVENTS
    features_history.check(events, features_history.offline(made.file, events, tmp_path), decisions)
