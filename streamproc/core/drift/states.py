"""What a detector knows between two batches: plain arrays that can be kept and given back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamproc.core.drift.bins import Floats
from streamproc.core.drift.panes import Counts

At: TypeAlias = tuple[int, int, int, int]
"""The fields of a ``Place``: partition, offset, time, ordinal."""


class Length(NamedTuple):
    """How long a window is: in events, or in records, whatever became of them."""

    of_records: bool
    events: int


@dataclass(slots=True)
class OpenPane:
    """The parts so far of the last pane of a partition."""

    number: int
    time: int
    rows: dict[int, Counts]
    moments: Floats


@dataclass(slots=True)
class WindowState:
    """One row's window of one length, and the CUSUMs that are fed by it.

    Arrays of shape (sides,): ``cusum``, ``level`` (of ``LEVELS``), ``quiet`` (windows since it stood at its threshold);
    ``onset`` of shape (sides, 4) has the place where each CUSUM last left zero.
    """

    counts: Counts
    events: int
    begin: At
    cusum: Floats
    level: NDArray[np.int8]
    quiet: NDArray[np.int64]
    onset: NDArray[np.int64]
    watchful: bool = False
    """Whether any level is not stable."""
    since: int = 0
    """The clock when the window began."""
    latest: int = 0
    """The time of its last pane (µs)."""


@dataclass(slots=True)
class RowState:
    """One row: its windows by length, and two blocks of recent counts, the last full one and the one that fills."""

    windows: dict[Length, WindowState]
    recent: Counts
    moments: Floats
    filling: int = 0


@dataclass(slots=True)
class DetectorState:
    """Everything that changes. ``open`` is by partition, ``rows`` by row; ``panes`` counts those that became whole, and
    ``clock`` is the latest time of any (µs).

    ``touched`` are the rows that changed since it was cleared.
    """

    panes: int = 0
    clock: int = 0
    open: dict[int, OpenPane] = field(default_factory=dict)
    rows: dict[int, RowState] = field(default_factory=dict)
    touched: set[int] = field(default_factory=set)


def merge_moments(into: Floats, more: Floats) -> None:
    """Add moments, shape (columns, 4), to others in place."""
    into[:, :2] += more[:, :2]
    np.minimum(into[:, 2], more[:, 2], out=into[:, 2])
    np.maximum(into[:, 3], more[:, 3], out=into[:, 3])
