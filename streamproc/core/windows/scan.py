"""Running values within segments of sorted rows, exactly as a loop over the rows would make them."""

from __future__ import annotations

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


def running(ufunc: np.ufunc, values: NDArray[Any], starts: Ints, begin: NDArray[Any]) -> NDArray[Any]:
    """After each row, ``ufunc`` of what the segment began with and of its rows so far, one after another.

    ``starts`` are where segments begin, ``begin`` has a value for each. Sums of floats depend on the order in which
    they are made, and so on how events fall into batches, unless it is always this one.
    """
    made = values.copy()
    made[starts] = ufunc(begin, values[starts])
    lengths = np.diff(np.append(starts, len(values)))
    longest = int(lengths.max(initial=0))
    for step in range(1, min(longest, WAVES)):
        rows = starts[lengths > step] + step
        made[rows] = ufunc(made[rows - 1], made[rows])
    if longest > WAVES:
        for place in np.flatnonzero(lengths > WAVES).tolist():
            rest = slice(int(starts[place]) + WAVES - 1, int(starts[place] + lengths[place]))
            made[rest] = ufunc.accumulate(made[rest])
    return made


def before(after: NDArray[Any], starts: Ints, begin: NDArray[Any]) -> NDArray[Any]:
    """Before each row, what ``running`` gives after the one before it in its segment."""
    shifted = np.empty_like(after)
    shifted[1:] = after[:-1]
    shifted[starts] = begin
    return shifted


def ramps(begins: Ints, counts: Ints) -> Ints:
    """``begins[i], begins[i] + 1, …``, ``counts[i]`` of them, for each i."""
    total = int(counts.sum())
    skipped = np.cumsum(counts) - counts
    return np.repeat(begins - skipped, counts) + np.arange(total)
