"""What came out of the demonstration, counted from the topics by themselves."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from streamproc.core.plan import Plan
from streamproc.core.processor import Headers, Records
from streamproc.core.records import text_headers
from streamproc.demo.decided import REVISION, coordinates
from streamproc.demo.events import Number
from streamproc.demo.loans import repaid
from streamproc.demo.quantiles import quantiles
from streamproc.demo.show import Story
from streamproc.demo.surroundings import POLL_MS, Child
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.fetching import fetch_without_pause, take

if TYPE_CHECKING:
    from streamproc.demo.ways import Both

MOST_RECORDS = 20_000
ASKED, HEAD = b'"kind":"review"', 120
CHANGED, CAPPED = b'"without_drift":"', b'"drift_capped":"'
QUIET_SECONDS = 60.0


@dataclass(slots=True)
class Tally:
    """What was read back from the output topics, read_committed."""

    expected: int
    number: Number
    """How an event is known again."""
    decided: Counter[int] = field(default_factory=Counter)
    """How often each event was decided or dead-lettered."""
    decisions: Counter[str] = field(default_factory=Counter)
    actions: int = 0
    reviews: int = 0
    dead_letters: int = 0
    by_drift: dict[str, list[bytes]] = field(default_factory=dict)
    """Keys of the events whose decision drift changed, by what would have been decided without it."""
    capped: int = 0
    """Events whose decision drift would have changed if it had not changed enough already."""
    latencies: list[float] = field(default_factory=list)
    """Seconds from an event's record timestamp until its decision was read; of those by Kafka."""
    story: Story | None = None
    both: Both | None = None
    """Where part of the events goes by HTTP."""
    started: float = 0.0
    finished: float = 0.0

    @property
    def settled(self) -> int:
        """How many events have been seen as a decision or a dead letter, or need none."""
        return len(self.decided) + (0 if self.both is None else self.both.elsewhere(self.decided))

    @property
    def decided_all(self) -> bool:
        """Whether each event is settled, and nothing is left that could settle one twice."""
        return self.settled >= self.expected and (self.both is None or self.both.has_seen_all(self.decided))

    @property
    def sent_all(self) -> bool:
        """Whether nobody tries to send any more: callers end by themselves."""
        return self.both is None or self.both.written is not None

    def followed_all(self, plan: Plan) -> bool:
        """Whether the action or the review item has been seen of each decision that has one."""
        without = sum(self.decisions[name] for name, topic in plan.actions.items() if topic is None)
        return self.actions + self.reviews >= self.decisions.total() - without

    def summary(self, broker: str) -> dict[str, Any]:
        """The figures of the run, as ``streamproc demo --json`` prints them."""
        seconds = max(self.finished - self.started, 1e-9)
        both = self.both
        ways = {} if both is None else {"ways": both.as_json(self.decided, self.expected, self.latencies)}
        return {
            "events": self.expected,
            "decisions": dict(sorted(self.decisions.items())),
            "actions": self.actions,
            "reviews": self.reviews,
            "dead_letters": self.dead_letters,
            "drift": self._drift(),
            "missing": self.expected - self.settled,
            "duplicates": sum(self.decided.values()) - len(self.decided),
            "seconds": round(seconds, 3),
            "events_per_second": round(len(self.decided) / seconds),
            "latency_ms": quantiles(self.latencies, 50, 99),
            "broker": broker,
            **ways,
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


async def recount(consumer: Any, plan: Plan, tally: Tally, children: Sequence[Child]) -> None:
    """Read what came out until everything is accounted for. Gives up after a long silence once all is sent, with
    what there is.

    What follows from decisions is counted after them: it is in the same transactions. Raises EnvironmentFault where
    nothing comes, and one of the children has ended.
    """
    last, first = time.monotonic(), not tally.decided
    while not (tally.decided_all if first else tally.followed_all(plan)):
        batches = await take(consumer, consumer.assignment(), seconds=POLL_MS / 1000, most=MOST_RECORDS)
        now, before = time.time(), len(tally.decided)
        for records in batches.values():
            add(tally, plan, records, now)
        if tally.story is not None:
            tally.story.due.progress(tally.settled / tally.expected)
        if batches:
            last = time.monotonic()
            tally.finished = time.perf_counter() if len(tally.decided) > before else tally.finished
        else:
            for child in children:
                child.check()
            if not tally.sent_all:  # callers give up later than this does
                last = time.monotonic()
            elif time.monotonic() - last > QUIET_SECONDS:
                return


def add(tally: Tally, plan: Plan, records: Records, now: float) -> None:
    if records.topic == plan.topics.decisions:
        columns = records.keys, records.values, records.headers, records.timestamps.tolist()
        for key, value, headers, written in zip(*columns, strict=True):
            _add_decision(tally, key or b"", value or b"", headers, written, now)
    elif records.topic == plan.topics.dead_letters:
        for pairs in records.headers:
            said = text_headers(pairs)
            if said["sp-stage"] in ("intake", "review"):
                continue
            number = tally.number(int(said["sp-partition"]), int(said["sp-offset"]), pairs)
            if tally.both is not None and tally.both.is_repeat(number, said["sp-reason"]):
                continue
            tally.decided[number] += 1
            tally.dead_letters += 1
    elif records.topic == plan.topics.cases:
        tally.reviews += sum(ASKED in (value or b"")[:HEAD] for value in records.values)
    elif records.topic == plan.topics.review:
        tally.reviews += len(records)
    else:
        tally.actions += sum(REVISION not in (value or b"") for value in records.values)


def _add_decision(tally: Tally, key: bytes, value: bytes, headers: Headers, written: int, now: float) -> None:
    if REVISION in value:
        if tally.story is not None:
            tally.story.revise(value, key)
        return
    partition, offset, timestamp, decision = coordinates(value)
    number = tally.number(partition, offset, headers)
    if tally.story is not None:
        tally.story.see(number, value, key, written)
    if CHANGED in value:
        tally.by_drift.setdefault(orjson.loads(value)["without_drift"], []).append(key)
    tally.capped += CAPPED in value
    tally.decided[number] += 1
    tally.decisions[decision] += 1
    if tally.both is not None:
        tally.both.settle(number)
    if tally.both is None or number not in tally.both.chosen:
        tally.latencies.append(now - timestamp / 1000)
