"""The state of many keys at once: columns of entries, to and from the values of the lane's table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from streamproc.core.windows.layout import EVER, HEAD, MOST_NARROW, WORD, Layout, Level, buckets_of
from streamproc.core.windows.scan import Ints, ramps

NEVER: Final = np.iinfo(np.int64).min
"""The newest time of a key that never was, and the floor of a list that is whole."""
_ID: Final = 0xFFFF_FFFF
CUT: Final = 1
"""The flag of a value that has floors."""


@dataclass(slots=True)
class Entries:
    """Entries of many keys, by key and then by bucket (for distinct values, then by hash).

    ``owners`` are the numbers of the keys, ``columns`` one array per column of the level, all of shape (n,).
    """

    owners: Ints
    buckets: Ints
    columns: list[NDArray[Any]]

    def __len__(self) -> int:
        return len(self.owners)

    def where(self, kept: NDArray[Any]) -> Entries:
        """Those of a mask, or at positions."""
        return Entries(self.owners[kept], self.buckets[kept], [column[kept] for column in self.columns])

    def newest(self, most: int, floors: Ints) -> tuple[Entries, Ints]:
        """At most so many of each key, those of the newest buckets, and within one those with the greatest of the first
        column; and the floors, shape (keys,), with what is cut off."""
        counts = np.bincount(self.owners, minlength=len(floors))
        if int(counts.max(initial=0)) <= most:
            return self, floors
        from_end = np.repeat(np.cumsum(counts), counts) - np.arange(len(self))
        cut = np.zeros(len(self), np.bool_)
        cut[np.lexsort((self.columns[0], self.buckets, self.owners))] = from_end > most
        floors = floors.copy()
        np.maximum.at(floors, self.owners[cut], self.buckets[cut])
        return self.where(~cut), floors


@dataclass(slots=True)
class Kept:
    """What is kept of n keys. ``clock``: their newest times; ``floors``, shape (n, lists): the newest bucket of which
    anything was cut off."""

    clock: Ints
    floors: Ints
    levels: list[Entries]
    distincts: list[Entries]

    def __len__(self) -> int:
        return len(self.clock)

    def extended(self, count: int) -> Kept:
        """With so many keys more, of which nothing is kept."""
        return Kept(
            np.concatenate([self.clock, np.full(count, NEVER)]),
            np.vstack([self.floors, np.full((count, self.floors.shape[1]), NEVER)]),
            self.levels,
            self.distincts,
        )


def empty(layout: Layout, count: int) -> Kept:
    """Nothing of so many keys."""
    none = np.zeros(0, np.int64)
    return Kept(
        np.full(count, NEVER),
        np.full((count, layout.lists), NEVER),
        [Entries(none, none, [np.zeros(0, in_memory(one.dtype)) for one in lv.columns]) for lv in layout.levels],
        [Entries(none, none, [np.zeros(0, np.uint64)]) for _ in layout.distincts],
    )


def horizons(clock: Ints, lateness: int, unit: int, steps: int) -> Ints:
    """The newest bucket of each key that no window reaches any more."""
    if unit == EVER:
        return np.full(len(clock), NEVER)
    known = clock != NEVER
    return np.where(known, (np.where(known, clock, 0) - lateness) // unit - steps, NEVER)


def in_memory(dtype: str) -> Any:
    """The type of a column to compute with."""
    return np.int64 if dtype == "<u4" else np.dtype(dtype)


@dataclass(frozen=True, slots=True)
class Values:
    """Values of the lane's table in one piece: value ``rows[i]`` of ``count`` begins at word ``at[i]``."""

    count: int
    rows: Ints
    words: Ints
    at: Ints

    @classmethod
    def of(cls, values: Sequence[bytes | None]) -> Values:
        """Values, ``None`` where there is none."""
        there = [value for value in values if value is not None]
        rows = np.arange(len(values))
        if len(there) < len(values):
            rows = np.flatnonzero(np.array([value is not None for value in values], np.bool_))
        lengths = np.fromiter(map(len, there), np.int64, len(there)) // WORD
        return cls(len(values), rows, np.frombuffer(b"".join(there), "<i8"), np.cumsum(lengths) - lengths)

    @property
    def layouts(self) -> Ints:
        """The number of each one's layout."""
        ids: Ints = self.words[self.at] & _ID
        return ids


def unpacked(layout: Layout, values: Values) -> Kept:
    """What is kept of keys, from their values, all of this layout."""
    kept = empty(layout, values.count)
    rows, words, at = values.rows, values.words, values.at
    if not len(rows):
        return kept
    cut = (words[at] >> 32) & CUT != 0
    kept.clock[rows] = words[at + 1]
    at = at + HEAD
    counts = _block(words, at, layout.counts_words).view("<u2").reshape(len(rows), -1).astype(np.int64)
    at = at + layout.counts_words + layout.shifts
    if cut.any():
        kept.floors[rows[cut]] = _block(words, at[cut], layout.lists).reshape(-1, layout.lists)
        at = at + np.where(cut, layout.lists, 0)
    for number, level in enumerate(layout.levels):
        own = counts[:, number]
        entries = _entries(level, words, rows, at, own)
        entries.buckets = buckets_of(level.unit, kept.clock)[entries.owners] - entries.buckets
        kept.levels[number] = entries
        at = at + own * level.words
    for number in range(len(layout.distincts)):
        own = counts[:, len(layout.levels) + number]
        pairs = words[ramps(at, 2 * own)].reshape(-1, 2)
        hashes = np.ascontiguousarray(pairs[:, 1]).view(np.uint64)
        kept.distincts[number] = Entries(np.repeat(rows, own), np.ascontiguousarray(pairs[:, 0]), [hashes])
        at = at + 2 * own
    return kept


def _block(words: Ints, at: Ints, count: int) -> Ints:
    """``count`` words from each place, one behind another."""
    block: Ints = words[(at[:, None] + np.arange(count)).reshape(-1)]
    return block


def _entries(level: Level, words: Ints, rows: Ints, at: Ints, counts: Ints) -> Entries:
    """As they stand there: the buckets are distances from the newest one of the key."""
    records = words[ramps(at, counts * level.words)].view(level.dtype)
    columns = [records[str(number)].astype(in_memory(one.dtype)) for number, one in enumerate(level.columns)]
    return Entries(np.repeat(rows, counts), records["bucket"].astype(np.int64), columns)


def packed(layout: Layout, kept: Kept) -> list[bytes]:
    """The values of keys."""
    total = len(kept)
    lists = [*kept.levels, *kept.distincts]
    counts = np.stack([np.bincount(one.owners, minlength=total) for one in lists], axis=1)
    sizes = np.array([*(level.words for level in layout.levels), *(2 for _ in layout.distincts)], np.int64)
    cut = (kept.floors != NEVER).any(axis=1)
    head = HEAD + layout.counts_words
    lengths = head + np.where(cut, layout.lists, 0) + counts @ sizes
    ends = np.cumsum(lengths)
    at = ends - lengths
    words = np.zeros(int(ends[-1]) if total else 0, np.int64)
    words[at] = layout.id | np.where(cut, CUT, 0) << 32
    words[at + 1] = kept.clock
    small = np.zeros((total, layout.counts_words * WORD // 2), "<u2")
    small[:, : layout.lists] = counts
    words[at[:, None] + np.arange(HEAD, head)] = small.view("<i8")
    at = at + head
    if cut.any():
        words[at[cut][:, None] + np.arange(layout.lists)] = kept.floors[cut]
        at = at + np.where(cut, layout.lists, 0)
    for number, entries in enumerate(lists):
        size, own_counts = int(sizes[number]), counts[:, number]
        if number < len(layout.levels):
            records = _level_words(layout.levels[number], entries, kept.clock)
        else:
            records = _pairs(entries)
        words[ramps(at, own_counts * size)] = records
        at = at + own_counts * size
    raw, places = words.tobytes(), (ends * WORD).tolist()
    return [raw[begin:end] for begin, end in zip([0, *places], places, strict=False)]


def _level_words(level: Level, entries: Entries, clock: Ints) -> Ints:
    records = np.zeros(len(entries), level.dtype)
    distances = buckets_of(level.unit, clock)[entries.owners] - entries.buckets
    if level.narrow and len(distances) and not 0 <= int(distances.min()) <= int(distances.max()) < MOST_NARROW:
        raise AssertionError("an entry that no window reaches was to be kept: in 4 bytes it would come back as another")
    records["bucket"] = distances
    for number, column in enumerate(entries.columns):
        records[str(number)] = column
    return records.view("<i8").reshape(-1)


def _pairs(entries: Entries) -> Ints:
    return np.stack([entries.buckets, entries.columns[0].view(np.int64)], axis=1).reshape(-1)
