"""The windows of one ``by``: rows with their keys, through the state of their lanes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from streamproc.core.windows.advance import Result, advance
from streamproc.core.windows.kept import NEVER, Kept, packed, unpacked
from streamproc.core.windows.lane import LaneMemory, key_prefix
from streamproc.core.windows.layout import Layout
from streamproc.core.windows.policy import WindowFeature
from streamproc.core.windows.rows import Rows, SeriesRows
from streamproc.core.windows.scan import Ints, before, running, starts_of


@dataclass(frozen=True, slots=True)
class KeyedRows:
    """Rows in the order of their lanes and of their arrival: the number of each one's lane, its key, its time in
    microseconds, and the newest time that its lane has seen then; one array per series."""

    lanes: Ints
    keys: list[bytes]
    times: Ints
    clocks: Ints
    series: list[SeriesRows]


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
        return cls(Layout.of(by, features), tuple(features), lateness, ttl)

    def run(self, memories: Sequence[LaneMemory], keyed: KeyedRows) -> tuple[list[Result], Ints]:
        """One result per feature and row, the numbers of those rows that are late, and the memories changed."""
        layout = self.layout
        owners, codes, names = _numbered(keyed, key_prefix(layout.by))
        values = list[bytes | None]()
        for lane, own in groupby(range(len(names)), owners.__getitem__):
            values += memories[lane].read([names[number] for number in own], layout)
        kept = unpacked(layout, values)
        order = np.argsort(codes, kind="stable")
        kept, codes, origins = self._lives(kept, codes, order, keyed)
        order = np.argsort(codes, kind="stable")
        rows = Rows(codes[order], keyed.times[order], [series.where(order) for series in keyed.series])
        results, after = advance(layout, self.features, kept, rows, self.lateness)
        made = packed(layout, after)
        last = dict(zip(origins, made, strict=True))  # of a key that was forgotten in between, what came after that
        for lane, own in groupby(range(len(names)), owners.__getitem__):
            memories[lane].write({names[number]: last[number] for number in own}, layout)
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return [_reordered(result, back) for result in results], order[rows.late]

    def _lives(self, kept: Kept, codes: Ints, order: Ints, keyed: KeyedRows) -> tuple[Kept, Ints, list[int]]:
        """Where a key was forgotten before a row, the rows from there on are those of another one.

        What is kept of all, the number of each row's, and the key that each of them is; of one key the last one counts.
        """
        sorted_codes = codes[order]
        starts = starts_of(sorted_codes)
        begin = kept.clock[sorted_codes[starts]]
        newest = before(running(np.maximum, keyed.times[order], starts, begin), starts, begin)
        forgotten = (newest != NEVER) & (newest < keyed.clocks[order] - self.ttl)
        origins = list(range(len(kept)))
        if not forgotten.any():
            return kept, codes, origins
        total = np.cumsum(forgotten)
        counts = np.diff(np.append(starts, len(order)))
        lives = total - np.repeat(total[starts] - forgotten[starts], counts)  # of each row: how often by then
        own = np.where(lives > 0, len(kept) + total - 1, sorted_codes)
        made = codes.copy()
        made[order] = own
        return kept.extended(int(total[-1])), made, origins + sorted_codes[forgotten].tolist()


def _numbered(keyed: KeyedRows, prefix: bytes) -> tuple[list[int], Ints, list[bytes]]:
    """The lane of each key, the number of each row's key, and the keys' names in the table, lane by lane."""
    owners, codes, names = list[int](), list[int](), list[bytes]()
    begin = 0
    for lane, end in zip(*_ends(keyed.lanes), strict=True):
        numbers: dict[bytes, int] = {}
        first = len(names)
        for key in keyed.keys[begin:end]:
            codes.append(numbers.setdefault(key, first + len(numbers)))
        names += [prefix + key for key in numbers]
        owners += [lane] * len(numbers)
        begin = end
    return owners, np.array(codes, np.int64), names


def _ends(lanes: Ints) -> tuple[list[int], list[int]]:
    starts = starts_of(lanes)
    return lanes[starts].tolist(), np.append(starts[1:], len(lanes)).tolist()


def _reordered(result: Result, back: Ints) -> Result:
    capped = None if result.capped is None else result.capped[back]
    return Result(result.values[back], result.missing[back], capped)
