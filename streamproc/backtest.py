"""A file's events through the pipeline and its monitors, without Kafka: what would have alarmed, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import orjson
import polars as pl

from streamproc.baselines import outcomes_of, watched_of, with_baseline
from streamproc.core.decide.drift import Watch
from streamproc.core.drift.baseline import Baseline, without
from streamproc.core.drift.bins import Floats, numbers
from streamproc.core.drift.errors import error_alarms, errors_of
from streamproc.core.drift.panes import Counted
from streamproc.core.drift.processor import TABLE, DriftProcessor
from streamproc.core.plan import SCORE
from streamproc.offline import Offline, batch_of
from streamproc.pipeline import Pipeline
from streamproc.recorded_answers import InRows, in_rows
from streamproc.rows import Told


@dataclass(frozen=True, slots=True)
class Accuracy:
    """By row, whether the prediction was wrong (1, 0, NaN where it is not known), and the accuracy that its score let
    expect; and at which rows detectors alarmed on the errors, by their names."""

    errors: Floats
    expected: Floats
    alarms: Mapping[str, Sequence[int]]

    def between(self, begin: int, end: int) -> dict[str, Any]:
        """Of rows whose outcome is known: how many, their accuracy, and what was expected of them."""
        known = ~np.isnan(self.errors[begin:end])
        errors, expected = self.errors[begin:end][known], self.expected[begin:end][known]
        n = int(known.sum())
        told = bool(n) and not np.isnan(expected).all()
        return {
            "outcomes": n,
            "realised": float(1 - errors.mean()) if n else None,
            "expected": float(np.nanmean(expected)) if told else None,
        }


@dataclass(slots=True)
class Backtest:
    """What happened. ``changes`` are records of schemas/drift.schema.json, ``watched`` what was watched, where kept.

    ``accuracy`` is there where rows say what came true.
    """

    events: int = 0
    changes: list[dict[str, Any]] = field(default_factory=list)
    watched: list[pl.DataFrame] = field(default_factory=list)
    accuracy: Accuracy | None = None
    unwatched: Mapping[str, str] = field(default_factory=dict)
    """The columns that the baseline watches and these rows say nothing of, and why."""

    @property
    def alarms(self) -> list[dict[str, Any]]:
        """The changes with which a monitor began to drift."""
        return [change for change in self.changes if change["state"] == "drifting"]


async def run_backtest(
    pipeline: Pipeline, baseline: Baseline, source: str, told: Told | None = None, *, keep: bool = False
) -> Backtest:
    """Run a file through decide and drift as one partition: row n has offset n. ``keep`` keeps what was watched."""
    rows = await _rows_of(pipeline, baseline, source)
    pipeline, baseline = rows.pipeline, rows.baseline
    assert pipeline.plan.drift is not None and pipeline.processor.watch is not None
    drift = DriftProcessor(pipeline.plan.pipeline, baseline, recover=pipeline.plan.drift.recover)
    offline = Offline(drift, pipeline.answers.now, tables=(TABLE,))
    found, taken, scores = Backtest(unwatched=rows.unwatched), outcomes_of(pipeline, source), list[Floats]()
    async for watched in watched_of(pipeline, source, told, taken, rows.answers):
        effects = offline.process(batch_of(pipeline.plan.topics.panes, _panes(pipeline.processor.watch, watched)))
        for output in effects.records:
            if output.topic == pipeline.plan.topics.drift:
                found.changes += map(orjson.loads, filter(None, output.values))
        if keep:
            found.watched.append(watched.columns)
        if taken is not None:
            own = np.full(len(watched.offsets), np.nan)
            own[watched.events] = numbers(watched.columns[SCORE])
            scores.append(own)
        found.events += len(watched.offsets)
    if taken is not None and taken.there:
        found.accuracy = _accuracy(baseline, np.concatenate(scores), taken.known())
    return found


def _accuracy(baseline: Baseline, scores: Floats, outcomes: Floats) -> Accuracy:
    errors, expected = errors_of(scores, outcomes), np.full(len(scores), np.nan)
    column = next((column for column in baseline.bins if column.name == SCORE), None)
    if column is not None and baseline.accuracies is not None:
        codes = column.codes(pl.Series(scores))
        expected = np.append(np.array(baseline.accuracies), np.nan)[codes]
    per = baseline.source["budget"]["events_per_false_alarm"]
    return Accuracy(errors, expected, error_alarms(errors, per))


async def panes_of(
    pipeline: Pipeline, baseline: Baseline, source: str, told: Told | None = None
) -> tuple[Baseline, list[bytes | None]]:
    """The panes records that the decide agent would send of a file, as one partition, and the baseline that they count
    by: it watches what the rows tell of."""
    rows = await _rows_of(pipeline, baseline, source)
    watch, taken = rows.pipeline.processor.watch, outcomes_of(pipeline, source)
    assert watch is not None
    parts = watched_of(rows.pipeline, source, told, taken, rows.answers)
    return rows.baseline, [value async for watched in parts for value in _panes(watch, watched)]


@dataclass(frozen=True, slots=True)
class _Rows:
    """What is to be made of a file's rows: what they do not tell of is ``unwatched``."""

    pipeline: Pipeline
    baseline: Baseline
    answers: InRows | None
    unwatched: Mapping[str, str]


async def _rows_of(pipeline: Pipeline, baseline: Baseline, source: str) -> _Rows:
    """No language model is asked about rows: where they do not say what it answered, that is not watched."""
    answers = await in_rows(pipeline.plan, source, source)
    if answers is None:
        return _Rows(pipeline, baseline, None, {})
    told = without(baseline, answers.recorded.unwatched)
    unwatched = {name: reason for name, reason in told.unwatched.items() if name not in baseline.unwatched}
    return _Rows(with_baseline(pipeline, told), told, answers, unwatched)


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
