"""The tests of one row that share a window, as arrays: a window's counts to one z per one-sided test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamproc.core.drift.baseline import Linear, Monitor, Rare, Shape
from streamproc.core.drift.bins import Codes, Floats
from streamproc.core.drift.budget import Thresholds
from streamproc.core.drift.panes import Counts, Layout

Mask = NDArray[np.bool_]

WARN = 0.75
"""The part of its threshold at which a monitor warns."""
FEWEST = 8
"""A score is not judged on fewer events."""


@dataclass(frozen=True, slots=True)
class Side:
    """A one-sided test: a monitor, and ``up`` or ``down`` where it has two sides."""

    monitor: int
    direction: str


@dataclass(frozen=True, slots=True)
class _Linear:
    columns: Codes
    of_all: Mask
    places: Codes
    weights: Floats
    starts: Codes
    size: Floats
    sd: Floats


@dataclass(frozen=True, slots=True)
class _Shape:
    columns: Codes
    bins: Codes
    expected: Floats
    starts: Codes
    group_column: Codes
    size: Floats
    shrink: Floats
    df: Floats
    mean: Floats
    sd: Floats


@dataclass(frozen=True, slots=True)
class _Rare:
    columns: Codes
    of_all: Mask
    places: Codes
    starts: Codes
    hit: Floats
    miss: Floats


class Tests:
    """All tests of one row and window. ``sides`` are its one-sided tests, in the order of every array of shape
    (sides,).

    ``threshold`` is what the CUSUM must exceed, ``warning`` what it exceeds before.
    """

    __test__ = False  # pytest takes classes of this name for tests

    def __init__(self, layout: Layout, monitors: Sequence[tuple[int, Monitor]], limits: Thresholds) -> None:
        self._starts = layout.starts
        self._missing = np.append(layout.starts[1:], layout.width) - 1
        self._sizes = np.diff(layout.starts, append=layout.width)
        linear = [(n, m, m.fit) for n, m in monitors if isinstance(m.fit, Linear)]
        shape = [(n, m, m.fit) for n, m in monitors if isinstance(m.fit, Shape)]
        rare = [(n, m, m.fit) for n, m in monitors if isinstance(m.fit, Rare)]
        self._linear = _linear([(layout.places[m.column], fit) for _, m, fit in linear], layout)
        self._shape = _shape([(layout.places[m.column], fit) for _, m, fit in shape], layout)
        self._rare = _rare([(layout.places[m.column], fit) for _, m, fit in rare], layout)
        self.sides = (
            *(Side(n, "up") for n, _, _ in linear),
            *(Side(n, "down") for n, _, _ in linear),
            *(Side(n, "") for n, _, _ in shape),
            *(Side(n, "") for n, _, _ in rare),
        )
        allowances = [fit.allowance for _, _, fit in linear]
        self._allowance = np.array(
            [*allowances, *allowances, *(fit.allowance for _, _, fit in shape), *(0.0 for _ in rare)]
        )
        self.threshold = np.array(
            [
                *(limits.cusum / fit.up for _, _, fit in linear),
                *(limits.cusum / fit.down for _, _, fit in linear),
                *(limits.cusum / fit.up for _, _, fit in shape),
                *(limits.ratio for _ in rare),
            ]
        )
        self.warning = WARN * self.threshold

    def steps(self, counts: Counts, deviations: Floats | None = None) -> Floats:
        """What windows with these counts, shape (windows, width), add to the CUSUMs: z less the allowance, shape
        (windows, sides).

        0 where a window had too few events to be judged. ``deviations``, of the same shape, are what a season adds to
        the shares; that of rare things is in their p0.
        """
        all_of = np.add.reduceat(counts, self._starts, axis=1)
        valid = all_of - counts[:, self._missing]
        seasonal = None if deviations is None else np.repeat(all_of, self._sizes, axis=1) * deviations
        adjusted = counts if seasonal is None else counts - seasonal
        steps, enough = list[Floats](), list[Mask]()
        if self._linear is not None:
            t = self._linear
            n = np.where(t.of_all, all_of[:, t.columns], valid[:, t.columns])
            mean = np.add.reduceat(adjusted[:, t.places] * t.weights, t.starts, axis=1) / np.maximum(n, 1)
            z = mean / t.sd * np.sqrt(np.minimum(n, t.size) / t.size)
            steps += [z, -z]
            enough += [n >= FEWEST] * 2
        if self._shape is not None:
            s = self._shape
            n = valid[:, s.columns]
            there = n if seasonal is None else n + seasonal[:, self._missing[s.columns]]
            expected = s.expected * np.maximum(there, 1)[:, s.group_column]
            found = np.add.reduceat(adjusted, s.bins, axis=1)[:, ::2]
            away = None if seasonal is None else np.add.reduceat(seasonal, s.bins, axis=1)[:, ::2]
            distance = np.add.reduceat(distances(found, expected, away), s.starts, axis=1)
            steps.append((wilson_hilferty(distance / s.shrink, s.df) - s.mean) / s.sd)
            enough.append(n >= s.size / 2)
        if self._rare is not None:
            r = self._rare
            n = np.where(r.of_all, all_of[:, r.columns], valid[:, r.columns])
            hits = np.add.reduceat(counts[:, r.places], r.starts, axis=1)
            steps.append(hits * r.hit + (n - hits) * r.miss)
            enough.append(n > 0)
        return np.where(np.concatenate(enough, axis=1), np.concatenate(steps, axis=1) - self._allowance, 0.0)


def distances(found: Floats | Counts, expected: Floats, away: Floats | None = None) -> Floats:
    """The terms of a chi-squared distance of counts from those expected.

    ``away`` is what a season adds to the expected ones, and was taken out of those found. A count varies as much as it
    is expected to be in its phase; where hardly any is, by a quarter of what is on the whole, as the fit is not exact.
    """
    varies = expected if away is None else np.maximum(expected + away, expected / 4)
    terms: Floats = (found - expected) ** 2 / varies
    return terms


def wilson_hilferty(distance: Floats, df: float | Floats) -> Floats:
    """A chi-squared distance as a standard normal (Wilson and Hilferty 1931)."""
    spread = 2 / (9 * df)
    z: Floats = (np.cbrt(distance / df) - (1 - spread)) / np.sqrt(spread)
    return z


def _linear(fits: Sequence[tuple[int, Linear]], layout: Layout) -> _Linear | None:
    if not fits:
        return None
    places, weights, starts = list[int](), list[float](), list[int]()
    for column, fit in fits:
        starts.append(len(places))
        first = int(layout.starts[column])
        places += range(first, first + len(fit.weights))
        weights += fit.weights
    return _Linear(
        np.array([column for column, _ in fits]),
        np.array([fit.of_all for _, fit in fits]),
        np.array(places),
        np.array(weights),
        np.array(starts),
        np.array([float(fit.size) for _, fit in fits]),
        np.array([fit.sd for _, fit in fits]),
    )


def _shape(fits: Sequence[tuple[int, Shape]], layout: Layout) -> _Shape | None:
    """``bins`` are where each merged bin begins and ends, in pairs: every other sum between them is a merged bin's."""
    if not fits:
        return None
    bins, expected, starts, group_column = list[int](), list[float](), list[int](), list[int]()
    for place, (column, fit) in enumerate(fits):
        starts.append(len(expected))
        first = int(layout.starts[column])
        ends = (*fit.starts[1:], layout.bins[column].size - 1)
        for begin, end in zip(fit.starts, ends, strict=True):
            bins += [first + begin, first + end]
        expected += fit.shares
        group_column += [place] * len(fit.shares)

    def each(name: str) -> Floats:
        return np.array([float(getattr(fit, name)) for _, fit in fits])

    return _Shape(
        np.array([column for column, _ in fits]),
        np.array(bins),
        np.array(expected),
        np.array(starts),
        np.array(group_column),
        *map(each, ("size", "shrink", "df", "mean", "sd")),
    )


def _rare(fits: Sequence[tuple[int, Rare]], layout: Layout) -> _Rare | None:
    if not fits:
        return None
    places, starts = list[int](), list[int]()
    for column, fit in fits:
        starts.append(len(places))
        places += [int(layout.starts[column]) + place for place in fit.places]
    return _Rare(
        np.array([column for column, _ in fits]),
        np.array([fit.of_all for _, fit in fits]),
        np.array(places),
        np.array(starts),
        np.array([math.log(fit.p1 / fit.p0) / fit.dispersion for _, fit in fits]),
        np.array([math.log((1 - fit.p1) / (1 - fit.p0)) / fit.dispersion for _, fit in fits]),
    )
