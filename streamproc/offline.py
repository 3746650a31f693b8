"""The same processors without Kafka: over a file, in a test, in a replay."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from datetime import datetime
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamproc.core.decide.events import NO_CLOCK
from streamproc.core.decide.frame import Context, Frame
from streamproc.core.processor import NOTHING_SEEN, Answer, Ask, Batch, Effects, Processor, Records, Seen, State, run
from streamproc.core.state import Tables

EPOCH = NO_CLOCK
"""The default ``now`` of an offline run: nothing is too old, or from the future."""


Stages: TypeAlias = Callable[
    [Sequence[Batch], Seen, datetime, Sequence[State]], Generator[list[Ask], list[Answer], tuple[Frame, Context]]
]


class Offline:
    """Runs one processor over batches in order, with the state of each lane in memory."""

    def __init__(
        self,
        processor: Processor,
        answer: Callable[[Ask], Answer],
        *,
        tables: Sequence[str] = (),
        seen: Seen = NOTHING_SEEN,
        now: datetime = EPOCH,
    ) -> None:
        self._processor, self._answer, self._seen, self._now = processor, answer, seen, now
        self._names = tuple(tables)
        self._lanes: dict[int, Tables] = {}

    def state(self, partition: int) -> Tables:
        """The tables of one lane, as they are after everything so far."""
        return self._lanes.setdefault(partition, Tables(self._names))

    def process(self, batch: Batch) -> Effects:
        """The effects of one batch; its changes of state are applied."""
        state = self.state(batch.partition)
        effects = run(self._processor.process(batch, state, self._seen, self._now), self._answer)
        state.apply(effects.state)
        return effects

    def frame(self, stages: Stages, batches: Sequence[Batch]) -> Frame:
        """What ``judge`` or ``prepare`` of the processor makes of batches, one for each lane; what they change of its
        state is applied."""
        states = [self.state(batch.partition) for batch in batches]
        frame, _ = run(stages(batches, self._seen, self._now, states), self._answer)
        for place, changes in frame.changes.items():
            states[place].apply(changes)
        return frame


def batch_of(
    topic: str,
    values: Sequence[bytes | None],
    *,
    partition: int = 0,
    first_offset: int = 0,
    keys: Sequence[bytes | None] | None = None,
    timestamp: int | NDArray[np.int64] = 0,
) -> Batch:
    """A batch of values with consecutive offsets, all with one timestamp (milliseconds), or each with its own."""
    count = len(values)
    records = Records(
        topic=topic,
        partition=partition,
        keys=[None] * count if keys is None else list(keys),
        values=list(values),
        headers=[()] * count,
        offsets=np.arange(first_offset, first_offset + count, dtype=np.int64),
        timestamps=np.full(count, timestamp, np.int64),
    )
    return Batch(partition, {topic: records})
