"""Where a worker's processor time goes, without a broker: ``python -m benchmarks.stages [--job small|full]``.

Runs each step on the events of a job, from twelve lanes, again and again, and prints medians of processor time. With
few events (``--events 36``) it shows what a batch costs whatever its size.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from aiokafka import TopicPartition
from aiokafka.record.memory_records import MemoryRecords

from benchmarks.events import make_pool
from benchmarks.jobs import JOBS, Job
from benchmarks.topics import PARTITIONS
from streamproc.core.decide.effects import make_effects
from streamproc.core.decide.frame import Context, Frame, LanesRecords
from streamproc.core.plan import Plan
from streamproc.core.processor import NOTHING_SEEN, Records, run
from streamproc.kafka.admin import TopicInfo
from streamproc.kafka.batches import record_batches
from streamproc.kafka.fetching import columns
from streamproc.kafka.lane import Entries
from streamproc.kafka.outgoing import Router
from streamproc.pipeline import open_pipeline

TIMES = 15
NOW = datetime(2026, 1, 1, tzinfo=UTC)

Result = TypeVar("Result")


class Clock:
    """Runs steps and keeps what they took: milliseconds of processor time, by name."""

    def __init__(self) -> None:
        self.took: dict[str, list[float]] = {}

    def __call__(self, name: str, step: Callable[[], Result]) -> Result:
        started = time.process_time()
        result = step()
        self.took.setdefault(name, []).append((time.process_time() - started) * 1000)
        return result


def measure(job: Job, events: int) -> dict[str, float]:
    """The median of each step in milliseconds."""
    pipeline, pool, clock = open_pipeline(job.folder / "pipeline.yaml"), make_pool(job), Clock()
    processor, plan = pipeline.processor, pipeline.plan
    router = router_of(plan)
    fetched = [fetched_as(range(number, events, PARTITIONS), pool) for number in range(PARTITIONS)]
    for _ in range(TIMES):
        lanes = clock("fetch: unpack and take by column", lambda: [taken(plan.events.topic, *one) for one in fetched])
        frame, context = Frame(LanesRecords.of(lanes)), Context(NOW, NOTHING_SEEN)
        for stage in processor.stages:
            steps = stage.run(frame, context)
            clock(f"stage: {stage.name}", lambda steps=steps: run(steps, pipeline.answers.now))  # type: ignore[misc]
        effects = clock("effects", lambda: make_effects(plan, processor.encoder, frame, context, processor.masker))  # noqa: B023
        placed: Any = clock("place", lambda: router.place(list(enumerate(effects))))  # noqa: B023
        clock("record batches", lambda: record_batches(placed, 0, {}))  # noqa: B023
    return {name: statistics.median(times) for name, times in clock.took.items()}


def router_of(plan: Plan) -> Router:
    """One that knows the plan's topics, without a broker."""
    router = Router(None, plan.topics.dead_letters)  # type: ignore[arg-type]
    router.note(TopicInfo(topic, "", PARTITIONS, 1, {}, True) for topic in plan.written)
    return router


def fetched_as(numbers: range, pool: Any) -> tuple[int, bytes]:
    """A partition, and its records as a broker would send them."""
    keys: list[bytes | None] = [b"%d" % number for number in numbers]
    entries = Entries(keys, [pool.value(number) for number in numbers], [()] * len(keys))
    batches = record_batches({("", 0): entries}, 1_700_000_000_000, {})["", 0]
    for batch in batches:
        batch.seal(1, 0, 0)
    return numbers.start, b"".join(bytes(batch.data) for batch in batches)


def taken(topic: str, partition: int, raw: bytes) -> Records:
    records, found = MemoryRecords(raw), list[Any]()
    while records.has_next():
        batch = records.next_batch()
        batch.validate_crc()
        found += list(batch)
    return columns(TopicPartition(topic, partition), found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", choices=sorted(JOBS), default="full")
    parser.add_argument("--events", type=int, default=9_600, help="in a batch (default: 9,600)")
    given = parser.parse_args()
    found = measure(JOBS[given.job], given.events)
    for name, milliseconds in found.items():
        print(f"{name:36}{milliseconds:9.2f} ms{milliseconds / given.events * 1000:9.2f} µs an event")
    whole = sum(found.values())
    print(f"{'all of it':36}{whole:9.2f} ms{whole / given.events * 1000:9.2f} µs an event")


if __name__ == "__main__":
    main()
