"""Numbers, means and sums of squared deviations: of rows one after another, and of the entries of windows together.

What is put together is put together by the pairwise formula of Chan, Golub and LeVeque, Algorithms for computing the
sample variance, 1983, (2.1), with means instead of sums: equal values then have no deviation at all, and a mean that is
large beside the spread, or one value that is, costs later ones no digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamproc.core.windows.scan import Ints, Segments

Moments: TypeAlias = NDArray[np.float64]
"""Shape (3, n): how many values, their mean, and the sum of squares of their deviations from it; 0 where is nothing."""


def of_values(values: NDArray[np.float64], counts: NDArray[np.bool_]) -> Moments:
    """Each value for itself, and nothing where there is none."""
    return np.stack([counts, np.where(counts, values, 0.0), np.zeros(len(values))])


def together(first: Any, second: Any) -> tuple[Any, Any, Any]:
    """Of two that are put together, element by element."""
    (count, mean, deviations), (more, other, own) = first, second
    total = count + more
    share = more / (total + (total == 0))
    apart = other - mean
    return total, mean + apart * share, deviations + own + apart * (count * share) * apart


def running(segments: Segments, own: Moments, begin: Moments) -> Moments:
    """After each row, what its segment began with and its rows so far, one after another."""
    made = own.copy()
    made[:, segments.starts] = together(begin, own[:, segments.starts])
    for rows in segments.waves:
        made[:, rows] = together(made[:, rows - 1], own[:, rows])
    for rest in segments.rests:
        made[:, rest] = _one_by_one(made[:, rest])
    return made


def _one_by_one(rows: Moments) -> Moments:
    """`together`, written out, along a long segment, whose first row has what went before: a loop is quicker."""
    counts, values, all_deviations = rows.tolist()
    count, mean, deviations = counts[0], values[0], all_deviations[0]
    for place in range(1, len(counts)):
        more, apart = counts[place], values[place] - mean
        total = count + more
        share = more / (total or 1.0)
        deviations += apart * (count * share) * apart
        mean += apart * share
        count = total
        counts[place], values[place], all_deviations[place] = count, mean, deviations
    return np.array([counts, values, all_deviations])


def by_window(entries: Sequence[NDArray[Any]], counts: Ints) -> Moments:
    """Of each window its ``counts[i]`` entries, which stand one behind another, all at once.

    The formula for pairs, for many: the squares of the means' distances from the common one, times the numbers of
    values, come on top of the deviations. Distances are taken from the first mean, so that equal ones have none. Pair
    after pair would cost the stage of windows twice its time.
    """
    some = entries[0] > 0
    if not some.all():
        before = np.concatenate([[0], np.cumsum(some)])
        ends = np.cumsum(counts)
        entries, counts = [part[some] for part in entries], before[ends] - before[ends - counts]
    made = np.zeros((3, len(counts)))
    there = np.flatnonzero(counts)
    if not len(there):
        return made
    own = counts[there]
    begins = np.cumsum(own) - own
    number, means, deviations = entries[0].astype(np.float64), *entries[1:]
    total = np.add.reduceat(number, begins)
    apart = means - np.repeat(means[begins], own)
    middle = np.add.reduceat(number * apart, begins) / total
    apart -= np.repeat(middle, own)
    made[:, there] = total, means[begins] + middle, np.add.reduceat(deviations + number * apart * apart, begins)
    return made
