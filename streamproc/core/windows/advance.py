"""A batch of one ``by``: the features of its rows, and what is kept afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamproc.core.windows.distinct import DistinctBatch
from streamproc.core.windows.kept import NEVER, Entries, Kept, horizons
from streamproc.core.windows.layout import NEEDED, Column, Layout, Series, Statistic, steps_of, unit_of
from streamproc.core.windows.level import FOLDS, IDENTITY, MOMENTS, LevelBatch, Pairs
from streamproc.core.windows.moments import Moments, by_window
from streamproc.core.windows.policy import WindowFeature
from streamproc.core.windows.rows import Rows
from streamproc.core.windows.scan import Segments

MICROSECONDS = 1e6
_Steps = tuple[int, int, bool]


@dataclass(frozen=True, slots=True)
class Result:
    """A feature of rows: its values, shape (n,), and where there is none. ``capped``: where a number of distinct values
    is only the least that it can be."""

    values: NDArray[Any]
    missing: NDArray[np.bool_]
    capped: NDArray[np.bool_] | None = None


def advance(
    layout: Layout, features: Sequence[WindowFeature], kept: Kept, rows: Rows, lateness: int
) -> tuple[list[Result], Kept]:
    """One result for each feature, and what is kept after the rows. ``lateness`` is in microseconds.

    Marks what is late among the rows. Equal rows give equal results, however they fall into batches.
    """
    segments = Segments.of(rows.keys)
    begin = kept.clock[rows.keys[segments.starts]]
    after = segments.running(np.maximum, rows.times, begin)
    newest = segments.before(after, begin)
    rows.late = (newest != NEVER) & (rows.times < newest - lateness)
    clock = kept.clock.copy()
    clock[rows.keys] = after  # of a key's rows the last one stays
    floors = kept.floors
    places = len(layout.levels)
    levels = [
        LevelBatch(level, kept.levels[number], floors[:, number], rows) for number, level in enumerate(layout.levels)
    ]
    distincts = [
        DistinctBatch(distinct, kept.distincts[number], floors[:, places + number], rows)
        for number, distinct in enumerate(layout.distincts)
    ]
    results = _results(layout, features, levels, distincts, rows)
    cut = floors.copy()
    entries, pairs = list[Entries](), list[Entries]()
    for number, (level, batch) in enumerate(zip(layout.levels, levels, strict=True)):
        made, cut[:, number] = batch.result(horizons(clock, lateness, level.unit, level.steps))
        entries.append(made)
    for number, (distinct, listed) in enumerate(zip(layout.distincts, distincts, strict=True), places):
        made, cut[:, number] = listed.result(horizons(clock, lateness, distinct.unit, distinct.steps))
        pairs.append(made)
    return results, Kept(clock, cut, entries, pairs)


def _results(
    layout: Layout,
    features: Sequence[WindowFeature],
    levels: Sequence[LevelBatch],
    distincts: Sequence[DistinctBatch],
    rows: Rows,
) -> list[Result]:
    units = [level.unit for level in layout.levels]
    wanted: dict[_Steps, dict[Column, None]] = {}
    for feature in features:
        if feature.aggregate != "distinct":
            series = layout.series.index(Series.of_feature(feature))
            columns = (Column(series, one) for one in NEEDED[feature.aggregate])
            wanted.setdefault(_window(feature), {}).update(dict.fromkeys(columns))
    folded = {
        window: _Folded(levels[units.index(window[0])].pairs(window[1], window[2], list(columns)), list(columns))
        for window, columns in wanted.items()
    }
    results = []
    for feature in features:
        series = layout.series.index(Series.of_feature(feature))
        late = rows.late if feature.window is not None else np.zeros(len(rows), np.bool_)
        if feature.aggregate == "distinct":
            keys = [(one.unit, one.series, one.most) for one in layout.distincts]
            batch = distincts[keys.index((feature.unit, series, feature.most))]
            found, capped = batch.numbers(steps_of(feature), feature.include_self)
            results.append(Result(found, late, capped))
        else:
            result = _aggregate(feature, series, folded[_window(feature)], rows)
            results.append(Result(result.values, result.missing | late))
    return results


def _window(feature: WindowFeature) -> _Steps:
    return unit_of(feature), steps_of(feature), feature.include_self


class _Folded:
    """The statistics of each row's window."""

    def __init__(self, pairs: Pairs, columns: Sequence[Column]) -> None:
        self._pairs, self._columns = pairs, list(columns)
        self.cut = pairs.cut
        self._some = np.flatnonzero(pairs.counts)
        self._begins = pairs.starts[self._some]
        self._moments: dict[int, Moments] = {}

    def of(self, series: int, statistic: Statistic) -> NDArray[Any]:
        """A statistic, shape (rows,)."""
        return self._fold(FOLDS[statistic], self._values(series, statistic), IDENTITY[statistic])

    def moments(self, series: int) -> Moments:
        """Those of each window, of shape (3, rows)."""
        if series not in self._moments:
            entries = [self._values(series, one) for one in MOMENTS]
            self._moments[series] = by_window(entries, self._pairs.counts)
        return self._moments[series]

    def end(self, series: int, statistic: Statistic, *, newest: bool) -> NDArray[Any]:
        """A statistic of the newest or oldest entry of each window that has anything of the series."""
        counts, values = self._values(series, "n"), self._values(series, statistic)
        places = np.arange(len(counts))
        none = -1 if newest else len(counts)
        found = self._fold(np.maximum if newest else np.minimum, np.where(counts > 0, places, none), none)
        made = np.zeros(len(found), values.dtype)
        some = found != none
        made[some] = values[found[some]]
        return made

    def _values(self, series: int, statistic: Statistic) -> NDArray[Any]:
        return self._pairs.values[self._columns.index(Column(series, statistic))]

    def _fold(self, ufunc: Any, values: NDArray[Any], identity: Any) -> NDArray[Any]:
        made = np.full(len(self._pairs.counts), identity, values.dtype)
        if len(self._some):
            made[self._some] = ufunc.reduceat(values, self._begins)
        return made


def _aggregate(feature: WindowFeature, series: int, folded: _Folded, rows: Rows) -> Result:
    count = folded.of(series, "n")
    none = count == 0
    match feature.aggregate:
        case "count":
            return Result(count, folded.cut)
        case "rate":
            assert feature.window is not None
            return Result(count / (feature.window / MICROSECONDS), folded.cut)
        case "sum":
            return Result(folded.of(series, "sum"), folded.cut)
        case "mean":
            values = folded.of(series, "sum") / np.maximum(count, 1)
        case "min" | "max":
            values = folded.of(series, feature.aggregate)
        case "last":
            values = folded.end(series, "last", newest=True)
        case "first":
            values = folded.end(series, "first", newest=False)
        case "time_since_last":
            since = rows.times - folded.end(series, "last_time", newest=True)
            values = np.maximum(since, 0) / MICROSECONDS
        case "std":
            none = count < 2
            _, values = _mean_and_spread(folded.moments(series))
        case _:
            mean, spread = _mean_and_spread(folded.moments(series))
            own = rows.series[series]
            none = (count < 2) | (spread == 0) | ~np.isfinite(spread) | ~own.counts
            values = (own.numbers - mean) / np.where(none, 1.0, spread)
    return Result(values, folded.cut | none)


def _mean_and_spread(moments: Moments) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The means, and the standard deviations of a sample; 0 for less than two values."""
    count, mean, deviations = moments
    return mean, np.sqrt(deviations / np.maximum(count - 1, 1))
