"""Windows of a real run, with workers killed on the way, are those of a plain loop over the topic."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import orjson
import pytest
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner

from streamproc.cli import cli
from streamproc.core.windows.policy import WindowFeature
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.plan.load import load_plan
from tests.fast.window_loop import PlainWindows, Row
from tests.kafka.processes import Workers
from tests.kafka.records import read_all, read_until

PARTITIONS = 4
EVENTS = 12_000
SECONDS = 180.0
START = 1_767_225_600_000_000
SCHEMA = {
    "type": "object",
    "required": ["id", "card", "at", "amount"],
    "properties": {
        "id": {"type": "string"},
        "card": {"type": ["string", "null"]},
        "at": {"type": "string"},
        "amount": {"type": "number"},
        "shop": {"type": "string"},
    },
}
FILE = """
pipeline: NAME
events: {topic: NAME.events, schema: event.schema.json, key: id, time: at, repartition_by: card}
windows: {lateness: 10m, ttl: 2d}
features:
  paid: {window: 1h, by: card, agg: sum, of: amount}
  times: {window: 6h, by: card, agg: count, where: amount > 20}
  shops: {window: 24h, by: card, agg: distinct, of: shop}
  unusual: {by: card, agg: zscore, of: amount}
  pause: {window: 24h, by: card, agg: time_since_last}
rules:
  - {id: burst, when: paid > 200, decide: decline}
  - {id: rest, decide: approve}
actions: {approve: NAME.approved, decline: null}
"""


def made_events(seed: int) -> list[dict[str, Any]]:
    """Payments of some cards, out of order, some late."""
    numbers = np.random.default_rng(seed)
    times = START + np.cumsum(numbers.exponential(20.0, EVENTS) * 1e6).astype(np.int64)
    times -= (np.where(numbers.random(EVENTS) < 0.05, numbers.integers(0, 1_500, EVENTS), 0) * 1e6).astype(np.int64)
    return [
        {
            "id": f"e{number}",
            "card": None if number % 97 == 0 else f"card-{numbers.integers(150)}",
            "at": datetime.fromtimestamp(at / 1e6, UTC).isoformat(timespec="microseconds"),
            "amount": round(float(numbers.lognormal(3, 1)), 2),
            "shop": f"shop-{numbers.integers(30)}",
        }
        for number, at in enumerate(times.tolist())
    ]


def reads_of(feature: WindowFeature) -> Any:
    def reads(row: Row) -> tuple[Any, bool]:
        value = {"shops": row["shop"], "pause": 1, "times": 1}.get(feature.name, row["amount"])
        return value, feature.name != "times" or row["amount"] > 20

    return reads


def rows_of(record: Any) -> Row:
    event = orjson.loads(record.value)
    at = datetime.fromisoformat(event["at"])
    micros = (at - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)
    return {"key": event["card"], "time": micros, "amount": event["amount"], "shop": event["shop"]}


@pytest.mark.timeout(400)
def test_windows_after_kills_are_those_of_a_plain_loop(connection: Connection, tmp_path: Path) -> None:
    name = f"cards-{uuid4().hex[:8]}"
    file = tmp_path / "pipeline.yaml"
    file.write_text(FILE.replace("NAME", name), encoding="utf-8")
    (tmp_path / "event.schema.json").write_bytes(orjson.dumps(SCHEMA))
    asyncio.run(admin.create(connection, [admin.TopicSpec(f"{name}.events", PARTITIONS)]))
    events = made_events(11)
    asyncio.run(send(connection, f"{name}.events", events[: EVENTS // 2]))
    command = ["-m", "streamproc", "run", str(file), "--kafka", connection.address]
    made = CliRunner().invoke(cli, ["topics", str(file), "--kafka", connection.address, "--create"])
    assert made.exit_code == 0, made.output
    with Workers(command, 2, tmp_path / "workers.log") as workers:
        wait_for(connection, name, 2_000)
        workers.kill(0)
        asyncio.run(send(connection, f"{name}.events", events[EVENTS // 2 :]))
        wait_for(connection, name, EVENTS)
    decisions = {}
    for record in asyncio.run(read_all(connection, f"{name}.decisions")):
        one = orjson.loads(record.value)
        place = one["source"]["partition"], one["source"]["offset"]
        assert place not in decisions, "decided twice"
        decisions[place] = one
    plan = load_plan(file, lambda *_: pytest.fail("has a model")).plan
    features = [one for one in plan.features if isinstance(one, WindowFeature)]
    routed, late = asyncio.run(read_all(connection, f"{name}.repartitioned")), 0
    for partition in range(PARTITIONS):
        loop = PlainWindows(features, [reads_of(one) for one in features], lateness=600_000_000, ttl=172_800_000_000)
        for record in (one for one in routed if one.partition == partition):
            expected, is_late = loop.add(rows_of(record))
            one = decisions.pop((partition, record.offset))
            assert one.get("late", False) == is_late
            late += is_late
            for feature, value in zip(features, expected, strict=True):
                found = one["features"][feature.name]
                wanted = value[0] if feature.aggregate == "distinct" else value
                assert found == (pytest.approx(wanted, rel=1e-9, abs=1e-6) if isinstance(wanted, float) else wanted)
    assert not decisions
    assert late > 3


async def send(connection: Connection, topic: str, events: list[dict[str, Any]]) -> None:
    producer = AIOKafkaProducer(**connection.client_kwargs(), enable_idempotence=True, linger_ms=20)
    await producer.start()
    try:
        for event in events:
            await producer.send(topic, orjson.dumps(event), key=event["id"].encode())
    finally:
        await producer.stop()


def wait_for(connection: Connection, name: str, count: int) -> None:
    """Wait until so many events are decided."""
    found = asyncio.run(read_until(connection, f"{name}.decisions", lambda records: len(records) >= count, SECONDS))
    assert len(found) >= count, f"{len(found)} of {count} decisions"
