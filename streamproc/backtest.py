"""A file's events through the pipeline and its monitors, without Kafka: what would have alarmed, and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
import polars as pl

from streamproc.baselines import watched_of
from streamproc.core.decide.drift import Watch
from streamproc.core.drift.baseline import Baseline
from streamproc.core.drift.panes import Counted
from streamproc.core.drift.processor import TABLE, DriftProcessor
from streamproc.offline import Offline, batch_of
from streamproc.pipeline import Pipeline
from streamproc.rows import Told


@dataclass(slots=True)
class Backtest:
    """What happened. ``changes`` are records of schemas/drift.schema.json, ``watched`` what was watched, where kept."""

    events: int = 0
    changes: list[dict[str, Any]] = field(default_factory=list)
    watched: list[pl.DataFrame] = field(default_factory=list)

    @property
    def alarms(self) -> list[dict[str, Any]]:
        """The changes with which a monitor began to drift."""
        return [change for change in self.changes if change["state"] == "drifting"]


async def run_backtest(
    pipeline: Pipeline, baseline: Baseline, source: str, told: Told | None = None, *, keep: bool = False
) -> Backtest:
    """Run a file through decide and drift as one partition: row n has offset n. ``keep`` keeps what was watched."""
    assert pipeline.plan.drift is not None and pipeline.processor.watch is not None
    drift = DriftProcessor(pipeline.plan.pipeline, baseline, recover=pipeline.plan.drift.recover)
    offline = Offline(drift, pipeline.answers.now, tables=(TABLE,))
    found = Backtest()
    async for watched in watched_of(pipeline, source, told):
        effects = offline.process(batch_of(pipeline.plan.topics.panes, _panes(pipeline.processor.watch, watched)))
        for output in effects.records:
            if output.topic == pipeline.plan.topics.drift:
                found.changes += map(orjson.loads, filter(None, output.values))
        if keep:
            found.watched.append(watched.columns)
        found.events += len(watched.offsets)
    return found


async def panes_of(pipeline: Pipeline, source: str, told: Told | None = None) -> list[bytes | None]:
    """The panes records that the decide agent would send of a file, as one partition."""
    assert pipeline.processor.watch is not None
    watch = pipeline.processor.watch
    return [value async for watched in watched_of(pipeline, source, told) for value in _panes(watch, watched)]


def _panes(watch: Watch, watched: Counted) -> list[bytes | None]:
    return [value for _, output in watch.outputs(watched) for value in output.values]


def delays(alarms: list[dict[str, Any]], truth: int, of: Literal["monitor", "column"]) -> dict[str, int]:
    """Events from the row where things changed to the first alarm after it, of each monitor or column."""
    first = dict[str, int]()
    for alarm in after(alarms, truth):
        first.setdefault(alarm[of], alarm["window"]["to"]["offset"] - truth)
    return first


def after(alarms: list[dict[str, Any]], truth: int) -> list[dict[str, Any]]:
    """The alarms whose window ends after a row."""
    return [alarm for alarm in alarms if alarm["window"]["to"]["offset"] > truth]
