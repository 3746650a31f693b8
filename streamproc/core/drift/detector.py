"""The detector: panes in, changes of monitors out.

Windows are made of whole panes in the order in which they become whole. So what comes out depends on the panes alone,
and neither on how batches cut them nor on how often the detector was stopped and continued.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamproc.core.drift.baseline import EVERYTHING, PANE, Baseline, Monitor
from streamproc.core.drift.bins import Bins, Floats
from streamproc.core.drift.panes import Counts, Layout, Panes, known_time, no_moments
from streamproc.core.drift.season import COEFFICIENTS, RowSeason
from streamproc.core.drift.states import At, DetectorState, Length, OpenPane, RowState, WindowState, merge_moments
from streamproc.core.drift.tests import Tests
from streamproc.core.drift.windows import KINDS, Judged, Ticks, WholePane, judge, kind

Level: TypeAlias = Literal["stable", "warning", "drifting"]
LEVELS: tuple[Level, ...] = ("stable", "warning", "drifting")
STABLE, WARNING, DRIFTING = 0, 1, 2

WARN_NO_MORE = 0.375
"""The part of its threshold at which a monitor stops to warn."""
DECISIONS = ("decision", "would_be")
"""Columns that say what was decided."""
RECENT = 256
"""What "now" looks like is told from the last one to two times so many events."""


@dataclass(frozen=True, slots=True)
class Place:
    """A pane in the input: its partition and first offset, its latest event time in µs since the epoch.

    ``ordinal`` is its number among all panes that became whole.
    """

    partition: int
    offset: int
    time: int
    ordinal: int


Trace: TypeAlias = "Callable[[Tests, Floats, Place], None]"
"""Told of every window that was judged: its tests, the statistic of each side, and where it ended."""


@dataclass(frozen=True, slots=True)
class Change:
    """A monitor went from one level to another, at the end of a window.

    ``statistic`` and ``threshold`` are of the side that stands highest. ``onset`` is where that CUSUM last left zero,
    the estimate of when it began; ``window`` is where the window began, ``end`` where it ended. ``recent`` are the
    row's counts of the last events, shape (width of the column,), and ``moments`` theirs, of numeric columns of all
    events.
    """

    monitor: int
    before: Level
    after: Level
    direction: str
    statistic: float
    threshold: float
    onset: Place
    window: Place
    end: Place
    recent: Counts
    moments: Floats | None
    decided: Mapping[str, Counts] = field(default_factory=dict)
    """The recent counts of all events in the columns that say what was decided."""


class Detector:
    """Judges the monitors of a baseline, or those of some of its columns. ``recover`` is in windows.

    ``judged`` counts the windows, for people: those that were full, thin ones that were judged when they had grown too
    old, and those that then had too few events.
    """

    def __init__(
        self,
        baseline: Baseline,
        *,
        bins: tuple[Bins, ...] | None = None,
        recover: int = 20,
        trace: Trace | None = None,
    ) -> None:
        self.baseline, self.layout, self._recover, self._trace = baseline, Layout.of(baseline, bins), recover, trace
        self._decisions = {name: self.layout.inside(name) for name in DECISIONS if name in self.layout.places}
        by_row = dict[int, dict[Length, list[tuple[int, Monitor]]]]()
        for number, monitor in enumerate(baseline.monitors):
            if monitor.fit is not None and monitor.column in self.layout.places:
                length = Length(monitor.column in baseline.record_columns, monitor.window)
                by_row.setdefault(monitor.row, {}).setdefault(length, []).append((number, monitor))
        self.tests: dict[int, dict[Length, Tests]] = {
            row: {length: Tests(self.layout, by_length[length], baseline.thresholds) for length in sorted(by_length)}
            for row, by_length in by_row.items()
        }
        self._seasons = {row: _season(baseline, self.layout, row) for row in self.tests}
        self._of_records = np.array([column.name in baseline.record_columns for column in self.layout.bins])
        self.sides_of = _sides_of(self.tests)
        self.judged = dict.fromkeys(KINDS, 0)

    def take(self, state: DetectorState, *parts: Panes) -> list[Change]:
        """Add parts of panes to the state, one after another, and say what changed."""
        by_row, places, clocks = dict[int, list[WholePane]](), list[At](), list[int]()
        for part in parts:
            for pane in self._whole(state, part):
                time, of_event = known_time(pane.time)
                place = part.partition, pane.number * PANE, time, state.panes
                state.panes += 1
                state.clock = max(state.clock, time) if of_event else state.clock
                places.append(place)
                clocks.append(state.clock)
                for row, counts in pane.rows.items():
                    if row in self.tests:
                        by_row.setdefault(row, []).append(WholePane(place, state.clock, counts, pane.moments))
        ticks = Ticks(places, clocks, self.baseline.max_age)
        if ticks.max_age is not None:  # a window may grow too old while nothing comes for it
            by_row = dict.fromkeys(state.rows, ()) | by_row  # type: ignore[assignment]
        found, decided = list[tuple[int, Change]](), dict[int, Mapping[str, Counts]]()
        for row, its in sorted(by_row.items()):  # everything before the segments, whose changes tell of it
            held = state.rows.get(row)
            if held is None:
                held = state.rows[row] = self._new_row(row)
            elif not its and not any(one.events and ticks.end(one.since) for one in held.windows.values()):
                continue
            state.touched.add(row)
            found += ((row, change) for change in self._add(row, held, its, ticks, decided))
        found.sort(key=lambda one: (one[1].end.ordinal, one[0]))
        return [replace(change, decided=decided.get(change.end.ordinal, {})) for _, change in found]

    def statistics(self, state: DetectorState) -> Iterator[tuple[int, float]]:
        """Each monitor's number and its statistic as a part of its threshold, of the side that stands highest."""
        for row, held in list(state.rows.items()):
            for length, its in held.windows.items():
                tests, cusum = self.tests[row][length], its.cusum
                parts = (cusum / tests.threshold).tolist()
                highest = dict[int, float]()
                for side, part in zip(tests.sides, parts, strict=True):
                    highest[side.monitor] = max(part, highest.get(side.monitor, 0.0))
                yield from highest.items()

    def without_season(self, change: Change) -> Counts:
        """The recent counts of a change as they would be without the season, shape (width of the column,)."""
        monitor = self.baseline.monitors[change.monitor]
        season = self._seasons[monitor.row]
        if season is None:
            return change.recent
        inside = self.layout.inside(monitor.column)
        [deviations] = season.deviations([(change.window.time, change.end.time)])
        left = np.rint(change.recent - change.recent.sum() * deviations[inside])
        counts: Counts = np.maximum(left, 0.0).astype(np.int64)
        return counts

    def _whole(self, state: DetectorState, panes: Panes) -> Iterator[OpenPane]:
        """Panes that have all of their events, in their order; the last one stays open until it has."""
        lines = np.searchsorted(panes.pane_of, np.arange(len(panes.panes) + 1)).tolist()
        held = state.open.get(panes.partition)
        for place, number in enumerate(panes.panes.tolist()):
            if held is not None and held.number != number:
                yield held
                held = None
            if held is None:
                held = OpenPane(number, int(panes.times[place]), {}, no_moments(len(self.layout.numeric)))
            held.time = max(held.time, int(panes.times[place]))
            merge_moments(held.moments, panes.moments[place])
            for line in range(lines[place], lines[place + 1]):
                row = int(panes.rows[line])
                there = held.rows.get(row)
                held.rows[row] = panes.counts[line] if there is None else there + panes.counts[line]
        if held is not None and panes.next >= (held.number + 1) * PANE:
            yield held
            held = None
        if held is not None:
            state.open[panes.partition] = held
        else:
            state.open.pop(panes.partition, None)

    def _new_row(self, row: int) -> RowState:
        width = self.layout.width
        windows = {length: _new_window(tests, width) for length, tests in self.tests[row].items()}
        moments = no_moments(2, len(self.layout.numeric) if row == EVERYTHING else 0)
        return RowState(windows, np.zeros((2, width), np.int64), moments)

    def _add(
        self,
        row: int,
        held: RowState,
        panes: Sequence[WholePane],
        ticks: Ticks,
        decided: dict[int, Mapping[str, Counts]],
    ) -> Iterator[Change]:
        """The panes go into the row's windows; those that are over are judged together, and then one after another.

        ``decided`` is filled in by pane where the row is that of everything.
        """
        counts = np.array([pane.counts for pane in panes], np.int64).reshape(len(panes), self.layout.width)
        sums = np.add.reduceat(counts, self.layout.starts, axis=1)
        every = sums.max(axis=1).tolist()
        of = {kind: sums[:, self._of_records == kind].max(axis=1, initial=0).tolist() for kind in (False, True)}
        ends = dict[int, list[tuple[Tests, WindowState, Judged]]]()
        for length, tests in self.tests[row].items():
            its = held.windows[length]
            season = None if length.of_records else self._seasons[row]
            for judged in judge(tests, its, length.events, panes, counts, of[length.of_records], season, ticks):
                self.judged[kind(judged.events, length.events)] += 1
                ends.setdefault(judged.last, []).append((tests, its, judged))
        for number in range(-1, len(panes)):  # before the first pane some may have grown too old
            if number >= 0:
                self._recently(row, held, panes[number], every[number], decided)
            for tests, its, judged in ends.get(number, ()):
                old, statistic = self._step(tests, its, judged)
                if self._trace is not None:
                    self._trace(tests, statistic, Place(*judged.end))
                if old is not None:
                    moved = np.flatnonzero(old != its.level).tolist()
                    yield from self._changes(held, tests, its, judged, old, moved, statistic, judged.end)

    def _recently(
        self, row: int, held: RowState, pane: WholePane, events: int, decided: dict[int, Mapping[str, Counts]]
    ) -> None:
        """Blocks change with the pane after a full one, so what is judged between two panes sees the same recent
        events wherever batches were cut."""
        if held.filling >= RECENT:
            held.recent[0], held.recent[1], held.filling = held.recent[1], 0, 0
            held.moments[0], held.moments[1] = held.moments[1], no_moments(held.moments.shape[1])
        held.recent[1] += pane.counts
        held.filling += events
        if row == EVERYTHING:
            merge_moments(held.moments[1], pane.moments)
            if self._decisions:
                own = {name: held.recent[:, at].sum(axis=0) for name, at in self._decisions.items()}
                decided[pane.place[3]] = own

    def _step(self, tests: Tests, its: WindowState, judged: Judged) -> tuple[NDArray[np.int8] | None, Floats]:
        """Feed one window to the CUSUMs. The levels before, where any of them changed, and the statistics."""
        before = its.cusum
        after = np.maximum(before + judged.steps, 0.0)
        started = (before == 0.0) & (after > 0.0)
        if started.any():
            its.onset[started] = judged.begin
        its.cusum = np.minimum(after, tests.threshold)
        if not its.watchful and not (after > tests.warning).any():
            return None, after
        over = after > tests.threshold
        its.quiet = np.where(over, 0, np.minimum(its.quiet + 1, self._recover))
        level = its.level.copy()
        level[(level == STABLE) & (after > tests.warning)] = WARNING
        level[(level == WARNING) & (after < WARN_NO_MORE * tests.threshold)] = STABLE
        level[over] = DRIFTING
        level[(level == DRIFTING) & (its.cusum == 0.0) & (its.quiet >= self._recover)] = STABLE
        old, its.level, its.watchful = its.level, level, bool(level.any())
        return (None if np.array_equal(old, level) else old), after

    def _changes(
        self,
        held: RowState,
        tests: Tests,
        its: WindowState,
        judged: Judged,
        old: NDArray[np.int8],
        moved: Sequence[int],
        statistic: Floats,
        end: At,
    ) -> Iterator[Change]:
        for number in dict.fromkeys(tests.sides[side].monitor for side in moved):
            sides = self.sides_of[number]
            was, now = max(int(old[side]) for side in sides), max(int(its.level[side]) for side in sides)
            if was == now:
                continue
            highest = max(
                sides,
                key=lambda side: (
                    max(int(old[side]), int(its.level[side])),
                    float(statistic[side] / tests.threshold[side]),
                ),
            )
            monitor = self.baseline.monitors[number]
            recent = held.recent.sum(axis=0)[self.layout.inside(monitor.column)]
            yield Change(
                number,
                LEVELS[was],
                LEVELS[now],
                tests.sides[highest].direction,
                float(statistic[highest]),
                float(tests.threshold[highest]),
                Place(*its.onset[highest].tolist()),
                Place(*judged.begin),
                Place(*end),
                recent,
                self._moments(held, monitor.column),
            )

    def _moments(self, held: RowState, column: str) -> Floats | None:
        for place, numeric in enumerate(self.layout.numeric):
            if numeric.name == column and held.moments.shape[1]:
                both: Floats = held.moments[0, place].copy()
                merge_moments(both[None], held.moments[1, place][None])
                return both
        return None


def _new_window(tests: Tests, width: int) -> WindowState:
    sides = len(tests.sides)
    return WindowState(
        np.zeros(width, np.int64),
        0,
        (0, 0, 0, 0),
        np.zeros(sides),
        np.zeros(sides, np.int8),
        np.zeros(sides, np.int64),
        np.zeros((sides, 4), np.int64),
    )


def _season(baseline: Baseline, layout: Layout, row: int) -> RowSeason | None:
    """The season of a row's counts, 0 in columns that have none."""
    if baseline.season is None:
        return None
    waves = np.zeros((COEFFICIENTS, layout.width))
    for column in layout.bins:
        own = baseline.season.waves.get(column.name, ())
        if own and own[row]:
            waves[:, layout.inside(column.name)] = own[row]
    return RowSeason(baseline.season.period, waves)


def _sides_of(tests: dict[int, dict[Length, Tests]]) -> dict[int, list[int]]:
    """The places of each monitor's sides in the arrays of its row and window."""
    places = dict[int, list[int]]()
    for by_length in tests.values():
        for its in by_length.values():
            for place, side in enumerate(its.sides):
                places.setdefault(side.monitor, []).append(place)
    return places
