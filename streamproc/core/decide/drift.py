"""Drift in the decide processor: a stage that shows its state to confidence and rules, and panes of what is watched."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from streamproc.core.decide.frame import Context, Frame, Stage
from streamproc.core.drift.baseline import Baseline
from streamproc.core.drift.bins import Codes, as_text
from streamproc.core.drift.detector import LEVELS
from streamproc.core.drift.panes import Counted, Layout, count, dumps, split
from streamproc.core.drift.processor import VOLUME_SHARD, layouts
from streamproc.core.drift.view import NO_DRIFT, STEADY, VIEW, DriftView, Standing
from streamproc.core.drift.volume import arrivals_of
from streamproc.core.plan import (
    DEAD_LETTERS,
    DECISION,
    DRIFT,
    DRIFT_ANY,
    DRIFT_SEVERITY,
    EVENT_TIME,
    WOULD_BE,
    DriftPlan,
    Plan,
)
from streamproc.core.processor import Answer, Ask, Output, Seen
from streamproc.core.records import DUPLICATE, TYPED

WATCH: Final = "watch"
"""The name in ``Seen`` of the watch that goes before the processor's own."""
LARGEST = 1 << 20
"""Counts, and so bytes, of one record of panes, about."""
AHEAD: Final = 86_400_000_000
"""In µs."""
ACCEPTED = "accepted"
"""What stands among the reasons of dead letters for an event that is none."""
NOTHING = "nothing"
"""What automation would have decided where no rule of its matched."""


def drift_stage(plan: Plan) -> Stage:
    """Adds the columns ``drift_…`` that confidence or rules read."""
    reads = () if plan.drift is None else plan.drift.reads
    aside = frozenset() if plan.drift is None else plan.drift.aside
    segments = frozenset() if plan.drift is None or not reads else frozenset(plan.drift.segments)

    def run(frame: Frame, context: Context) -> Generator[list[Ask], list[Answer], None]:
        view: DriftView = context.seen.views.get(VIEW, NO_DRIFT)
        if reads:
            frame.add(*(_column(name, frame, view, aside) for name in reads))
        return
        yield []

    return Stage("drift", segments, reads, run)


def _column(name: str, frame: Frame, view: DriftView, aside: frozenset[str]) -> pl.Series:
    """How what the name stands for does, for each event: everywhere, or in a segment that the event is in."""
    everywhere, within = view.of_column(_stands_for(name), aside)
    standings = [everywhere]
    numbers = np.zeros(len(frame), np.int64)
    for segment, standing in within.items():
        inside = (as_text(frame.columns[segment.column]) == segment.value).fill_null(False).to_numpy()
        for before in np.unique(numbers[inside]).tolist():
            standings.append(standings[before].worse(standing))
            numbers[inside & (numbers == before)] = len(standings) - 1
    return pl.Series(name, [_shown(name, standing) for standing in standings]).gather(numbers)


def stirs(drift: DriftPlan, seen: Seen) -> bool:
    """Whether any of the columns that are read may be for any event what it is not where nothing drifts."""
    view: DriftView = seen.views.get(VIEW, NO_DRIFT)
    if not (view.everywhere or view.within):
        return False
    standings = [view.of_column(_stands_for(name), drift.aside) for name in drift.reads]
    return any(within or everywhere != STEADY for everywhere, within in standings)


def steady(drift: DriftPlan) -> list[pl.Expr]:
    """The columns that are read, as they are where nothing drifts."""
    return [pl.lit(_shown(name, STEADY)).alias(name) for name in drift.reads]


def _stands_for(name: str) -> str | None:
    """The column that a name is about; ``None`` for all of them together."""
    return None if name in (DRIFT_ANY, DRIFT_SEVERITY) else name.removeprefix(DRIFT)


def _shown(name: str, standing: Standing) -> str | float:
    return standing.severity if name == DRIFT_SEVERITY else LEVELS[standing.level]


@dataclass(frozen=True, slots=True)
class Watch:
    """Counts what a baseline watches, and where the plan watches ``volume`` what came when.

    ``topic`` is that of panes.
    """

    topic: str
    baseline: str
    layouts: dict[int, Layout]
    volume: bool = False

    @classmethod
    def of(cls, plan: Plan, baseline: Baseline) -> Watch:
        """The watch of a plan, by a baseline."""
        return cls(
            plan.topics.panes,
            baseline.hash,
            layouts(baseline),
            plan.drift is not None and plan.drift.volume is not None,
        )

    def outputs(self, watched: Counted) -> Iterator[tuple[int, Output]]:
        """Panes records, with the partition of the lane whose they are."""
        arrivals = arrivals_of(watched) if self.volume else {}
        for shard, layout in self.layouts.items():
            for panes in count(layout, watched):
                came = arrivals.pop(panes.partition, ()) if shard == VOLUME_SHARD else ()
                parts = enumerate(split(panes, LARGEST))
                values = [dumps(part, self.baseline, shard, () if number else came) for number, part in parts]
                keys, headers = [b"%d" % shard] * len(values), [TYPED["panes"]] * len(values)
                yield panes.partition, Output(self.topic, keys, values, headers)


def _not_of_the_future(times: Codes, stamps: Codes) -> Codes:
    """Event times (µs), at most a day after their records' timestamps where those are known: one event with a clock
    that is wrong must not make all windows old."""
    return np.where((stamps > 0) & (times > stamps + AHEAD), stamps, times)


def watched_columns(plan: Plan, frame: Frame) -> Counted:
    """What there is to watch in a judged frame."""
    assert plan.drift is not None and frame.verdicts is not None
    names = dict.fromkeys((*plan.drift.watch, *plan.drift.segments))
    distinct, of_row = frame.verdicts.distinct, frame.verdicts.of_row
    made = {
        DECISION: [verdict.decision for verdict in distinct],
        WOULD_BE: [verdict.would_be or NOTHING for verdict in distinct],
    }
    columns = [
        pl.Series(name, made[name], dtype=pl.String).gather(of_row) if name in made else frame.columns[name]
        for name in names
        if name != DEAD_LETTERS
    ]
    letters = dict[str, pl.Series]()
    if DEAD_LETTERS in names:
        reasons = [ACCEPTED] * len(frame.records)
        for number, letter in frame.refused.items():
            if letter.reason != DUPLICATE:  # nothing is broken where an event was sent twice
                reasons[number] = letter.reason
        letters[DEAD_LETTERS] = pl.Series(DEAD_LETTERS, reasons, dtype=pl.String)
    records = frame.records
    times = records.timestamps * 1000
    times[frame.rows] = _not_of_the_future(frame.columns[EVENT_TIME].dt.epoch("us").to_numpy(), times[frame.rows])
    own = records.partitions, records.offsets, times, frame.rows, pl.DataFrame(columns), letters
    return Counted(*own, records.timestamps)
