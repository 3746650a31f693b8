"""The clock of a lane, which says when ids are forgotten: the greatest time so far, but no event moves it far."""

from __future__ import annotations

from typing import Final

import numpy as np

from streamproc.core.dedupe.chunk import Numbers

NEVER: Final = -(1 << 62)
"""The clock of a lane that has seen nothing."""
AHEAD: Final = 3_600_000
"""So many milliseconds an event may be ahead of the others without harm to them: an hour, which is what brokers allow
by default (Kafka 4). One event moves the clock by no more than that, and ids are remembered for so much longer."""


def advance(times: Numbers, clock: int) -> Numbers:
    """The clock at each of some events: ``times``, of shape (n,), in milliseconds, in the order of their offsets."""
    if not len(times):
        return times
    if clock == NEVER:
        clock = int(times[0])
    clocks: Numbers = np.maximum(np.maximum.accumulate(times), clock)
    if clocks[-1] - clock > AHEAD:
        far = np.flatnonzero(np.diff(clocks, prepend=clock) > AHEAD)
        if not len(far):
            return clocks
        begin = int(far[0])  # the lane was quiet for hours, or an event is ahead of its time
        clock = int(clocks[begin - 1]) if begin else clock
        for row, time in enumerate(times[begin:].tolist(), begin):
            clock = max(clock, min(time, clock + AHEAD))
            clocks[row] = clock
    return clocks
