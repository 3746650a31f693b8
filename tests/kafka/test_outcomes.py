"""Measures of a real run, with workers killed on the way, are those of a plain recount of its topics."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner

from streamproc.cli import cli
from streamproc.core.outcomes.measures import Window
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.measuring import measured
from streamproc.operations import open_for_operations
from tests.kafka.processes import Workers
from tests.kafka.records import read_all
from tests.outcomes_recount import Recount
from tests.record_schemas import record_problems

PARTITIONS = 4
SECONDS = 240.0
SCHEMA = {
    "type": "object",
    "required": ["id", "amount"],
    "properties": {
        "id": {"type": "string"},
        "amount": {"type": "number"},
        "region": {"type": ["string", "null"]},
        "risk": {"type": "number"},
    },
}
FILE = """
pipeline: NAME
events: {topic: NAME.events, schema: event.schema.json, key: id}
features: {large: amount > 900}
rules:
  - {id: odd, when: risk > 0.97, decide: review}
  - {id: risky, when: risk > 0.8, decide: decline}
  - {id: rest, decide: approve}
review: {ttl: 4s, on_expiry: escalate, audit: 1%}
actions: {approve: NAME.approved, decline: null, escalate: null}
outcomes:
  values: [paid, lost]
  errors: {approve: [lost], decline: [paid]}
  costs:
    approve: {paid: -0.02 * amount, lost: "COALESCE(outcome_amount, amount)"}
    decline: {paid: 0.02 * amount, lost: 0}
  unlabelled: [decline]
  segments: [region, large]
  window: 10s
  baseline: {name: all approved, decision: approve}
"""


class Made:
    def __init__(self, connection: Connection, folder: Path) -> None:
        self.name = f"pay-{uuid4().hex[:8]}"
        self.connection, self.file = connection, folder / "pipeline.yaml"
        self.file.write_text(FILE.replace("NAME", self.name))
        (folder / "event.schema.json").write_bytes(orjson.dumps(SCHEMA))
        asyncio.run(admin.create(connection, [admin.TopicSpec(f"{self.name}.events", PARTITIONS)]))

    def topic(self, role: str) -> str:
        return f"{self.name}.{role}"

    def read(self, role: str) -> list[Any]:
        return asyncio.run(read_all(self.connection, self.topic(role)))

    def send(self, role: str, rows: Sequence[tuple[bytes, bytes]]) -> None:
        async def send() -> None:
            producer = AIOKafkaProducer(**self.connection.client_kwargs(), enable_idempotence=True, linger_ms=20)
            await producer.start()
            try:
                for key, value in rows:
                    await producer.send(self.topic(role), value, key=key)
            finally:
                await producer.stop()

        asyncio.run(send())

    def windows(self) -> dict[int, Window]:
        loaded, _ = open_for_operations(self.file)
        found = asyncio.run(measured(self.connection, loaded.plan, datetime.now(UTC)))
        return {window.start: window for window in found.windows}

    def wait(self, name: str, count: int) -> None:
        deadline, found = time.monotonic() + SECONDS, -1
        while time.monotonic() < deadline:
            if self.topic("metrics") in asyncio.run(admin.describe(self.connection, [self.topic("metrics")])):
                found = sum(
                    many
                    for window in self.windows().values()
                    for counts in (*window.groups.values(), window.own)
                    for told, many in counts.items()
                    if told.startswith(name)
                )
                if found >= count:
                    return
            time.sleep(0.5)
        log = (self.file.parent / "workers.log").read_text()[-3000:]
        raise AssertionError(f"{found} {name} after {SECONDS:.0f} s, not {count}: {log}")


def cost(decision: str, value: str, features: Mapping[str, Any], amount: float | None) -> float | None:
    match decision, value:
        case "approve", "paid":
            return -0.02 * features["amount"]
        case "approve", "lost":
            return features["amount"] if amount is None else amount
        case "decline", "paid":
            return 0.02 * features["amount"]
        case "decline", "lost":
            return 0.0
    return None


def events(count: int, seed: int) -> list[tuple[bytes, bytes]]:
    draw = random.Random(seed)
    rows = [
        {"id": f"p{n}", "amount": round(draw.uniform(1, 1000), 2), "region": draw.choice("NESW"), "risk": draw.random()}
        for n in range(count)
    ]
    return [(row["id"].encode(), orjson.dumps(row)) for row in rows]


def run_with_kills(connection: Connection, folder: Path, count: int, kills: int, workers: int) -> Made:
    """Events and outcomes through workers that are killed; everything is counted at the end."""
    made, draw = Made(connection, folder), random.Random(count)
    arguments = ["-m", "streamproc", "run", str(made.file), "--kafka", connection.address]
    with Workers(arguments, workers, folder / "workers.log") as processes:
        for part in range(kills + 1):
            share = range(part * count // (kills + 1), (part + 1) * count // (kills + 1))
            made.send("events", events(count, count)[share.start : share.stop])
            if part < kills:
                time.sleep(draw.uniform(0.5, 2.0))
                processes.kill(draw.randrange(workers))
        made.wait("decisions", count)
        outcomes = list[tuple[bytes, bytes]]()
        firsts = [one for record in made.read("decisions") if not (one := orjson.loads(record.value)).get("revision")]
        for number, one in enumerate(firsts):
            if draw.random() < 0.6:
                whose = {"key": one["key"]} if number % 500 == 0 else {"id": one["id"]}
                value = "lost" if draw.random() < 0.1 else "paid"
                amount = {"amount": 12.5} if draw.random() < 0.2 else {}
                said = {**whose, "value": value, "time": "2026-01-01T00:00:00Z", **amount}
                outcomes.append((b"%d" % number, orjson.dumps(said)))
        made.send("outcomes", outcomes)
        if kills > 1:
            processes.kill(draw.randrange(workers))
        made.wait("came/", len(outcomes))
        reviewed = sum(one["decision"] == "review" for one in firsts)
        made.wait("revised/expired", reviewed)
        steps = [orjson.loads(record.value)["step"] for record in made.read("review-events")]
        made.wait("review/", 2 * steps.count("opened"))  # until samples have expired too
        assert set(processes.stop()) <= {0, -signal.SIGTERM}  # one that is starting has no handler yet
    return made


def check(made: Made, count: int) -> None:
    """Every count is that of a plain recount of the topics."""
    rows = {
        role: [(record.value, record.timestamp) for record in made.read(role)]
        for role in ("decisions", "review-events", "outcomes-by-lane")
    }
    recount = Recount(("paid", "lost"), seconds=10, segments=("region", "large"), costs=cost, baseline="approve")
    expected = recount.take(rows["decisions"], rows["review-events"], rows["outcomes-by-lane"])
    found = made.windows()
    assert sum(counts["decisions"] for window in found.values() for counts in window.groups.values()) == count
    assert set(found) == set(expected)
    for start, window in expected.items():
        assert found[start].groups == window.groups
        assert found[start].own == window.own
        assert found[start].marks == window.marks
    for record in made.read("metrics"):
        assert record_problems(record.value, record.headers) == []


def test_measures_are_those_of_a_recount_after_a_kill(connection: Connection, tmp_path: Path) -> None:
    made = run_with_kills(connection, tmp_path, 6_000, kills=1, workers=2)
    check(made, 6_000)
    result = CliRunner().invoke(cli, ["stats", str(made.file), "--kafka", connection.address])
    assert result.exit_code == 0, result.output
    assert "6,000 decisions" in result.output and "all approved" in result.output
    told = CliRunner().invoke(cli, ["stats", str(made.file), "--json", "--since", "1d", "--kafka", connection.address])
    stats = orjson.loads(told.stdout)
    assert stats["decisions"] == 6_000
    out = tmp_path / "joined.ndjson"
    options = ["--out", str(out), "--json", "--kafka", connection.address]
    told = CliRunner().invoke(cli, ["outcomes", "join", str(made.file), *options])
    assert told.exit_code == 0, told.output
    cohorts = orjson.loads(told.stdout)
    assert sum(cohort["decisions"] for cohort in cohorts) == 6_000
    assert sum(cohort["outcomes"] for cohort in cohorts) == stats["outcomes"]
    assert sum(cohort["costs"]["realised"]["of"] for cohort in cohorts) == stats["costs"]["realised"]["of"]
    lines = [orjson.loads(line) for line in out.read_bytes().splitlines()]
    firsts = [line for line in lines if "revision" not in line["decision"]]
    assert len(firsts) == stats["outcomes"]
    assert all(line["outcome"].get("id") in (None, line["decision"]["id"]) for line in lines)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_measures_of_200_000_events_with_kills(connection: Connection, tmp_path: Path) -> None:
    check(run_with_kills(connection, tmp_path, 200_000, kills=6, workers=3), 200_000)
