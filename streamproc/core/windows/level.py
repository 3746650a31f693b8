"""One level for a batch: its entries before and after, and what they were as of each row in between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from streamproc.core.windows.kept import NEVER, Entries
from streamproc.core.windows.layout import EVER, Column, Level, Statistic, buckets_of
from streamproc.core.windows.moments import Moments, of_values, running
from streamproc.core.windows.rows import Rows
from streamproc.core.windows.scan import Ints, Segments, ramps

MOST_ENTRIES: Final = 1_000
"""Of a level and key: the oldest are cut off, and a window that would reach there is not known."""
ROOM: Final = 1 << 62
FIRST_EVER: Final = np.iinfo(np.int64).max
IDENTITY: Final[dict[Statistic, Any]] = {
    "n": 0,
    "sum": 0.0,
    "centre": 0.0,
    "deviations": 0.0,
    "min": np.inf,
    "max": -np.inf,
    "last_time": NEVER,
    "last": 0.0,
    "first_time": FIRST_EVER,
    "first": 0.0,
}
FOLDS: Final[dict[Statistic, np.ufunc]] = {
    "n": np.add,
    "sum": np.add,
    "min": np.minimum,
    "max": np.maximum,
}
"""How values of a statistic are put together, of rows and of entries, where it needs no other."""
MOMENTS: Final[tuple[Statistic, ...]] = ("n", "centre", "deviations")


@dataclass(slots=True)
class Pairs:
    """For each row the entries of its window as of that row: entry ``values[column][i]`` is of row ``rows[i]``.

    ``starts`` and ``counts``, shape (rows,), are where those of a row stand. ``cut`` says of rows that something of
    their window was cut off.
    """

    starts: Ints
    counts: Ints
    values: list[NDArray[Any]]
    cut: NDArray[np.bool_]


class LevelBatch:
    """The entries of a level while a batch is counted in them."""

    def __init__(self, level: Level, entries: Entries, floors: Ints, rows: Rows) -> None:
        """``floors`` has one for each key."""
        self._level, self._rows, self._floors = level, rows, floors
        self._moments: dict[int, Moments] = {}
        self._buckets = buckets_of(level.unit, rows.times)
        self._number(entries)
        counted = np.zeros(len(rows), np.bool_)
        for series in {column.series for column in level.columns}:
            counted |= rows.series[series].counts
        own = np.flatnonzero(counted)
        self._updates = own[np.argsort(self._codes[own], kind="stable")]
        self._segments = Segments.of(self._codes[self._updates])
        self._merge(entries)
        self._after = [self._running(column) for column in level.columns]

    def _number(self, entries: Entries) -> None:
        """Numbers that order rows and entries by key and bucket."""
        rows, low, high = self._rows, NEVER, 0
        both = np.concatenate([self._buckets, entries.buckets])
        if len(both):
            low, high = int(both.min()), int(both.max())
        room = high - low + 2  # one more: a window may begin before all of them
        keys = int(max(rows.keys.max(initial=0), entries.owners.max(initial=0))) + 1
        self._ranks: Ints | None = None
        if room * keys < ROOM:
            self._low, self._room = low - 1, room
            own, kept = self._buckets - self._low, entries.buckets - self._low
        else:
            self._ranks = np.unique(both)
            self._room = len(self._ranks) + 1
            own, kept = (np.searchsorted(self._ranks, part) + 1 for part in (self._buckets, entries.buckets))
        self._codes = rows.keys * self._room + own
        self._entry_codes = entries.owners * self._room + kept

    def _codes_from(self, steps: int) -> Ints:
        """The least code of an entry in each row's window."""
        oldest = self._buckets - (steps - 1)
        ranks = self._ranks
        own = np.maximum(oldest - self._low, 0) if ranks is None else np.searchsorted(ranks, oldest) + 1
        codes: Ints = self._rows.keys * self._room + own
        return codes

    def _merge(self, entries: Entries) -> None:
        """Put the entries of new buckets among those that are kept."""
        firsts = self._updates[self._segments.starts]
        codes, had = self._codes[firsts], len(entries)
        at = np.searchsorted(self._entry_codes, codes)
        new = np.ones(len(codes), np.bool_)
        inside = np.flatnonzero(at < had)
        new[inside] = self._entry_codes[at[inside]] != codes[inside]
        added = np.flatnonzero(new)
        self._places = at + np.cumsum(new) - new  # in the merged order
        old = np.arange(had) + np.cumsum(np.bincount(at[added], minlength=had + 1))[:had]
        fresh, first = self._places[added], firsts[added]

        def merged(before: NDArray[Any], values: Any) -> NDArray[Any]:
            whole = np.empty(had + len(added), before.dtype)
            whole[old], whole[fresh] = before, values
            return whole

        self._merged = merged(self._entry_codes, codes[added])
        self._owners = merged(entries.owners, self._rows.keys[first])
        self._entry_buckets = merged(entries.buckets, self._buckets[first])
        self._was = merged(np.ones(had, np.bool_), values=False)
        self._touched = np.full(had + len(added), -1, np.int64)
        self._touched[self._places] = np.arange(len(codes))
        columns = zip(self._level.columns, entries.columns, strict=True)
        self._columns = [merged(values, IDENTITY[column.statistic]) for column, values in columns]
        counts = np.bincount(self._owners) if had + len(added) > MOST_ENTRIES else np.zeros(1, np.int64)
        self._crowded = int(counts.max()) > MOST_ENTRIES

    def _running(self, column: Column) -> NDArray[Any]:
        """The column of its entry after each row that counts in this level, in the order of ``_updates``."""
        series = self._rows.series[column.series]
        counts, begin = series.counts[self._updates], self._begin(column)
        match column.statistic:
            case "n":
                return self._segments.running(np.add, counts.astype(np.int64), begin)
            case "last_time" | "first_time" | "last" | "first":
                return self._ends(column)
            case "centre" | "deviations":
                found: NDArray[Any] = self._running_moments(column.series)[MOMENTS.index(column.statistic)]
                return found
            case _:
                values = np.where(counts, series.numbers[self._updates], IDENTITY[column.statistic])
                return self._segments.running(FOLDS[column.statistic], values, begin)

    def _running_moments(self, number: int) -> Moments:
        """Those of a series, as `_running` gives a column."""
        if number not in self._moments:
            series = self._rows.series[number]
            own = of_values(series.numbers[self._updates], series.counts[self._updates])
            begin = np.stack([self._begin(Column(number, one)) for one in MOMENTS])
            self._moments[number] = running(self._segments, own, begin)
        return self._moments[number]

    def _begin(self, column: Column) -> NDArray[Any]:
        """What each segment of updates begins with."""
        return self._columns[self._level.columns.index(column)][self._places]

    def _ends(self, column: Column) -> NDArray[Any]:
        """The newest or oldest value of an entry after each row, and its time: by event time, then by arrival."""
        newest = column.statistic in ("last_time", "last")
        rows, series = self._rows, self._rows.series[column.series]
        none = -1 if newest else len(rows)
        ranks = np.where(series.counts, rows.ranks, none)[self._updates]
        begin = np.full(len(self._segments.starts), none, np.int64)
        best = self._segments.running(np.maximum if newest else np.minimum, ranks, begin)
        some = best != none
        found = rows.in_time[np.where(some, best, 0)]
        time = Column(column.series, "last_time" if newest else "first_time")
        of_rows = self._segments.of_rows
        kept_time, times = self._begin(time)[of_rows], rows.times[found]
        taken = some & ((times >= kept_time) if newest else (times < kept_time))
        if column == time:
            return np.where(taken, times, kept_time)
        return np.where(taken, series.numbers[found], self._begin(column)[of_rows])

    def pairs(self, steps: int, include_self: bool, columns: list[Column]) -> Pairs:
        """The window of ``steps`` buckets of each row, as it was before the row, or after it."""
        oldest = self._codes_from(steps)
        begins = np.searchsorted(self._merged, oldest)
        counts = np.searchsorted(self._merged, self._codes, side="right") - begins
        entries = ramps(begins, counts)
        rows = np.repeat(np.arange(len(self._rows)), counts)
        changed = np.flatnonzero(self._touched[entries] >= 0)
        version = self._versions(entries[changed], rows[changed], include_self)
        gone = changed[(version < 0) & ~self._was[entries[changed]]]  # they come later than the row
        if len(gone):
            there = np.ones(len(entries), np.bool_)
            there[gone] = False
            counts = counts - np.bincount(rows[gone], minlength=len(counts))
            places = np.cumsum(there) - 1
            changed, version = changed[there[changed]], version[there[changed]]
            entries, changed = entries[there], places[changed]
        later = np.flatnonzero(version >= 0)
        changed, version = changed[later], version[later]
        values = []
        for column in columns:
            number = self._level.columns.index(column)
            own = self._columns[number][entries]
            if len(changed):
                own[changed] = self._after[number][version]
            values.append(own)
        return Pairs(np.cumsum(counts) - counts, counts, values, self._cut(steps, oldest, begins, include_self))

    def _versions(self, entries: Ints, rows: Ints, include_self: bool) -> Ints:
        """The last update of an entry before each row, or with it; -1 where there is none."""
        segments = self._touched[entries]
        total = len(self._rows)
        keyed = self._segments.of_rows * total + self._updates  # rows of a segment are in the order in which they came
        last = np.searchsorted(keyed, segments * total + rows, side="right" if include_self else "left") - 1
        found: Ints = np.where(last >= self._segments.starts[segments], last, -1)
        return found

    def _cut(self, steps: int, oldest: Ints, begins: Ints, include_self: bool) -> NDArray[np.bool_]:
        """Whether more entries would be needed than are kept of a key."""
        rows = self._rows
        cut: NDArray[np.bool_] = self._floors[rows.keys] > self._buckets - steps
        if not self._crowded:
            return cut
        ends = np.searchsorted(self._merged, (rows.keys + 1) * self._room)
        for row in np.flatnonzero(ends - begins > MOST_ENTRIES).tolist():
            entries = np.arange(begins[row], ends[row])
            there = self._was[entries]
            made = entries[~there]
            if len(made):
                versions = self._versions(made, np.full(len(made), row), include_self)
                there[~there] = versions >= 0
            cut[row] |= int(there.sum()) > MOST_ENTRIES
        return cut

    def result(self, horizons: Ints) -> tuple[Entries, Ints]:
        """The entries after the batch, of the buckets after each key's horizon, and the floors."""
        for column, after in zip(self._columns, self._after, strict=True):
            column[self._places] = after[self._segments.lasts]
        entries = Entries(self._owners, self._entry_buckets, self._columns)
        if self._level.unit == EVER:  # nothing of it ever leaves
            return entries, self._floors
        entries = entries.where(self._entry_buckets > horizons[self._owners])
        return entries.newest(MOST_ENTRIES, self._floors)
