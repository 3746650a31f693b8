"""What a stream itself is like: events of its topic as the reference of a baseline."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np

from streamproc.baselines import Judging, baseline_of, source_of
from streamproc.core.control import NewNormal, Place
from streamproc.core.drift.baseline import PANE, Baseline, hashed
from streamproc.core.drift.panes import Counted
from streamproc.core.processor import Batch, Records
from streamproc.errors import UserError
from streamproc.kafka.connection import Connection
from streamproc.kafka.reader import TopicReader, reading
from streamproc.pipeline import Pipeline
from streamproc.recorded_answers import Recorded, in_decisions
from streamproc.rows import CHUNK_ROWS, Told

FEWEST = 12 * PANE
"""Fewer events are no reference."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Events of a topic, by partition from ``start`` up to ``end``, in the order of their timestamps."""

    topic: str
    start: Mapping[int, int]
    end: Mapping[int, int]
    records: Sequence[Any]


async def newest(
    connection: Connection, topic: str, events: int, *, since: datetime | None = None, told: Told | None = None
) -> Stretch:
    """The newest events of a topic, or the first ones after a time: at most so many of all partitions together.

    Of each partition as large a part as it has of the topic. Marks of transactions take offsets too, so where a stretch
    has too few events, a longer one is read.
    """
    async with reading(connection, topic) as reader:
        kept = {partition: await _kept(reader, partition, since) for partition in range(reader.partitions)}
        there, wanted = sum(end - start for start, end in kept.values()), events
        while True:
            stretch = await _read(reader, kept, wanted, since is None, told)
            if len(stretch.records) >= events or wanted >= there:
                break
            wanted = min(there, 2 * wanted)
    if len(stretch.records) <= events:
        return stretch
    records = stretch.records[-events:] if since is None else stretch.records[:events]
    return Stretch(topic, stretch.start, stretch.end, records)


async def _read(
    reader: TopicReader, kept: Mapping[int, tuple[int, int]], offsets: int, at_the_end: bool, told: Told | None
) -> Stretch:
    """So many offsets of the end, or of the beginning, of what is kept."""
    taken = _shares({partition: end - start for partition, (start, end) in kept.items()}, offsets)
    start = {at: end - taken[at] if at_the_end else first for at, (first, end) in kept.items()}
    end = {at: first + taken[at] for at, first in start.items()}
    records, whole = list[Any](), sum(taken.values())
    for partition in (one for one, count in taken.items() if count):
        async for some in reader.between(partition, start[partition], end[partition]):
            records += some
            if told is not None:
                told(len(records), (len(records), whole))
    records.sort(key=lambda record: (record.timestamp, record.partition, record.offset))
    return Stretch(reader.topic, start, end, records)


def _shares(there: Mapping[int, int], wanted: int) -> dict[int, int]:
    """So many of all together, of each as large a part as it has of the whole."""
    total = sum(there.values())
    if total <= wanted:
        return dict(there)
    taken = {partition: count * wanted // total for partition, count in there.items()}
    over = sorted(there, key=lambda partition: -(there[partition] * wanted % total))[: wanted - sum(taken.values())]
    return {partition: count + (partition in over) for partition, count in taken.items()}


async def kept_offsets(connection: Connection, topic: str) -> int:
    """How many offsets the topic keeps: at least as many as it has events."""
    async with reading(connection, topic) as reader:
        kept = [await reader.kept(partition) for partition in range(reader.partitions)]
    return sum(end - start for start, end in kept)


async def _kept(reader: TopicReader, partition: int, since: datetime | None) -> tuple[int, int]:
    start, end = await reader.kept(partition)
    return start if since is None else max(start, await reader.first_since(partition, since)), end


async def learn_from(connection: Connection, pipeline: Pipeline, stretch: Stretch) -> Baseline:
    """The baseline of a stretch, with what the pipeline's decisions tell of answers of language models.

    Raises UserError where its events are too few, or cannot be used.
    """
    recorded = await in_decisions(connection, pipeline.plan, stretch.topic, stretch.records)
    return await asyncio.to_thread(learn_stretch, pipeline, stretch, recorded)


def learn_stretch(pipeline: Pipeline, stretch: Stretch, recorded: Recorded | None = None) -> Baseline:
    """The same, where it is known what was ``recorded``."""
    if len(stretch.records) < FEWEST:
        raise UserError(
            f"{stretch.topic} has {len(stretch.records):,} such events, and {FEWEST:,} are the fewest to learn from",
            "wait for more, or begin earlier",
        )
    judging = Judging(pipeline, recorded)
    parts = [
        _judged(judging, pipeline, stretch.records[begin : begin + CHUNK_ROWS])
        for begin in range(0, len(stretch.records), CHUNK_ROWS)
    ]
    source = source_of(pipeline) | {
        "reference": stretch.topic,
        "start": _named(stretch.start),
        "end": _named(stretch.end),
    }
    return baseline_of(pipeline, parts, f"topic {stretch.topic}", source, recorded=recorded)


def new_normal(pipeline: Pipeline, baseline: Baseline, by: str, why: str, stretch: Stretch | None = None) -> NewNormal:
    """The control record that makes a baseline the normal one; a stretch is what it was learned from."""
    plan, now = pipeline.plan, datetime.now(UTC)
    unique = hashed(replace(baseline, source={**baseline.source, "said": now.isoformat()}))
    return NewNormal(
        pipeline=plan.pipeline,
        time=now,
        by=by,
        why=why,
        plan=plan.hash,
        model=plan.model_version,
        topic=None if stretch is None else stretch.topic,
        start=_places({} if stretch is None else stretch.start),
        end=_places({} if stretch is None else stretch.end),
        baseline=msgspec.Raw(unique.dumps()),
    )


async def learned(
    connection: Connection, pipeline: Pipeline, topic: str, events: int, told: Told | None = None
) -> tuple[Stretch, Baseline]:
    """The baseline of the newest events of a topic."""
    stretch = await newest(connection, topic, events, told=told)
    return stretch, await learn_from(connection, pipeline, stretch)


def _judged(judging: Judging, pipeline: Pipeline, records: Sequence[Any]) -> Counted:
    topic, by_partition = pipeline.plan.events.topic, defaultdict[int, list[Any]](list)
    for record in records:
        by_partition[record.partition].append(record)
    return judging.counted([_batch(topic, partition, own) for partition, own in sorted(by_partition.items())])


def _batch(topic: str, partition: int, records: Sequence[Any]) -> Batch:
    offsets = np.array([record.offset for record in records], np.int64)
    timestamps = np.array([record.timestamp for record in records], np.int64)
    keys, values = [record.key for record in records], [record.value for record in records]
    headers = [record.headers for record in records]
    return Batch(partition, {topic: Records(topic, partition, keys, values, headers, offsets, timestamps)})


def _named(offsets: Mapping[int, int]) -> dict[str, int]:
    return {str(partition): offset for partition, offset in sorted(offsets.items())}


def _places(offsets: Mapping[int, int]) -> tuple[Place, ...]:
    return tuple(Place(partition, offset) for partition, offset in sorted(offsets.items()))
