"""What came out of the demonstration, counted from the topics by themselves."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from streamproc.core.plan import Plan
from streamproc.core.processor import Records
from streamproc.core.records import text_headers
from streamproc.demo.decided import REVISION, coordinates
from streamproc.demo.loans import repaid
from streamproc.demo.show import Story
from streamproc.demo.surroundings import POLL_MS, Worker
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.fetching import fetch_without_pause, take

MOST_RECORDS = 20_000
ASKED, HEAD = b'"kind":"review"', 120
CHANGED, CAPPED = b'"without_drift":"', b'"drift_capped":"'
QUIET_SECONDS = 60.0


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
    story: Story | None = None
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
            **({} if self.story is None else {"story": self.story.as_json()}),
        }

    def _drift(self) -> dict[str, Any]:
        """How many decisions drift changed, and how many of those would have been errors, as their labels say."""
        true = repaid() if self.by_drift else {}
        should = {"approve": True, "decline": False}  # of loans that are repaid
        without = dict(sorted(self.by_drift.items()))
        wrong = {
            decision: sum(true[key.decode()] != should[decision] for key in keys)
            for decision, keys in without.items()
            if decision in should
        }
        changed = {decision: len(keys) for decision, keys in without.items()}
        return {"changed": sum(changed.values()), "capped": self.capped, "without": changed, "wrong": wrong}


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
            add(tally, plan, records, now)
        if tally.story is not None:
            tally.story.progress(len(tally.decided) / tally.expected)
        if batches:
            last = time.monotonic()
            tally.finished = time.perf_counter() if first else tally.finished
        else:
            worker.check()
            if time.monotonic() - last > QUIET_SECONDS:
                return


def add(tally: Tally, plan: Plan, records: Records, now: float) -> None:
    if records.topic == plan.topics.decisions:
        for key, value, written in zip(records.keys, records.values, records.timestamps.tolist(), strict=True):
            if tally.story is not None and not tally.story.see(value or b"", key or b"", written):
                continue
            partition, offset, timestamp, decision = coordinates(value or b"")
            if value is not None and CHANGED in value:
                tally.by_drift.setdefault(orjson.loads(value)["without_drift"], []).append(key or b"")
            tally.capped += value is not None and CAPPED in value
            tally.decided[partition, offset] += 1
            tally.decisions[decision] += 1
            tally.latencies.append(now - timestamp / 1000)
    elif records.topic == plan.topics.dead_letters:
        for pairs in records.headers:
            headers = text_headers(pairs)
            if headers["sp-stage"] in ("intake", "review"):
                continue
            tally.decided[int(headers["sp-partition"]), int(headers["sp-offset"])] += 1
            tally.dead_letters += 1
    elif records.topic == plan.topics.cases:
        tally.reviews += sum(ASKED in (value or b"")[:HEAD] for value in records.values)
    elif records.topic == plan.topics.review:
        tally.reviews += len(records)
    else:
        tally.actions += sum(REVISION not in (value or b"") for value in records.values)
