"""A file's events through the pipeline and its monitors, without Kafka: what would have alarmed, and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson
import polars as pl

from streamproc.baselines import Told
from streamproc.core.decide.drift import watched_columns
from streamproc.core.drift.baseline import Baseline
from streamproc.core.drift.processor import DriftProcessor
from streamproc.core.processor import NOTHING_SEEN, run
from streamproc.offline import EPOCH, Offline, batch_of
from streamproc.pipeline import Pipeline
from streamproc.rows import chunks

PARTITION = 0


@dataclass(slots=True)
class Backtest:
    """What happened. ``alarms`` are records of schemas/drift.schema.json in which a monitor began to drift."""

    events: int = 0
    alarms: list[dict[str, Any]] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)
    watched: list[pl.DataFrame] = field(default_factory=list)


async def run_backtest(
    pipeline: Pipeline, baseline: Baseline, source: str, told: Told | None = None, *, keep: bool = False
) -> Backtest:
    """Run a file through decide and drift as one partition: row n has offset n. ``keep`` keeps what was watched."""
    assert pipeline.plan.drift is not None and pipeline.processor.watch is not None
    drift = DriftProcessor(pipeline.plan.pipeline, baseline, recover=pipeline.plan.drift.recover)
    offline = Offline(drift, pipeline.answers.now, tables=("drift",))
    found = Backtest()
    async for chunk in chunks(source):
        if chunk.values:
            batch = batch_of(pipeline.plan.events.topic, chunk.values, first_offset=found.events)
            frame, _ = run(pipeline.processor.judge([batch], NOTHING_SEEN, EPOCH), pipeline.answers.now)
            panes = [value for _, output in pipeline.processor.watch.outputs(frame) for value in output.values]
            effects = offline.process(batch_of(pipeline.plan.topics.panes, panes))
            for output in effects.records:
                if output.topic == pipeline.plan.topics.drift:
                    found.changes += map(orjson.loads, filter(None, output.values))
            if keep:
                found.watched.append(watched_columns(pipeline.plan, frame).columns)
            found.events += len(chunk.values)
        if told is not None:
            told(found.events, chunk.progress)
    found.alarms = [change for change in found.changes if change["state"] == "drifting"]
    return found


async def panes_of(pipeline: Pipeline, source: str, told: Told | None = None) -> list[bytes]:
    """The panes records that the decide agent would send of a file, as one partition."""
    assert pipeline.processor.watch is not None
    found, events = list[bytes](), 0
    async for chunk in chunks(source):
        if chunk.values:
            batch = batch_of(pipeline.plan.events.topic, chunk.values, first_offset=events)
            frame, _ = run(pipeline.processor.judge([batch], NOTHING_SEEN, EPOCH), pipeline.answers.now)
            outputs = pipeline.processor.watch.outputs(frame)
            found += [value or b"" for _, output in outputs for value in output.values]
            events += len(chunk.values)
        if told is not None:
            told(events, chunk.progress)
    return found


def delays(alarms: list[dict[str, Any]], truth: int) -> dict[str, int]:
    """Events from the row where things changed to each monitor's first alarm at or after it."""
    first = dict[str, int]()
    for alarm in alarms:
        seen = alarm["window"]["to"]["offset"]
        if seen > truth:
            first.setdefault(alarm["monitor"], seen - truth)
    return first
