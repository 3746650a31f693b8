"""The demonstration: real events through a real Kafka, and a recount of what came out."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from streamproc.core.partitioner import partitions
from streamproc.core.plan import Plan
from streamproc.core.processor import Records
from streamproc.core.records import text_headers
from streamproc.errors import EnvironmentFault
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.fetching import fetch_without_pause, take
from streamproc.kafka.group import GroupOffsets
from streamproc.sample import car_loans, example

PARTITIONS = 4
READY_SECONDS = 60.0
MOST_RECORDS = 20_000
TOLD = re.compile(
    rb'\{"id":"[^"\\]*","source":\{"topic":"[^"\\]*","partition":(\d+),"offset":(\d+),"timestamp":(\d+)\},'
    rb'"key":(?:"[^"\\]*"|null|-?\d+),"time":"[^"\\]*","decision":"([^"\\]*)",'
)
CHANGED, CAPPED = b'"without_drift":"', b'"drift_capped":"'
QUIET_SECONDS = 60.0
POLL_MS = 100
PACE_SECONDS = 0.02
BURST = 4000
SEED = 7


@dataclass(frozen=True, slots=True)
class Events:
    """What is produced: keys and values, and how many of them were damaged on purpose."""

    keys: list[bytes]
    values: list[bytes | None]
    damaged: int


@dataclass(slots=True)
class Tally:
    """What was read back from the output topics, read_committed."""

    expected: int
    decided: Counter[tuple[int, int]] = field(default_factory=Counter)
    """How often each source coordinate (partition, offset) was decided or dead-lettered."""
    decisions: Counter[str] = field(default_factory=Counter)
    actions: int = 0
    reviews: int = 0
    dead_letters: int = 0
    by_drift: dict[str, list[bytes]] = field(default_factory=dict)
    """Keys of the events whose decision drift changed, by what would have been decided without it."""
    capped: int = 0
    """Events whose decision drift would have changed if it had not changed enough already."""
    latencies: list[float] = field(default_factory=list)
    """Seconds from an event's record timestamp until its decision was read."""
    started: float = 0.0
    finished: float = 0.0

    @property
    def decided_all(self) -> bool:
        """Whether each event has been seen as a decision or a dead letter."""
        return len(self.decided) >= self.expected

    @property
    def followed_all(self) -> bool:
        """Whether each decision's action or review item has been seen."""
        return self.actions + self.reviews >= sum(self.decisions.values())

    def summary(self, broker: str) -> dict[str, Any]:
        """The figures of the run, as ``streamproc demo --json`` prints them."""
        seconds = max(self.finished - self.started, 1e-9)
        p50, p99 = (
            [round(float(one) * 1000, 1) for one in np.percentile(self.latencies, [50, 99])]
            if self.latencies
            else [None] * 2
        )
        return {
            "events": self.expected,
            "decisions": dict(sorted(self.decisions.items())),
            "actions": self.actions,
            "reviews": self.reviews,
            "dead_letters": self.dead_letters,
            "drift": self._drift(),
            "missing": self.expected - len(self.decided),
            "duplicates": sum(self.decided.values()) - len(self.decided),
            "seconds": round(seconds, 3),
            "events_per_second": round(len(self.decided) / seconds),
            "latency_ms": {"p50": p50, "p99": p99},
            "broker": broker,
        }

    def _drift(self) -> dict[str, Any]:
        """How many decisions drift changed, and how many of those would have been errors, as their labels say."""
        repaid = _repaid() if self.by_drift else {}
        should = {"approve": True, "decline": False}  # of loans that are repaid
        without = dict(sorted(self.by_drift.items()))
        wrong = {
            decision: sum(repaid[key] != should[decision] for key in keys)
            for decision, keys in without.items()
            if decision in should
        }
        changed = {decision: len(keys) for decision, keys in without.items()}
        return {"changed": sum(changed.values()), "capped": self.capped, "without": changed, "wrong": wrong}


def _repaid() -> dict[bytes, bool]:
    """Whether the loan of each key was repaid."""
    outcomes = pl.read_csv(car_loans().outcomes)
    pairs = zip(outcomes["id"].to_list(), outcomes["repaid"].to_list(), strict=True)
    return {b"%d" % key: repaid == 1 for key, repaid in pairs}


def real_events(count: int, bad_share: float) -> Events:
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
    return Events(keys, values, len(damaged))


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


def prepare(folder: Path, name: str | None) -> Path:
    """A copy of the example's pipeline to run; ``name`` renames it with its topics. Returns the pipeline file."""
    shutil.copytree(example("car_loan"), folder, dirs_exist_ok=True)
    path = folder / "pipeline.yaml"
    if name is not None:
        path.write_text(path.read_text(encoding="utf-8").replace("car-loan", name), encoding="utf-8")
    return path


def free_ports(count: int) -> int:
    """The first of ``count`` ports in a row that nobody listens on at the moment."""
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first: int = probe.getsockname()[1]
        if first + count < 65536 and all(map(_is_free, range(first, first + count))):
            return first
    raise EnvironmentFault("no free ports on 127.0.0.1", "stop something that listens there")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class Worker:
    """The worker process of the demonstration, with its log in a file."""

    def __init__(self, file: Path, connection: Connection, workers: int, web_port: int, log: Path) -> None:
        self.log = log
        command = [sys.executable, "-m", "streamproc", "run", str(file), "--kafka", connection.address]
        command += ["--workers", str(workers), "--web-port", str(web_port)]
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env=os.environ,
            )

    @property
    def pid(self) -> int:
        """The process id of the worker, or of the parent of several."""
        return self._process.pid

    def check(self) -> None:
        """Raise EnvironmentFault when it has ended."""
        if self._process.poll() is not None:
            tail = self.log.read_text(errors="replace").strip().splitlines()[-3:]
            raise EnvironmentFault(f"the worker ended with code {self._process.returncode}", " | ".join(tail))

    def stop(self) -> None:
        """Let it finish what is in flight; it is killed after a minute."""
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


async def make_events_topic(connection: Connection, plan: Plan) -> None:
    """The events topic, which is the producers' to make."""
    await admin.create(connection, [admin.TopicSpec(plan.events.topic, PARTITIONS, 1)])


async def remove_topics(connection: Connection, plan: Plan) -> None:
    """Leave a broker that is not ours as it was."""
    there = await admin.describe(connection)
    await admin.delete_topics(connection, [name for name in there if name.startswith(f"{plan.pipeline}.")])


async def until_ready(connection: Connection, plan: Plan, worker: Worker) -> None:
    """Wait until every lane has been claimed. Raises EnvironmentFault when the worker ends or takes too long."""
    group = GroupOffsets(connection, plan.pipeline)
    await group.start()
    wanted = [TopicPartition(plan.events.topic, number) for number in range(PARTITIONS)]
    deadline = time.monotonic() + READY_SECONDS
    try:
        while True:
            worker.check()
            committed = await group.fetch(wanted, stable=False)
            if all(entry.claim is not None for entry in committed.values()):
                return
            if time.monotonic() > deadline:
                raise EnvironmentFault(f"the worker was not ready after {READY_SECONDS:.0f} s", f"see {worker.log}")
            await asyncio.sleep(POLL_MS / 1000)
    finally:
        await group.stop()


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


def deciding(plan: Plan) -> list[str]:
    """The topics that say what became of each event."""
    return [plan.topics.decisions, plan.topics.dead_letters]


def following(plan: Plan) -> list[str]:
    """The topics of what follows from decisions."""
    return [name for name in plan.written if name not in deciding(plan)]


@asynccontextmanager
async def reader(connection: Connection, names: list[str]) -> AsyncIterator[Any]:
    """A read_committed consumer at the beginning of these topics."""
    infos = await admin.describe(connection, names)
    consumer = AIOKafkaConsumer(
        **connection.client_kwargs(),
        isolation_level="read_committed",
        enable_auto_commit=False,
        fetch_max_wait_ms=20,
        max_partition_fetch_bytes=2 << 20,
    )
    await consumer.start()
    fetch_without_pause(consumer)  # the pause would be our latency, and not the pipeline's
    try:
        parts = [TopicPartition(name, number) for name in names for number in range(infos[name].partitions)]
        consumer.assign(parts)
        await consumer.seek_to_beginning(*parts)
        yield consumer
    finally:
        await consumer.stop()


async def recount(consumer: Any, plan: Plan, tally: Tally, worker: Worker) -> None:
    """Read what came out until everything is accounted for. Gives up after a long silence, with what there is.

    What follows from decisions is counted after them: it is in the same transactions.
    """
    last, first = time.monotonic(), not tally.decided
    while not (tally.decided_all if first else tally.followed_all):
        batches = await take(consumer, consumer.assignment(), seconds=POLL_MS / 1000, most=MOST_RECORDS)
        now = time.time()
        for records in batches.values():
            _add(tally, plan, records, now)
        if batches:
            last = time.monotonic()
            tally.finished = time.perf_counter() if first else tally.finished
        else:
            worker.check()
            if time.monotonic() - last > QUIET_SECONDS:
                return


def _told(decision: bytes) -> tuple[int, int, int, str]:
    """Partition, offset and timestamp of the event, and what was decided.

    A decision begins with these. Reading all of it would take the demo as long as deciding takes the worker.
    """
    match = TOLD.match(decision)
    if match is not None:
        return int(match[1]), int(match[2]), int(match[3]), match[4].decode()
    whole = orjson.loads(decision)
    source = whole["source"]
    return source["partition"], source["offset"], source["timestamp"], whole["decision"]


def _add(tally: Tally, plan: Plan, records: Records, now: float) -> None:
    if records.topic == plan.topics.decisions:
        for key, value in zip(records.keys, records.values, strict=True):
            partition, offset, timestamp, decision = _told(value or b"")
            if value is not None and CHANGED in value:
                tally.by_drift.setdefault(orjson.loads(value)["without_drift"], []).append(key or b"")
            tally.capped += value is not None and CAPPED in value
            tally.decided[partition, offset] += 1
            tally.decisions[decision] += 1
            tally.latencies.append(now - timestamp / 1000)
    elif records.topic == plan.topics.dead_letters:
        for pairs in records.headers:
            headers = text_headers(pairs)
            tally.decided[int(headers["sp-partition"]), int(headers["sp-offset"])] += 1
            tally.dead_letters += 1
    elif records.topic == plan.topics.review:
        tally.reviews += len(records)
    else:
        tally.actions += len(records)
