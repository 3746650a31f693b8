"""The review processor: cases, and what people say about them, in; items, steps, decisions and actions out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from streamproc.core.processor import Batch, Seen, State, Steps
from streamproc.core.review.case import moment
from streamproc.core.review.desk import Desk
from streamproc.core.review.policy import ReviewPlan


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

        Records carry the broker's time, and that is the only clock here: a worker whose own is wrong, or that comes
        back after hours, gives nobody less time, or more.
        """
        desk = Desk(self.pipeline, self.plan, self.actions, state)
        for records in batch.topics.values():
            desk.take(records)
        desk.shed(self.plan.most_open(batch.partition, self.lanes))
        return desk.effects()
        yield []

    def tick(self, state: State, seen: Seen, now: datetime) -> Steps:
        """What time alone comes to: cases that nobody answered, and closed ones that are forgotten."""
        desk = Desk(self.pipeline, self.plan, self.actions, state)
        desk.expire(moment(now))
        return desk.effects()
        yield []
