"""Look-ups: one ask per source and batch, and what came back as columns."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from streamproc.core.decide.frame import Context, Frame, Stage
from streamproc.core.plan import LookupFeature, Plan
from streamproc.core.processor import Answer, Ask


def lookups_stage(plan: Plan, features: Sequence[LookupFeature]) -> Stage:
    """Adds the columns of the features."""

    def run(frame: Frame, context: Context) -> Generator[list[Ask], list[Answer], None]:
        return
        yield []

    columns = [name for feature in features for name in feature.columns]
    return Stage("lookups", frozenset(feature.key for feature in features), tuple(columns), run)
