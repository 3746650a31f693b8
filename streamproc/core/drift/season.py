"""A declared period: how the shares of bins rise and fall within it, and what is left of counts without that.

The share of bin j that is expected at phase t, a part of the period, is p_j + d_j(t): the bin's share in the whole
reference, and a deviation d_j(t) = c_j + sum over h = 1, 2 of a_jh cos(2 pi h t) + b_jh sin(2 pi h t). It is fitted by
least squares to the indicator of each bin among the reference's events (harmonic regression), so it is linear: it sums
to zero over the bins, and over the reference's events. Detectors know the times of panes alone, so an event's phase is
that of its pane in calibration too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from streamproc.core.drift.bins import Codes, Floats

HARMONICS = 2
COEFFICIENTS = 1 + 2 * HARMONICS
FEWEST_PERIODS = 2
"""In the reference: what comes once might be no rhythm."""
FEWEST_PANES = 20
"""In a period: the phase of a pane, whose time is that of its latest event, is off by up to one of these parts."""
THIN = 0.02
"""Combinations of harmonics that the reference's phases show less than this part of others are left out."""
DECIMALS = 9

Waves = Sequence[Sequence[float]]
"""Coefficients by harmonic (constant, cos, sin, cos, sin) and bin; empty where there are none."""


@dataclass(frozen=True, slots=True)
class Season:
    """The ``period``, in µs, and the ``waves`` of each column by row. Columns of records have none."""

    period: int
    waves: Mapping[str, Sequence[Waves]]


@dataclass(frozen=True, slots=True)
class RowSeason:
    """The season of a row of counts; ``waves`` have shape (5, width)."""

    period: int
    waves: Floats

    def deviations(self, spans: Sequence[tuple[int, int]]) -> Floats:
        """What windows from one pane's time to another's (µs) are expected to add to shares, shape (windows, width).

        Term by term, not as a product of matrices: so the last bit does not depend on how many windows there are.
        """
        phases = np.array([phase(begin, end, self.period) for begin, end in spans])
        found: Floats = phases[:, 0, None] * self.waves[0]
        for number in range(1, COEFFICIENTS):
            found += phases[:, number, None] * self.waves[number]
        return found


def phase(begin: int, end: int, period: int) -> list[float]:
    """1 and the harmonics (cos, sin, cos, sin) in the middle between two times, as their mean over that time is.

    The mean of cos x over a width of w is its value in the middle times sin(w / 2) / (w / 2). Times are in µs.
    """
    middle = 2 * math.pi * ((begin + end) // 2 % period) / period
    half = math.pi * (end - begin) / period
    found = [1.0]
    for h in range(1, HARMONICS + 1):
        less = math.sin(h * half) / (h * half) if half else 1.0
        found += [less * math.cos(h * middle), less * math.sin(h * middle)]
    return found


def phases_of(times: Codes, period: timedelta, pane: int) -> Floats:
    """The phase of each event's pane, shape (n, 5). ``times`` (µs) are in order, ``pane`` events make one.

    Raises ValueError where the times cover less than two periods, or a period has too few panes.
    """
    length, n = round(period / timedelta(microseconds=1)), len(times)
    periods = (int(times.max()) - int(times.min())) / length * n / max(n - 1, 1)  # the last event has its share too
    if periods < FEWEST_PERIODS:
        raise ValueError(f"it covers {periods:.1f} periods of the season, and {FEWEST_PERIODS} are needed")
    if n < FEWEST_PANES * pane * periods:
        each = n / periods
        raise ValueError(f"it has {each:,.0f} events in a period of the season, and {FEWEST_PANES * pane:,} are needed")
    latest = np.maximum.reduceat(times, np.arange(0, n, pane)).tolist()
    return np.array([phase(time, time, length) for time in latest])[np.arange(n) // pane]


@dataclass(frozen=True, slots=True)
class Regression:
    """Least squares on the harmonics at some events. ``phases`` have shape (n, 5); ``centred``, (n, 4), mean 0."""

    phases: Floats
    centred: Floats
    inverse: Floats

    @classmethod
    def of(cls, phases: Floats) -> Regression:
        """The regression at these phases."""
        centred = phases[:, 1:] - phases[:, 1:].mean(axis=0)
        gram = centred.T @ centred / len(phases)
        return cls(phases, centred, np.linalg.pinv(gram, rcond=THIN, hermitian=True))

    def waves(self, codes: Codes, size: int) -> Floats:
        """The coefficients of each bin, shape (5, size), given the bin of each event."""
        n = len(codes)
        together = [np.bincount(codes, weights=column, minlength=size) / n for column in self.centred.T]
        slopes = self.inverse @ np.array(together)
        constant = -self.phases[:, 1:].mean(axis=0) @ slopes
        waves: Floats = np.round(np.vstack([constant, slopes]), DECIMALS) + 0.0  # no -0.0
        return waves

    def smooth(self, values: Floats) -> Floats:
        """What is expected of such a value at each event, shape (n,)."""
        fitted: Floats = values.mean() + self.centred @ (self.inverse @ (self.centred.T @ values / len(values)))
        return fitted


@dataclass(frozen=True, slots=True)
class Rhythm:
    """The season of one column at some of the reference's events: all of a row, or those that have a value.

    ``waves`` have shape (5, bins). ``scale``, shape (n,), is how many events of all stand for one of these.
    """

    regression: Regression
    waves: Floats
    scale: Floats

    @classmethod
    def of_all(cls, regression: Regression, waves: Floats) -> Rhythm:
        """At all events of a row."""
        return cls(regression, waves, np.ones(len(regression.phases)))

    def of_valid(self, valid: Codes, share: float) -> Rhythm:
        """At the events with these numbers, which have a value; ``share`` is the part of all that they are."""
        phases = self.regression.phases[valid]
        there = np.maximum(share - phases @ self.waves[:, -1], share / 4)
        return Rhythm(Regression.of(phases), self.waves, 1 / there)

    def expected(self, weights: Floats) -> Floats:
        """The deviation of the mean score that is expected at each event, shape (n,); ``weights`` by bin."""
        found: Floats = self.scale * (self.regression.phases @ (self.waves[:, : len(weights)] @ weights))
        return found

    def of_windows(self, window: int, starts: Codes) -> Floats:
        """The deviations of counts in whole windows, shape (windows, merged bins); ``starts`` are the merged bins'."""
        whole = len(self.scale) // window * window
        scaled = (self.regression.phases * self.scale[:, None])[:whole]
        merged = np.add.reduceat(self.waves[:, :-1], starts, axis=1)
        found: Floats = scaled.reshape(-1, window, COEFFICIENTS).sum(axis=1) @ merged
        return found

    def noisiest(self, residuals: Floats) -> float:
        """By how much the variance is greater in the noisiest phase than it is on the whole; at least 1."""
        squares = residuals * residuals
        whole = float(squares.mean())
        return max(1.0, float(self.regression.smooth(squares).max()) / whole) if whole > 0 else 1.0
