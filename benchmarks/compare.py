"""Reads what a contestant wrote and compares it with what must come out, event by event."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiokafka import TopicPartition

from benchmarks.events import BODIES, Expected, Pool
from benchmarks.jobs.job import Topics
from benchmarks.topics import make_consumer
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection

SCORE_TOLERANCE = 1e-5
FEATURE_TOLERANCE = 1e-6
FEATURES_EVERY = 97
"""Features are compared for one event in so many: ten comparisons each would take longer than the run itself."""
QUIET_SECONDS = 3.0
PER_POLL = 20_000
EXAMPLES = 3


@dataclass(slots=True)
class Outputs:
    """What was read back, read_committed, of a run with events 0 to ``count - 1``.

    ``made`` counts, by the broker's append time in milliseconds since 1970, the records that say what became of an
    event: decisions and dead letters.
    """

    count: int
    seen: bytearray = field(default_factory=bytearray)
    made: Counter[int] = field(default_factory=Counter)
    duplicates: int = 0
    wrong: int = 0
    actions: int = 0
    expected_actions: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def distinct(self) -> int:
        return self.count - self.seen.count(0)

    @property
    def missing(self) -> int:
        return self.seen.count(0)

    def window(self, share: float) -> tuple[float, float, int]:
        """When this share of the records had been made and when the last (seconds since 1970), and how many between.

        The share 0 is the moment of the first. At least one record had been made by then, so those that were made
        before the window begins are never counted into it.
        """
        total, before = self.made.total(), 0
        moments = sorted(self.made)
        for moment in moments:
            before += self.made[moment]
            if before >= max(total * share, 1):
                return moment / 1000, moments[-1] / 1000, total - before
        raise ValueError("nothing was made")

    def complaint(self) -> str | None:
        """What is wrong with the outputs, in words; None where all is well."""
        said = []
        if self.missing:
            said.append(f"{self.missing} missing")
        if self.duplicates:
            said.append(f"{self.duplicates} twice")
        if self.wrong:
            said.append(f"{self.wrong} wrong ({'; '.join(self.examples)})")
        if self.actions != self.expected_actions:
            said.append(f"{self.actions} actions instead of {self.expected_actions}")
        return ", ".join(said) or None

    def note(self, timestamp: int, number: int) -> None:
        """Event ``number`` was accounted for by a record with this append time."""
        self.made[timestamp] += 1
        if not 0 <= number < self.count:
            self.blame(number, "an event that never was")
        elif self.seen[number]:
            self.duplicates += 1
        else:
            self.seen[number] = 1

    def blame(self, number: int, why: str) -> None:
        self.wrong += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"event {number}: {why}")


def read_back(connection: Connection, topics: Topics, pool: Pool, count: int, copied: bool, wait: float) -> Outputs:
    """Everything that came out for events 0 to ``count - 1``. ``copied``: the decisions topic has the events.

    Returns when all is there, or nothing came for some seconds, or after ``wait`` seconds.
    """
    outputs = Outputs(count, bytearray(count))
    asyncio.run(_read(connection, topics, pool, outputs, copied, wait))
    return outputs


async def _read(
    connection: Connection, topics: Topics, pool: Pool, outputs: Outputs, copied: bool, wait: float
) -> None:
    acts = pool.job.acts and not copied
    names = [topics.decisions, topics.dead_letters, *(topics.actions.values() if acts else ())]
    if acts:
        outputs.expected_actions = sum(pool.expected[number % BODIES] is not None for number in range(outputs.count))
    consumer = make_consumer(connection, isolation_level="read_committed", max_partition_fetch_bytes=4 << 20)
    await consumer.start()
    try:
        there = await admin.describe(connection, names)
        parts = [TopicPartition(name, number) for name, info in there.items() for number in range(info.partitions)]
        consumer.assign(parts)
        await consumer.seek_to_beginning(*parts)
        deadline = time.monotonic() + wait
        quiet = time.monotonic() + QUIET_SECONDS
        while time.monotonic() < min(deadline, quiet):
            batches = await consumer.getmany(timeout_ms=200, max_records=PER_POLL)
            for tp, records in batches.items():
                _add(tp.topic, records, topics, pool, outputs, copied)
            if batches:
                quiet = time.monotonic() + QUIET_SECONDS
            elif not outputs.missing and outputs.actions >= outputs.expected_actions:
                return
    finally:
        await consumer.stop()


def _add(topic: str, records: list[Any], topics: Topics, pool: Pool, outputs: Outputs, copied: bool) -> None:
    if topic == topics.decisions:
        for record in records:
            number = int(record.key)
            outputs.note(record.timestamp, number)
            if not copied:
                check(number, record.value, pool.expected[number % BODIES], outputs)
    elif topic == topics.dead_letters:
        for record in records:
            number = int(record.key)
            outputs.note(record.timestamp, number)
            if pool.expected[number % BODIES] is not None:
                outputs.blame(number, "a dead letter, though it is good")
    else:
        outputs.actions += len(records)
        (decision,) = (name for name, action in topics.actions.items() if action == topic)
        for record in records:
            number = int(record.key)
            expected = pool.expected[number % BODIES]
            if expected is None or expected.decision.decision != decision:
                outputs.blame(number, f"an action {decision}")


def check(number: int, value: bytes, expected: Expected | None, outputs: Outputs) -> None:
    """Compare one decision record, and blame the outputs for what differs."""
    if expected is None:
        return outputs.blame(number, "a decision, though it breaks the contract")
    got, want = orjson.loads(value), expected.decision
    if (got["decision"], got["rule"], got["rules"], got["reasons"]) != (
        want.decision,
        want.rule,
        want.rules,
        want.reasons,
    ):
        return outputs.blame(number, f"{got['decision']} by {got['rules']}, not {want.decision} by {want.rules}")
    if expected.score is None or expected.features is None:
        return None
    if abs(got["score"] - expected.score) > SCORE_TOLERANCE:
        return outputs.blame(number, f"score {got['score']}, not {expected.score}")
    if number % FEATURES_EVERY == 0:
        for name, feature in expected.features.items():
            if abs(got["features"][name] - feature) > FEATURE_TOLERANCE:
                return outputs.blame(number, f"{name} {got['features'][name]}, not {feature}")
    return None
