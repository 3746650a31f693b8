"""The events of a batch as windows see them: by key, in the order in which they came."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamproc.core.windows.scan import Ints

Mask = NDArray[np.bool_]


@dataclass(slots=True)
class SeriesRows:
    """One series of the rows: ``counts`` says where it has a value, which stands in ``numbers`` (0 elsewhere), or
    in ``hashes`` where distinct ones are counted."""

    counts: Mask
    numbers: NDArray[np.float64]
    hashes: NDArray[np.uint64] | None = None

    def where(self, order: NDArray[Any] | slice) -> SeriesRows:
        """The rows at positions, or of a slice."""
        hashes = None if self.hashes is None else self.hashes[order]
        return SeriesRows(self.counts[order], self.numbers[order], hashes)


@dataclass
class Rows:
    """Rows of shape (n,), by key, and of one key in the order in which they came.

    ``keys`` are the numbers of their keys in what is kept, ``times`` in microseconds since the epoch. ``late`` ones are
    too old for their windows to be known.
    """

    keys: Ints
    times: Ints
    series: list[SeriesRows]
    late: Mask = field(default_factory=lambda: np.zeros(0, np.bool_))

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def in_time(self) -> Ints:
        """The rows in the order of time, and those of one time in the order in which they came."""
        return np.argsort(self.times, kind="stable")

    @cached_property
    def ranks(self) -> Ints:
        """The place of each row in that order."""
        places = np.empty(len(self), np.int64)
        places[self.in_time] = np.arange(len(self))
        return places
