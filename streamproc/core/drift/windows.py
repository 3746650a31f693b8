"""Windows: whole panes of one row, one after another, until they are full or too old; then they are judged."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from streamproc.core.drift.bins import Floats
from streamproc.core.drift.panes import Counts
from streamproc.core.drift.season import RowSeason
from streamproc.core.drift.states import At, WindowState
from streamproc.core.drift.tests import FEWEST, Tests

ENOUGH = 0.75
"""A window is full with this part of its events: transaction markers and dead letters take offsets too."""
Kind: TypeAlias = Literal["full", "thin", "insufficient"]
KINDS: tuple[Kind, ...] = ("full", "thin", "insufficient")
"""What a window is judged as: where it is not full it has grown too old, and has enough events for that or not."""


@dataclass(frozen=True, slots=True)
class WholePane:
    """One row of a whole pane. ``clock`` is the latest time of all panes up to it (µs)."""

    place: At
    clock: int
    counts: Counts
    moments: Floats


@dataclass(frozen=True, slots=True)
class Ticks:
    """Whole panes one after another, whatever rows they have: when windows are too old. Clocks do not go back."""

    places: Sequence[At]
    clocks: Sequence[int]
    max_age: int | None
    """In µs."""

    def end(self, since: int) -> At | None:
        """The first pane by which a window that began then is too old; ``None`` where none is."""
        if self.max_age is None or not self.clocks or self.clocks[-1] <= since + self.max_age:
            return None
        return self.places[bisect_right(self.clocks, since + self.max_age)]


@dataclass(frozen=True, slots=True)
class Judged:
    """A window that is over: where it began and ended, the number of its row's last pane before that, its events, and
    what it adds to each CUSUM, shape (sides,)."""

    begin: At
    end: At
    last: int
    events: int
    steps: Floats


def judge(
    tests: Tests,
    its: WindowState,
    window: int,
    panes: Sequence[WholePane],
    counts: Counts,
    events: Sequence[int],
    season: RowSeason | None,
    ticks: Ticks,
) -> list[Judged]:
    """The windows that these panes fill, and those that grow too old, judged; what is left over stays in the state.

    ``counts`` has shape (panes, width). A ``season`` is taken out between the times of a window's first and last pane.
    """
    over = list[_Over]()
    begin, since, latest, held = its.begin, its.since, its.latest, its.events
    for number, pane in enumerate(panes):
        if held and (old := ticks.end(since)) is not None and old[3] <= pane.place[3]:
            over.append(_Over(begin, old, latest, number, held))
            held = 0
        if not held:
            begin, since = pane.place, pane.clock
        held += events[number]
        latest = pane.place[2]
        if held >= ENOUGH * window:
            over.append(_Over(begin, pane.place, latest, number + 1, held))
            held = 0
    if held and (old := ticks.end(since)) is not None:
        over.append(_Over(begin, old, latest, len(panes), held))
        held = 0
    upto = np.concatenate([np.zeros((1, counts.shape[1]), np.int64), np.cumsum(counts, axis=0)])
    edges = [0, *(one.panes for one in over), len(panes)]
    sums = upto[edges[1:]] - upto[edges[:-1]]
    sums[0] += its.counts
    its.events, its.begin, its.since, its.latest, its.counts = held, begin, since, latest, sums[-1]
    if not over:
        return []
    deviations = None if season is None else season.deviations([(one.begin[2], one.latest) for one in over])
    steps = tests.steps(sums[:-1], deviations)
    return [Judged(one.begin, one.end, one.panes - 1, one.events, own) for one, own in zip(over, steps, strict=True)]


class _Over(NamedTuple):
    """A window that is over: its first pane, the pane that ended it, the time of its last one, how many of the row's
    panes came before its end, and its events."""

    begin: At
    end: At
    latest: int
    panes: int
    events: int


def kind(events: int, window: int) -> Kind:
    """What a window was judged as."""
    if events >= ENOUGH * window:
        return "full"
    return "thin" if events >= FEWEST else "insufficient"
