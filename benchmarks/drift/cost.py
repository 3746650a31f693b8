"""Processor time: what panes cost the decide worker, and what windows and tests cost the drift agent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl

from streamproc.core.drift.baseline import Baseline
from streamproc.core.drift.calibrate import Reference, calibrate
from streamproc.core.drift.panes import Counted, count, dumps
from streamproc.core.drift.processor import TABLE, DriftProcessor, layouts
from streamproc.core.processor import Answer, Ask
from streamproc.offline import Offline, batch_of

PARTITIONS = 12
LARGE, SMALL = 9_600, 36
SECONDS = 3.0
EVENTS_PER_SECOND = 10_000
BATCHES_PER_SECOND = 5
REFERENCE = 20_000


def measure() -> Iterator[dict[str, Any]]:
    """Figures of panes with 10 columns, and of a drift agent with 100 columns and 10 segments."""
    ten = _baseline(10, 0)
    for events in (LARGE, SMALL):
        frame = _frame(10, events, 0)
        seconds = _timed(lambda number, frame=frame: _panes(ten, frame, number))
        yield _said(f"panes of 10 columns, a batch of {events:,} events from {PARTITIONS} lanes", seconds, events)
    for columns, segments in ((10, 0), (100, 10)):
        baseline = _baseline(columns, segments)
        processor = Offline(DriftProcessor("b", baseline, recover=20), _nothing, tables=(TABLE,))
        each = EVENTS_PER_SECOND // BATCHES_PER_SECOND
        made = [_panes(baseline, _frame(columns, each, segments), number) for number in range(20)]

        def judge(number: int, made: Any = made, processor: Offline = processor) -> None:
            processor.process(batch_of("b.panes", made[number % len(made)]))

        seconds = _timed(judge)
        what = f"drift agent, {columns} columns, {segments} segments, {BATCHES_PER_SECOND} batches a second"
        yield _said(what, seconds, each) | {"of_a_core": seconds / each * EVENTS_PER_SECOND}


def _timed(run: Callable[[int], object]) -> float:
    """Processor seconds of one call, the middle of many."""
    run(0)
    spent, number = list[float](), 0
    while sum(spent) < SECONDS:
        number += 1
        started = time.process_time()
        run(number)
        spent.append(time.process_time() - started)
    return float(np.median(spent))


def _frame(columns: int, rows: int, segments: int) -> pl.DataFrame:
    rng = np.random.default_rng(columns + rows)
    made = {f"f{number}": rng.standard_normal(rows) for number in range(columns)}
    return pl.DataFrame(made | {"segment": [f"s{number % max(segments, 1)}" for number in range(rows)]})


def _baseline(columns: int, segments: int) -> Baseline:
    frame = _frame(columns, REFERENCE, segments)
    return calibrate(Reference(frame, frame.columns[:-1], ("segment",) if segments else ()), 1e6)


def _panes(baseline: Baseline, frame: pl.DataFrame, number: int) -> list[bytes]:
    """The records of one batch, whose events are shared out among the lanes and follow those of the batch before."""
    each = len(frame) // PARTITIONS
    partitions = np.repeat(np.arange(PARTITIONS), each)
    offsets = np.tile(np.arange(number * each, (number + 1) * each), PARTITIONS)
    rows = len(partitions)
    batch = Counted(partitions, offsets, offsets, np.arange(rows), frame[:rows])
    return [
        dumps(part, baseline.hash, shard)
        for shard, layout in layouts(baseline).items()
        for part in count(layout, batch)
    ]


def _nothing(ask: Ask) -> Answer:
    raise LookupError("nothing is asked")


def _said(what: str, seconds: float, events: int) -> dict[str, Any]:
    return {"what": what, "us_per_event": seconds / events * 1e6, "ms_a_batch": seconds * 1e3}
