"""Windows: aggregates of the earlier events with the same key, from the lane's state."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import polars as pl

from streamproc.core.decide.frame import Context, Frame, Stage
from streamproc.core.plan import Plan
from streamproc.core.processor import Answer, Ask
from streamproc.core.windows.policy import WindowFeature


def windows_stage(plan: Plan, features: Sequence[WindowFeature]) -> Stage:
    """Adds the columns of the features."""
    columns = {name: dtype for feature in features for name, dtype in feature.columns.items()}

    def run(frame: Frame, context: Context) -> Generator[list[Ask], list[Answer], None]:
        frame.add(*(pl.Series(name, [None] * len(frame), dtype=dtype) for name, dtype in columns.items()))
        return
        yield []

    reads = frozenset().union(*(feature.reads for feature in features))
    return Stage("windows", reads, tuple(columns), run)
