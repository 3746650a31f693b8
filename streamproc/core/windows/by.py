"""The windows of one ``by``: rows with their keys, through the state of their lanes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Final

import numpy as np

from streamproc.core.windows.advance import Result, advance
from streamproc.core.windows.kept import NEVER, Kept, packed, unpacked
from streamproc.core.windows.lane import LaneMemory
from streamproc.core.windows.layout import Layout
from streamproc.core.windows.migrate import brought
from streamproc.core.windows.policy import WindowFeature
from streamproc.core.windows.rows import Rows, SeriesRows
from streamproc.core.windows.scan import Ints, Segments, starts_of

MOST_AT_ONCE: Final = 1_000
"""Rows of a key: each of them may meet each other one, so more would take memory and time by their square."""


@dataclass(frozen=True, slots=True)
class KeyedRows:
    """Rows in the order of their lanes and of their arrival: the number of each one's lane, its key as it stands in the
    lane's table, its time in microseconds, and the newest time that its lane has seen then; one array per series."""

    lanes: Ints
    keys: list[bytes]
    times: Ints
    clocks: Ints
    series: list[SeriesRows]

    def between(self, begin: int, end: int) -> KeyedRows:
        """Some that stand one behind another."""
        own = slice(begin, end)
        series = [part.where(own) for part in self.series]
        return KeyedRows(self.lanes[own], self.keys[own], self.times[own], self.clocks[own], series)


@dataclass(frozen=True, slots=True)
class By:
    """The features of one ``by``. ``lateness`` and ``ttl`` are in microseconds."""

    layout: Layout
    features: tuple[WindowFeature, ...]
    lateness: int
    ttl: int

    @classmethod
    def of(cls, by: str, features: Sequence[WindowFeature], lateness: int, ttl: int) -> By:
        """For features that have this ``by``."""
        return cls(Layout.of(by, features, lateness), tuple(features), lateness, ttl)

    def run(self, memories: Sequence[LaneMemory], keyed: KeyedRows) -> tuple[list[Result], Ints]:
        """One result per feature and row, the numbers of those rows that are late, and the memories changed."""
        layout = self.layout
        lanes, codes, names, ends = _numbered(keyed)
        if len(codes) > MOST_AT_ONCE and int(np.bincount(codes).max()) > MOST_AT_ONCE:
            return self._run_in_parts(memories, keyed)
        values = list[bytes | None]()
        for lane, (begin, end) in zip(lanes, pairwise([0, *ends]), strict=True):
            values += memories[lane].read(names[begin:end])
        layouts = (one for lane in lanes for one in memories[lane].meta.layouts)
        kept = unpacked(layout, brought(values, layouts, layout, self.lateness))
        kept, codes, order, origins = self._lives(kept, codes, keyed)
        rows = Rows(codes[order], keyed.times[order], [series.where(order) for series in keyed.series])
        results, after = advance(layout, self.features, kept, rows, self.lateness)
        made = packed(layout, after)
        for origin, value in zip(origins, made[len(names) :], strict=True):
            made[origin] = value  # of a key that was forgotten in between, what came after that
        for lane, (begin, end) in zip(lanes, pairwise([0, *ends]), strict=True):
            memories[lane].write(dict(zip(names[begin:end], made[begin:end], strict=True)), layout)
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return [_reordered(result, back) for result in results], order[rows.late]

    def _run_in_parts(self, memories: Sequence[LaneMemory], keyed: KeyedRows) -> tuple[list[Result], Ints]:
        """As `run`, so many rows after so many others."""
        begins = range(0, len(keyed.keys), MOST_AT_ONCE)
        parts = [self.run(memories, keyed.between(begin, begin + MOST_AT_ONCE)) for begin in begins]
        late = np.concatenate([own + begin for begin, (_, own) in zip(begins, parts, strict=True)])
        return [_joined(results) for results in zip(*(results for results, _ in parts), strict=True)], late

    def _lives(self, kept: Kept, codes: Ints, keyed: KeyedRows) -> tuple[Kept, Ints, Ints, list[int]]:
        """Where a key was forgotten before a row, the rows from there on are those of another one.

        What is kept of all, the number of each row's, the rows in the order of these, and of those that were added
        which key each of them is.
        """
        order = np.argsort(codes, kind="stable")
        sorted_codes = codes[order]
        segments = Segments.of(sorted_codes)
        begin = kept.clock[sorted_codes[segments.starts]]
        newest = segments.before(segments.running(np.maximum, keyed.times[order], begin), begin)
        forgotten = (newest != NEVER) & (newest < keyed.clocks[order] - self.ttl)
        if not forgotten.any():
            return kept, codes, order, []
        total = np.cumsum(forgotten)
        starts = segments.starts
        lives = total - np.repeat(total[starts] - forgotten[starts], segments.lengths)  # of each row: how often by then
        made = codes.copy()
        made[order] = np.where(lives > 0, len(kept) + total - 1, sorted_codes)
        extended = kept.extended(int(total[-1]))
        return extended, made, np.argsort(made, kind="stable"), sorted_codes[forgotten].tolist()


def _numbered(keyed: KeyedRows) -> tuple[list[int], Ints, list[bytes], list[int]]:
    """The lanes, the number of each row's key, the keys lane by lane, and where those of each lane end."""
    codes, names, ends = list[int](), list[bytes](), list[int]()
    starts = starts_of(keyed.lanes)
    bounds = [*starts.tolist(), len(keyed.keys)]
    for begin, end in pairwise(bounds):
        own = keyed.keys[begin:end]
        distinct = list(dict.fromkeys(own))
        numbers = dict(zip(distinct, count(len(names)), strict=False))
        codes += map(numbers.__getitem__, own)
        names += distinct
        ends.append(len(names))
    return keyed.lanes[starts].tolist(), np.array(codes, np.int64), names, ends


def _joined(results: Sequence[Result]) -> Result:
    capped = [one.capped for one in results if one.capped is not None]
    return Result(
        np.concatenate([one.values for one in results]),
        np.concatenate([one.missing for one in results]),
        np.concatenate(capped) if capped else None,
    )


def _reordered(result: Result, back: Ints) -> Result:
    capped = None if result.capped is None else result.capped[back]
    return Result(result.values[back], result.missing[back], capped)
