"""Distinct values for a batch: which there are in each row's window, exact as long as there are not too many."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamproc.core.windows.kept import Entries
from streamproc.core.windows.layout import Distinct, buckets_of
from streamproc.core.windows.rows import Rows
from streamproc.core.windows.scan import Ints, ramps

KEPT = -1
"""The row that brings what was there before the batch."""


class DistinctBatch:
    """The distinct values of a series while a batch comes: pairs of a value's hash and a bucket.

    Of a key at most ``most`` pairs count: those of the newest buckets, and within one those of the greatest hashes.
    That order does not depend on when a pair comes, so neither does what is left out.
    """

    def __init__(self, distinct: Distinct, entries: Entries, floors: Ints, rows: Rows) -> None:
        self._distinct, self._rows, self._floors = distinct, rows, floors
        self._buckets = buckets_of(distinct.unit, rows.times)
        series = rows.series[distinct.series]
        assert series.hashes is not None
        own = np.flatnonzero(series.counts)
        owners = np.concatenate([entries.owners, rows.keys[own]])
        buckets = np.concatenate([entries.buckets, self._buckets[own]])
        hashes = np.concatenate([entries.columns[0], series.hashes[own]])
        brought = np.concatenate([np.full(len(entries), KEPT), own])  # ascending: the first that brings it stays
        order = np.lexsort((buckets, hashes, owners))
        self._owners, self._pairs, self._hashes = owners[order], buckets[order], hashes[order]
        self._brought = brought[order]
        same = np.zeros(len(order), np.bool_)
        same[1:] = (
            (self._owners[1:] == self._owners[:-1])
            & (self._hashes[1:] == self._hashes[:-1])
            & (self._pairs[1:] == self._pairs[:-1])
        )
        self._owners, self._pairs = self._owners[~same], self._pairs[~same]
        self._hashes, self._brought = self._hashes[~same], self._brought[~same]

    def numbers(self, steps: int, include_self: bool) -> tuple[Ints, NDArray[np.bool_]]:
        """How many there are in each row's window, shape (rows,), and where it is only the least that there can be."""
        rows, count = self._rows, len(self._rows)
        begins = np.searchsorted(self._owners, rows.keys)
        counts = np.searchsorted(self._owners, rows.keys, side="right") - begins
        capped: NDArray[np.bool_] = self._floors[rows.keys] > self._buckets - steps
        crowded = counts > self._distinct.most
        simple = np.where(crowded, 0, counts)
        entries, of_row = ramps(begins, simple), np.repeat(np.arange(count), simple)
        chosen = self._in_window(entries, of_row, steps, include_self)
        entries, of_row = entries[chosen], of_row[chosen]
        first = np.ones(len(entries), np.bool_)
        first[1:] = (of_row[1:] != of_row[:-1]) | (self._hashes[entries[1:]] != self._hashes[entries[:-1]])
        found = np.bincount(of_row[first], minlength=count)
        for row in np.flatnonzero(crowded).tolist():
            entries = np.arange(begins[row], begins[row] + counts[row])
            entries = entries[self._brought[entries] < row + include_self]
            left_out = max(0, len(entries) - self._distinct.most)
            entries = entries[np.lexsort((self._hashes[entries], self._pairs[entries]))]
            if left_out:
                capped[row] |= self._pairs[entries[left_out - 1]] > self._buckets[row] - steps
                entries = entries[left_out:]
            inside = self._in_window(entries, np.full(len(entries), row), steps, include_self)
            found[row] = len(np.unique(self._hashes[entries[inside]]))
        return found, capped

    def _in_window(self, entries: Ints, rows: Ints, steps: int, include_self: bool) -> NDArray[np.bool_]:
        """Whether a pair is in the window of a row, and came before it, or with it."""
        newest, buckets = self._buckets[rows], self._pairs[entries]
        inside: NDArray[np.bool_] = (buckets <= newest) & (buckets > newest - steps)
        return inside & (self._brought[entries] < rows + include_self)

    def result(self, horizons: Ints) -> tuple[Entries, Ints]:
        """The pairs after the batch, of the buckets after each key's horizon, and the floors."""
        kept = self._pairs > horizons[self._owners]
        entries = Entries(self._owners, self._pairs, [self._hashes]).where(kept)
        return entries.newest(self._distinct.most, self._floors)
