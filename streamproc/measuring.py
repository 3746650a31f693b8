"""The measures of a running pipeline, read from its topics."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from streamproc.control import newest_values, read_audit
from streamproc.core.outcomes import measures
from streamproc.core.outcomes.measures import Window
from streamproc.core.outcomes.policy import OutcomesPlan
from streamproc.core.outcomes.summary import summary
from streamproc.core.plan import Plan
from streamproc.core.records import TYPE, VERSIONS
from streamproc.errors import UserError
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.reader import reading
from streamproc.recovery import Recovery, of_drift, of_model, of_modes

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Measured:
    """The windows of all lanes merged, by their start, and the incidents."""

    windows: Sequence[Window]
    incidents: Sequence[Recovery]

    def since(self, start: datetime | None) -> list[Window]:
        """The windows that end after a moment."""
        first = 0.0 if start is None else start.timestamp()
        return [window for window in self.windows if window.start + window.seconds > first]

    def as_json(self, plan: OutcomesPlan, start: datetime | None, now: datetime) -> dict[str, Any]:
        """What `streamproc stats --json` prints."""
        told = summary(plan, self.since(start), self.windows, now)
        first = datetime.fromtimestamp(0, UTC) if start is None else start
        baseline = plan.baseline
        stated = ("name", "decision", "automation", "review", "errors", "cost")
        return {
            **told,
            "incidents": [one.as_json() for one in self.incidents if one.end is None or one.end >= first],
            "baseline": None if baseline is None else {name: getattr(baseline, name) for name in stated},
        }


def outcomes_plan(plan: Plan) -> OutcomesPlan:
    """What a pipeline says about outcomes. Raises UserError where it says nothing."""
    if plan.outcomes is None:
        raise UserError(
            f"{plan.pipeline} keeps no measures: its file has no `outcomes`",
            "say what can come true: `outcomes: {values: […]}`",
        )
    return plan.outcomes


async def measured(connection: Connection, plan: Plan, now: datetime) -> Measured:
    """Everything that a pipeline's measures say so far."""
    outcomes_plan(plan)
    topics = plan.topics
    by_start: dict[int, Window] = {}
    for value in (await newest_values(connection, topics.metrics)).values():
        try:
            _, window = measures.loads(value, VERSIONS["measures"])
        except ValueError as error:
            log.warning("a record on topic %s is left out: %s", topics.metrics, error)
            continue
        by_start.setdefault(window.start, Window(window.start, window.seconds)).merge(window)
    windows = [window for _, window in sorted(by_start.items())]
    there = await admin.describe(connection, [topics.audit, topics.drift])
    said = [one async for _, one in read_audit(connection, plan.pipeline)] if topics.audit in there else []
    changes = await _changes(connection, topics.drift) if topics.drift in there else []
    incidents = [*of_model(windows, now), *of_modes(said), *of_drift(changes, said)]
    return Measured(windows, sorted(incidents, key=lambda one: one.onset))


async def _changes(connection: Connection, topic: str) -> list[Any]:
    found = list[Any]()
    async with reading(connection, topic) as reader:
        async for records in reader.scan():
            for record in records:
                if dict(record.headers).get(TYPE) == b"drift":
                    with suppress(ValueError):  # a tombstone, or none of ours
                        found.append(orjson.loads(record.value or b""))
    return found
