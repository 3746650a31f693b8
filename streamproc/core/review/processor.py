"""The review processor: cases, and what people say about them, in; items, steps, decisions and actions out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from streamproc.core.processor import Batch, Seen, State, Steps
from streamproc.core.review.desk import Desk
from streamproc.core.review.policy import ReviewPlan

MARGIN: Final = timedelta(seconds=2)
"""How long a tick leaves to what was said in time and is on its way."""


@dataclass(frozen=True, slots=True)
class ReviewProcessor:
    """Keeps the cases of a pipeline.

    ``actions`` are the topics of decisions. ``lanes`` is how many lanes there are: they share what people can answer.
    """

    pipeline: str
    plan: ReviewPlan
    actions: Mapping[str, str | None]
    lanes: int

    def process(self, batch: Batch, state: State, seen: Seen, now: datetime) -> Steps:
        """What a batch of cases and of what people said comes to, each record at its own time.

        Records carry the broker's time: how late a worker reads them changes nothing. Only what no record tells, that
        time has passed, is told by ticks, and so by the worker's clock.
        """
        desk = Desk(self.pipeline, self.plan, self.actions, state)
        for records in batch.topics.values():
            desk.take(records)
        desk.shed(self.plan.most_open(batch.partition, self.lanes))
        return desk.effects(MARGIN)
        yield []

    def tick(self, state: State, seen: Seen, now: datetime) -> Steps:
        """What time alone comes to: cases that nobody answered, and closed ones that are forgotten."""
        desk = Desk(self.pipeline, self.plan, self.actions, state)
        desk.expire(now.astimezone(UTC) - MARGIN)
        return desk.effects(MARGIN)
        yield []
