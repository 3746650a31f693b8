"""From one layout to another, when a pipeline's windows changed: what both have stays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from streamproc.core.windows.kept import Entries, Kept, Values, empty, horizons, in_memory, packed, unpacked
from streamproc.core.windows.layout import Layout, Level
from streamproc.core.windows.level import IDENTITY


def moved(old: Layout, new: Layout, kept: Kept, lateness: int) -> Kept:
    """What is kept in a new layout: series of a level that had all the same statistics, and lists of distinct values.

    A window of a new kind begins with nothing, and one that reaches back further than any before knows what those did.
    What no window reaches any more, with a lateness of so many microseconds, goes: it may be too far back for the new
    layout to tell.
    """
    made = empty(new, len(kept))
    made.clock = kept.clock
    series = [old.series.index(one) if one in old.series else None for one in new.series]
    units = [level.unit for level in old.levels]
    for number, level in enumerate(new.levels):
        if level.unit in units:
            place = units.index(level.unit)
            entries = kept.levels[place]
            reached = entries.buckets > horizons(kept.clock, lateness, level.unit, level.steps)[entries.owners]
            made.levels[number] = _level(old.levels[place], level, series, entries.where(reached))
            made.floors[:, number] = kept.floors[:, place]
    for number, distinct in enumerate(new.distincts):
        for place, one in enumerate(old.distincts):
            if (one.unit, one.series, one.most) == (distinct.unit, series[distinct.series], distinct.most):
                made.distincts[number] = kept.distincts[place]
                made.floors[:, len(new.levels) + number] = kept.floors[:, len(old.levels) + place]
    return made


def brought(values: Sequence[bytes | None], layouts: Iterable[Layout], layout: Layout, lateness: int) -> Values:
    """Values in whatever of the layouts, brought into one of them as far as they go. ``lateness`` as for `moved`."""
    raw = Values.of(values)
    foreign = set(np.unique(raw.layouts).tolist()) - {layout.id}
    if not foreign:
        return raw
    known, made = {one.id: one for one in layouts}, list(values)
    for number in foreign:
        places = raw.rows[raw.layouts == number].tolist()
        old = known[number]
        kept = moved(old, layout, unpacked(old, Values.of([values[place] for place in places])), lateness)
        for place, value in zip(places, packed(layout, kept), strict=True):
            made[place] = value
    return Values.of(made)


def _level(old: Level, new: Level, series: list[int | None], entries: Entries) -> Entries:
    """The entries of a level, with the columns of another one."""
    had = {(column.series, column.statistic): number for number, column in enumerate(old.columns)}
    whole = {
        column.series
        for column in new.columns
        if all((series[one.series], one.statistic) in had for one in new.columns if one.series == column.series)
    }
    columns = []
    for column in new.columns:
        if column.series in whole:
            columns.append(entries.columns[had[series[column.series], column.statistic]])  # type: ignore[index]
        else:
            columns.append(np.full(len(entries), IDENTITY[column.statistic], in_memory(column.dtype)))
    return Entries(entries.owners, entries.buckets, columns)
