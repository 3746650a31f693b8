"""Running a work's processor, a step at a time, in a thread."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

import numpy as np

from streamproc import metrics
from streamproc.core.processor import Answer, Ask, Batch, Effects, Seen, process_lanes, together
from streamproc.kafka.lane import Outgoing, Share, Work, to_batch

Place: TypeAlias = Callable[[Sequence[tuple[int, Effects]]], Outgoing | None]
WorkSteps: TypeAlias = Generator[list[Ask], list[Answer], None]


@dataclass(frozen=True, slots=True)
class Step:
    """How far a work got in one go: to some asks, or to its effects and, where their topics are known, to what goes
    out. Each go is one trip to the thread, because a trip costs more than most of what is done there."""

    asks: list[Ask] | None = None
    outgoing: Outgoing | None = None


def begin(work: Work, seen: Seen, now: datetime, place: Place) -> tuple[WorkSteps, Step]:
    """Start on a work whose shares have their records. Its steps go on with ``advance``."""
    ticks, batches, shares = [], list[Batch](), list[Share]()
    for share in work.shares:
        if share.records is None:
            ticks.append(share)
            continue
        batch, share.positions = to_batch(share.lane.partition, share.records, share.reached)
        share.records = None  # the batch has what is needed of them
        if len(batch):
            batches.append(batch)
            shares.append(share)
    if batches:
        metrics.BATCH_EVENTS.labels(work.agent.name).observe(sum(map(len, batches)))
        work.timestamps = np.concatenate([part.timestamps for batch in batches for part in batch.topics.values()])
    steps = _steps(work, ticks, shares, batches, seen, now)
    return steps, advance(work, steps, None, place)


def advance(work: Work, steps: WorkSteps, answers: list[Answer] | None, place: Place) -> Step:
    """Go on to the next asks or to the end."""
    try:
        return Step(asks=next(steps) if answers is None else steps.send(answers))
    except StopIteration:
        return Step(outgoing=place(work.effects()))


def _steps(
    work: Work, ticks: list[Share], shares: list[Share], batches: list[Batch], seen: Seen, now: datetime
) -> WorkSteps:
    processor = work.agent.processor
    ticked = yield from together([processor.tick(share.view, seen, now) for share in ticks])
    processed: list[Effects] = []
    if batches:
        processed = yield from process_lanes(processor, batches, [share.view for share in shares], seen, now)
    for share, effects in zip([*ticks, *shares], [*ticked, *processed], strict=True):
        share.effects = effects
