"""Running values within segments of sorted rows, exactly as a loop over the rows would make them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
WAVES: Final = 16


def starts_of(sorted_codes: Ints) -> Ints:
    """Where the segments of equal codes begin."""
    if not len(sorted_codes):
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.concatenate([[True], sorted_codes[1:] != sorted_codes[:-1]]))


@dataclass(frozen=True)
class Segments:
    """Sorted rows with equal codes belong together: where each segment begins, and how many rows there are."""

    starts: Ints
    count: int

    @classmethod
    def of(cls, sorted_codes: Ints) -> Segments:
        """The segments of rows that are in the order of their codes."""
        return cls(starts_of(sorted_codes), len(sorted_codes))

    @cached_property
    def lengths(self) -> Ints:
        """The rows of each."""
        return np.diff(np.append(self.starts, self.count))

    @cached_property
    def lasts(self) -> Ints:
        """The last row of each."""
        return np.append(self.starts[1:], self.count)[: len(self.starts)] - 1

    @cached_property
    def of_rows(self) -> Ints:
        """The number of each row's segment."""
        return np.repeat(np.arange(len(self.starts)), self.lengths)

    @cached_property
    def waves(self) -> list[Ints]:
        """The second rows of all segments that have one, then the third ones, and so on to a bound."""
        longest = min(int(self.lengths.max(initial=0)), WAVES)
        return [self.starts[self.lengths > step] + step for step in range(1, longest)]

    @cached_property
    def rests(self) -> list[slice]:
        """Where segments are long, their rows from the last wave on."""
        ends = self.starts + self.lengths
        places = np.flatnonzero(self.lengths > WAVES).tolist()
        return [slice(int(self.starts[place]) + WAVES - 1, int(ends[place])) for place in places]

    def running(self, ufunc: np.ufunc, values: NDArray[Any], begin: NDArray[Any]) -> NDArray[Any]:
        """After each row, ``ufunc`` of what its segment began with and of its rows so far, one after another.

        ``begin`` has a value for each segment. Sums of floats depend on the order in which they are made, and so on how
        events fall into batches, unless it is always this one.
        """
        made = values.copy()
        made[self.starts] = ufunc(begin, values[self.starts])
        for rows in self.waves:
            made[rows] = ufunc(made[rows - 1], made[rows])
        for rest in self.rests:
            made[rest] = ufunc.accumulate(made[rest])
        return made

    def before(self, after: NDArray[Any], begin: NDArray[Any]) -> NDArray[Any]:
        """Before each row, what ``running`` gives after the one before it in its segment."""
        shifted = np.empty_like(after)
        shifted[1:] = after[:-1]
        shifted[self.starts] = begin
        return shifted


def ramps(begins: Ints, counts: Ints) -> Ints:
    """``begins[i], begins[i] + 1, …``, ``counts[i]`` of them, for each i."""
    total = int(counts.sum())
    skipped = np.cumsum(counts) - counts
    return np.repeat(begins - skipped, counts) + np.arange(total)
