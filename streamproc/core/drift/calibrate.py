"""From a reference, a sample of events in time order, to a baseline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from scipy.special import ndtri

from streamproc.core.drift.baseline import (
    PANE,
    Baseline,
    Linear,
    Monitor,
    Rare,
    Segment,
    Shape,
    hashed,
)
from streamproc.core.drift.bins import (
    EXPECTED,
    MISSING,
    OTHER,
    UNSEEN,
    Bins,
    CategoricalBins,
    Codes,
    Floats,
    NumericBins,
    as_text,
    commonest,
    make_bins,
)
from streamproc.core.drift.budget import Thresholds, run_length, thresholds
from streamproc.core.drift.fits import SHAPE_WINDOW, Fitted, fit_linear, fit_rare, fit_shape

LOCATION, SPREAD, SHAPE, RANGE = "location", "spread", "shape", "range"
TAILS = (("tail_1", 0.99), ("tail_01", 0.999))
SHARE = "share:"
MOST_SEGMENTS = 50
SPREAD_BAND = 1.5
"""The dead band of spread, whose score has a heavy tail, in those of others: found by simulation (benchmarks.drift)."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A sample in time order. ``columns`` are those that are watched, and those whose values are ``segments``.

    ``record_columns`` have an entry per record instead of one per event, and are in no segment.
    """

    columns: pl.DataFrame
    watch: Sequence[str]
    segments: Sequence[str] = ()
    record_columns: Mapping[str, pl.Series] = field(default_factory=dict)


def calibrate(reference: Reference, events_per_alarm: float, source: Mapping[str, Any] | None = None) -> Baseline:
    """The baseline of a reference, for one false alarm in so many events over all monitors together.

    Raises ValueError where the reference is empty or the column of a segment is not in it.
    """
    series = {name: reference.columns[name] for name in reference.watch} | dict(reference.record_columns)
    if not any(map(len, series.values())):
        raise ValueError("the reference has no events")
    made = {name: make_bins(name, column) for name, column in series.items()}
    bins = [column for column in made.values() if not isinstance(column, str)]
    unwatched = {name: reason for name, reason in made.items() if isinstance(reason, str)}
    segments = _segments(reference)
    members = _members(reference, segments)
    limits = thresholds(_looks(bins, reference.segments, events_per_alarm))
    monitors, totals = list[Monitor](), dict[str, list[list[int]]]()
    for column in bins:
        codes = column.codes(series[column.name])
        totals[column.name] = []
        for row, member in enumerate(members):
            inside = codes if member is None else codes[member] if column.name in reference.watch else codes[:0]
            totals[column.name].append(np.bincount(inside, minlength=column.size).tolist())
            if len(inside):
                monitors += _monitors(column, row, inside, limits)
    monitors.sort(key=lambda monitor: monitor.row)
    made_from = {**(source or {}), "budget": {"events_per_false_alarm": events_per_alarm, "looks": limits.looks}}
    return hashed(
        Baseline(
            bins=tuple(bins),
            segments=tuple(segments),
            monitors=tuple(monitors),
            thresholds=limits,
            totals=totals,
            record_columns=tuple(reference.record_columns),
            unwatched=unwatched,
            source=made_from,
        )
    )


def _segments(reference: Reference) -> list[Segment]:
    """The commonest values of each column of segments, in the order of how common they are."""
    segments = list[Segment]()
    for name in reference.segments:
        if name not in reference.columns.columns:
            raise ValueError(f"the segments' column {name!r} is not in the reference")
        segments += [Segment(name, value) for value in commonest(as_text(reference.columns[name]))[:MOST_SEGMENTS]]
    return segments


def _members(reference: Reference, segments: Sequence[Segment]) -> list[Codes | None]:
    """The numbers of the events of each row; ``None`` for all of them."""
    texts = {name: as_text(reference.columns[name]) for name in reference.segments}
    return [None, *(np.flatnonzero((texts[s.column] == s.value).fill_null(False).to_numpy()) for s in segments)]


def _looks(bins: Iterable[Bins], segments: Sequence[str], events: float) -> float:
    """How often one-sided tests look at windows in so many events. Segments share the events, and so the windows."""
    looks = 0.0
    for column in bins:
        sides = 4 + len(TAILS) + 1 if isinstance(column, NumericBins) else 2 * len(shared_out(column)) + 2
        looks += (sides + 2) * events / PANE + events / SHAPE_WINDOW
    return looks * (1 + len(segments))


def _monitors(column: Bins, row: int, codes: Codes, limits: Thresholds) -> list[Monitor]:
    """Every test of a column in a row. ``codes`` are the bins of the row's events, in time order."""
    missing = column.size - 1
    valid = codes[codes != missing]
    of_all = np.bincount(codes, minlength=column.size)[:missing]
    stretch: int = 2 ** max(0, round(math.log2(len(codes) / max(len(valid), 1))))
    made = list[Monitor]()

    def add(test: str, fitted: Fitted | str, longer: int = 1) -> None:
        if isinstance(fitted, str):
            made.append(Monitor(column.name, row, test, off=fitted))
            return
        delays, window = expected_delays(test, fitted, limits, longer), fitted.window * longer
        made.append(Monitor(column.name, row, test, window, fitted.tau, fitted.fit, "", delays, fitted.note))

    if isinstance(column, NumericBins):
        location, spread = bin_scores(of_all / max(len(valid), 1))
        clustered: float | str = 1.0
        if location.any():
            fitted = fit_linear(location[valid], location, limits)
            add(LOCATION, fitted, stretch)
            clustered = fitted if isinstance(fitted, str) else _clustered(fitted)
        if spread.any():
            add(SPREAD, fit_linear(spread[valid], spread, limits, dead_band=SPREAD_BAND), stretch)
        outside = (RANGE, (0, len(column.edges)), 1)
        for test, places, own in (*_tails(column, of_all), outside):
            add(test, clustered if isinstance(clustered, str) else _rare(valid, places, clustered, own), stretch)
    else:
        for place, category in enumerate(shared_out(column)):
            if 0 < of_all[place] < len(valid):
                add(SHARE + category, _share(valid, place, column.size, limits, of_all=False), stretch)
        for test, place in ((OTHER, missing - 2), (UNSEEN, missing - 1)):
            if test == UNSEEN or of_all[place] < len(valid) / 2:
                add(test, _rare(valid if len(valid) else codes, (place,)))
    if np.count_nonzero(of_all) > (1 if isinstance(column, NumericBins) else 2):
        slowest = max((m.window // stretch for m in made if m.test in (LOCATION, SPREAD)), default=0)
        add(SHAPE, fit_shape(valid, missing, limits, slowest), stretch)
    if len(valid):
        add(MISSING, _share(codes, missing, column.size, limits, of_all=True))
    return made


def shared_out(column: CategoricalBins) -> tuple[str, ...]:
    """The categories whose shares are watched: of two that are all there are, one tells of both."""
    return column.categories[:1] if len(column.categories) == 2 and not column.others else column.categories


def bin_scores(shares: Floats) -> tuple[Floats, Floats]:
    """Scores of bins for location and for spread, both with mean 0 and variance 1 under ``shares``, uncorrelated.

    Location is the normal quantile of a bin's mid-rank (van der Waerden), spread its square made orthogonal to 1 and to
    location (Klotz). Both have a 0 for the bin of missing values at the end; all zero where the shares leave nothing.
    """
    none = np.zeros(len(shares) + 1)
    ranks = np.cumsum(shares) - shares / 2
    a = ndtri(np.clip(ranks, 1e-6, 1 - 1e-6))
    a -= shares @ a
    variance = float(shares @ (a * a))
    if variance <= 0:
        return none, none
    a /= math.sqrt(variance)
    s = a * a - 1
    s -= float(shares @ (s * a)) * a
    s -= shares @ s
    variance = float(shares @ (s * s))
    s = s / math.sqrt(variance) if variance > 1e-6 else np.zeros(len(shares))
    return np.append(a, 0.0), np.append(s, 0.0)


def _clustered(fitted: Fitted) -> float:
    """By how much a window's mean varies more than that of independent events, which have the variance 1."""
    assert isinstance(fitted.fit, Linear)
    return max(1.0, fitted.fit.sd**2 * fitted.window)


def _tails(column: NumericBins, counts: Codes) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """The bins above the reference's high quantiles, where ties leave such bins."""
    above = np.cumsum(counts[::-1])[::-1] / max(counts.sum(), 1)
    for test, quantile in TAILS:
        first = int(np.searchsorted(-above, -1.5 * (1 - quantile)))
        if first < len(above) and above[first] > 0:
            yield test, tuple(range(first, len(column.edges) + 1)), 0


def _rare(codes: Codes, places: tuple[int, ...], dispersion: float = 1.0, own: int = 0) -> Fitted | str:
    hits = np.isin(codes, places).astype(np.float64)
    return fit_rare(hits, places, of_all=False, dispersion=dispersion, own=own)


def _share(codes: Codes, place: int, size: int, limits: Thresholds, *, of_all: bool) -> Fitted | str:
    """A share that may grow or shrink; where it is too small for that to be seen, one that may grow."""
    hits = (codes == place).astype(np.float64)
    share = float(hits.mean())
    variance = share * (1 - share)
    window = PANE
    while window * variance < EXPECTED:
        window *= 2
        if window > SHAPE_WINDOW:
            if share < 0.5:
                return fit_rare(hits, (place,), of_all)
            places = tuple(other for other in range(size if of_all else size - 1) if other != place)
            return fit_rare(1 - hits, places, of_all)
    weights = -share * np.ones(size)
    weights[place] += 1
    if not of_all:
        weights[-1] = 0.0
    scale = math.sqrt(variance)
    return fit_linear((hits - share) / scale, weights / scale, limits, window=window, of_all=of_all)


SHIFTS = (0.25, 0.5, 1.0)
RATIOS = (1.5, 2.0, 4.0)
GAINS = (0.02, 0.05, 0.2)
"""A small, a medium and a large shift: of the mean in standard deviations, of the variance, of a share."""


def expected_delays(test: str, fitted: Fitted, limits: Thresholds, longer: int = 1) -> tuple[float | None, ...]:
    """Events from a small, a medium, a large shift to the alarm, by Siegmund's approximation for normal scores."""
    fit, window = fitted.fit, fitted.window * longer
    delays = list[float]()
    match fit:
        case Linear():
            match test:
                case "location":
                    moved = list(SHIFTS)
                case "spread":
                    moved = [(ratio - 1) / math.sqrt(2) for ratio in RATIOS]
                case _:  # a share's weights differ by 1 / sqrt(p (1 - p)) between its bin and the others
                    moved = [gain * (max(fit.weights) - min(fit.weights)) for gain in GAINS]
            threshold = limits.cusum / fit.up
            delays = [_windows(shift / fit.sd, fit.allowance, threshold) for shift in moved]
        case Rare():
            for gain in GAINS:
                p = min(fit.p0 + gain, 1.0)
                step = p * math.log(fit.p1 / fit.p0) + (1 - p) * math.log((1 - fit.p1) / (1 - fit.p0))
                delays.append(
                    math.inf if step <= 0 else math.ceil(limits.ratio * fit.dispersion / step / fitted.window)
                )
        case Shape():
            return (None, None, None)
    return tuple(None if math.isinf(delay) else round(delay * window) for delay in delays)


def _windows(shift: float, allowance: float, threshold: float) -> float:
    length = run_length(shift, allowance, threshold)
    return math.inf if length > 1e6 else max(1.0, length)
