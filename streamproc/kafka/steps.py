"""Running a processor's generator, a step at a time, in a thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

import numpy as np
from aiokafka import TopicPartition

from streamproc import metrics
from streamproc.core.processor import Answer, Ask, Effects, Seen, Steps
from streamproc.kafka.lane import Fetched, Lane, Outgoing, to_batch


@dataclass(frozen=True, slots=True)
class Step:
    """How far a processor got in one go: to some asks, or to its effects and, where their topics are known, to what
    goes out. Each go is one trip to the thread, because a trip costs more than most of what is done there."""

    asks: list[Ask] | None = None
    effects: Effects = field(default_factory=Effects)
    outgoing: Outgoing | None = None


Place: TypeAlias = Callable[[Effects], Outgoing | None]


def begin(
    lane: Lane,
    fetched: Fetched | None,
    view: Any,
    reached: Mapping[TopicPartition, int],
    seen: Seen,
    now: datetime,
    place: Place,
) -> tuple[dict[TopicPartition, int], Any, Steps | None, Step]:
    processor = lane.agent.processor
    if fetched is None:
        steps = processor.tick(view, seen, now)
        return dict(reached), None, steps, advance(steps, None, place)
    batch, positions = to_batch(lane.partition, fetched.records, reached)
    if not len(batch):
        return positions, None, None, Step(outgoing={})
    metrics.BATCH_EVENTS.labels(lane.agent.name).observe(len(batch))
    timestamps = np.concatenate([records.timestamps for records in batch.topics.values()])
    steps = processor.process(batch, view, seen, now)
    return positions, timestamps, steps, advance(steps, None, place)


def advance(steps: Steps, answers: list[Answer] | None, place: Place) -> Step:
    try:
        return Step(asks=next(steps) if answers is None else steps.send(answers))
    except StopIteration as stop:
        return Step(effects=stop.value, outgoing=place(stop.value))
