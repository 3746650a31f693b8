"""From a reference, a sample of events in time order, to a baseline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
from scipy.special import ndtri

from streamproc.core.drift.accuracy import EXPECTED_ACCURACY, fit_accuracies
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
    numbers,
)
from streamproc.core.drift.budget import Thresholds, run_length, thresholds
from streamproc.core.drift.fits import SHAPE_WINDOW, Fitted, fit_linear, fit_rare, fit_shape
from streamproc.core.drift.season import Regression, Rhythm, Season, Waves, phases_of

LOCATION, SPREAD, SHAPE, RANGE = "location", "spread", "shape", "range"
TAILS = (("tail_1", 0.99), ("tail_01", 0.999))
SHARE = "share:"
MOST_SEGMENTS = 50
SPREAD_BAND = 1.5
"""The dead band of spread, whose score has a heavy tail, in those of others: found by simulation (benchmarks.drift)."""
LEAST_ACCURACY = 1e-3
"""Accuracies of bins that differ less, a standard deviation over events, tell nothing."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A sample in time order. ``columns`` are those that are watched, and those whose values are ``segments``.

    ``record_columns`` have an entry per record instead of one per event, and are in no segment. ``times``, µs since the
    epoch, are what a ``season`` needs, the period of a rhythm that is normal. ``outcomes``, 1, 0 or NaN where it is not
    known, are what came true of what the column ``score`` gives the chance of. Both have shape (events,).
    """

    columns: pl.DataFrame
    watch: Sequence[str]
    segments: Sequence[str] = ()
    record_columns: Mapping[str, pl.Series] = field(default_factory=dict)
    times: Codes | None = None
    season: timedelta | None = None
    max_age: timedelta | None = None
    score: str = ""
    outcomes: Floats | None = None
    unwatched: Mapping[str, str] = field(default_factory=dict)
    """What should be watched, and is not in ``watch`` for a reason."""


def calibrate(reference: Reference, events_per_alarm: float, source: Mapping[str, Any] | None = None) -> Baseline:
    """The baseline of a reference, for one false alarm in so many events over all monitors together.

    Raises ValueError where the reference is empty, the column of a segment is not in it, or it is too short for its
    season or has too few outcomes.
    """
    series = {name: reference.columns[name] for name in reference.watch} | dict(reference.record_columns)
    if not any(map(len, series.values())):
        raise ValueError("the reference has no events")
    made = {name: make_bins(name, column) for name, column in series.items()}
    bins = [column for column in made.values() if not isinstance(column, str)]
    unwatched = {name: reason for name, reason in made.items() if isinstance(reason, str)} | dict(reference.unwatched)
    segments = _segments(reference)
    members = _members(reference, segments)
    accuracies = _accuracies(reference, bins)
    thin = _thin(reference, len(segments), events_per_alarm)
    limits = thresholds(_looks(bins, reference.segments, events_per_alarm, thin, accuracies is not None))
    regressions = _regressions(reference, members)
    monitors, totals, waves = list[Monitor](), dict[str, list[list[int]]](), dict[str, list[Waves]]()
    for column in bins:
        codes = column.codes(series[column.name])
        totals[column.name] = []
        for row, member in enumerate(members):
            inside = codes if member is None else codes[member] if column.name in reference.watch else codes[:0]
            totals[column.name].append(np.bincount(inside, minlength=column.size).tolist())
            rhythm = None
            if reference.season is not None and column.name in reference.watch:
                rhythm = _rhythm(regressions[row], inside, column.size)
                waves.setdefault(column.name, []).append([] if rhythm is None else rhythm.waves.tolist())
            if len(inside):
                monitors += _monitors(column, row, inside, limits, rhythm)
                if accuracies is not None and column.name == reference.score:
                    monitors.append(_expected(column, row, inside, accuracies, limits, rhythm))
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
            max_age=None if reference.max_age is None else _microseconds(reference.max_age),
            season=None if reference.season is None else Season(_microseconds(reference.season), waves),
            accuracies=() if accuracies is None else tuple(accuracies.tolist()),
        )
    )


def _microseconds(period: timedelta) -> int:
    return round(period / timedelta(microseconds=1))


def _regressions(reference: Reference, members: Sequence[Codes | None]) -> Sequence[Regression | None]:
    """The regression on the season at the events of each row; ``None`` where there are none."""
    if reference.season is None:
        return [None] * len(members)
    if reference.times is None:
        raise ValueError("its events have no times, and a season needs them")
    phases = phases_of(reference.times, reference.season, PANE)
    own = (phases if member is None else phases[member] for member in members)
    return [Regression.of(its) if len(its) else None for its in own]


def _rhythm(regression: Regression | None, codes: Codes, size: int) -> Rhythm | None:
    return None if regression is None else Rhythm.of_all(regression, regression.waves(codes, size))


def _accuracies(reference: Reference, bins: Iterable[Bins]) -> Floats | None:
    """How many predictions came true by the bin of the score, without the bin of missing ones."""
    if reference.outcomes is None:
        return None
    for column in bins:
        if column.name == reference.score:
            own = reference.columns[column.name]
            return fit_accuracies(column, column.codes(own), numbers(own), reference.outcomes)
    raise ValueError("expected accuracy needs a score that is watched")


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


def _thin(reference: Reference, segments: int, events: float) -> float:
    """How many windows of one length may grow too old in so many events: one of each row whenever that time passes."""
    if reference.max_age is None:
        return 0.0
    if reference.times is None or not len(reference.times) or not (seconds := _span(reference.times)):
        raise ValueError("its events have no times, and `max_age` needs them")
    return events * seconds / len(reference.times) / reference.max_age.total_seconds() * (1 + segments)


def _span(times: Codes) -> float:
    return float(times.max() - times.min()) / 1e6


def _looks(bins: Iterable[Bins], segments: Sequence[str], events: float, thin: float, accuracy: bool) -> float:
    """How often one-sided tests look at windows in so many events, and at ``thin`` ones.

    Segments share the events, and so the windows that are full.
    """
    each = (1 + len(segments)) * events / PANE + thin
    looks = 0.0
    for column in bins:
        sides = 4 + len(TAILS) + 1 if isinstance(column, NumericBins) else 2 * len(shared_out(column)) + 2
        looks += (sides + 2) * each + (1 + len(segments)) * events / SHAPE_WINDOW + thin
    return looks + (2 * each if accuracy else 0.0)


def _monitor(column: Bins, row: int, test: str, fitted: Fitted | str, limits: Thresholds, longer: int = 1) -> Monitor:
    """A test that was fitted, or is off for a reason."""
    if isinstance(fitted, str):
        return Monitor(column.name, row, test, off=fitted)
    delays, window = expected_delays(test, fitted, limits, longer), fitted.window * longer
    return Monitor(column.name, row, test, window, fitted.tau, fitted.fit, "", delays, fitted.note)


def _stretch(codes: Codes, valid: Codes) -> int:
    """How many times as long windows must be where they count only events with a value, as a power of two."""
    times: int = 2 ** max(0, round(math.log2(len(codes) / max(len(valid), 1))))
    return times


def _valid_rhythm(codes: Codes, missing: int, rhythm: Rhythm | None) -> Rhythm | None:
    """The rhythm at the events that have a value; ``None`` where none has."""
    there = np.flatnonzero(codes != missing)
    return None if rhythm is None or not len(there) else rhythm.of_valid(there, len(there) / len(codes))


def _expected(
    column: Bins, row: int, codes: Codes, accuracies: Floats, limits: Thresholds, rhythm: Rhythm | None
) -> Monitor:
    """The monitor of expected accuracy in a row, whose events are less or more sure than the row's were."""
    missing = column.size - 1
    valid = codes[codes != missing]
    if not len(valid):
        return _monitor(column, row, EXPECTED_ACCURACY, "no event of it has a score", limits)
    weights = np.append(accuracies - accuracies[valid].mean(), 0.0)
    scores = weights[valid]
    if scores.std() < LEAST_ACCURACY:
        return _monitor(column, row, EXPECTED_ACCURACY, "predictions come true as often whatever the score is", limits)
    fitted = fit_linear(scores, weights, limits, rhythm=_valid_rhythm(codes, missing, rhythm))
    return _monitor(column, row, EXPECTED_ACCURACY, fitted, limits, _stretch(codes, valid))


def _monitors(column: Bins, row: int, codes: Codes, limits: Thresholds, rhythm: Rhythm | None) -> list[Monitor]:
    """Every test of a column in a row. ``codes`` are the bins of the row's events, in time order."""
    missing = column.size - 1
    valid = codes[codes != missing]
    of_valid = _valid_rhythm(codes, missing, rhythm)
    of_all = np.bincount(codes, minlength=column.size)[:missing]
    stretch = _stretch(codes, valid)
    made = list[Monitor]()

    def add(test: str, fitted: Fitted | str, longer: int = 1) -> None:
        made.append(_monitor(column, row, test, fitted, limits, longer))

    if isinstance(column, NumericBins):
        location, spread = bin_scores(of_all / max(len(valid), 1))
        clustered: float | str = 1.0
        if location.any():
            fitted = fit_linear(location[valid], location, limits, rhythm=of_valid)
            add(LOCATION, fitted, stretch)
            clustered = fitted if isinstance(fitted, str) else _clustered(fitted)
        if spread.any():
            add(SPREAD, fit_linear(spread[valid], spread, limits, dead_band=SPREAD_BAND, rhythm=of_valid), stretch)
        outside = (RANGE, (0, len(column.edges)), 1)
        for test, places, own in (*_tails(column, of_all), outside):
            add(
                test,
                clustered if isinstance(clustered, str) else _rare(valid, places, clustered, own, of_valid),
                stretch,
            )
    else:
        for place, category in enumerate(shared_out(column)):
            if 0 < of_all[place] < len(valid):
                add(SHARE + category, _share(valid, place, column.size, limits, of_valid, of_all=False), stretch)
        for test, place in ((OTHER, missing - 2), (UNSEEN, missing - 1)):
            if test == UNSEEN or of_all[place] < len(valid) / 2:
                its, own_rhythm = (valid, of_valid) if len(valid) else (codes, rhythm)
                add(test, _rare(its, (place,), rhythm=own_rhythm))
    if np.count_nonzero(of_all) > (1 if isinstance(column, NumericBins) else 2):
        slowest = max((m.window // stretch for m in made if m.test in (LOCATION, SPREAD)), default=0)
        add(SHAPE, fit_shape(valid, missing, limits, slowest, of_valid), stretch)
    if len(valid):
        add(MISSING, _share(codes, missing, column.size, limits, rhythm, of_all=True))
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


def _rare(
    codes: Codes, places: tuple[int, ...], dispersion: float = 1.0, own: int = 0, rhythm: Rhythm | None = None
) -> Fitted | str:
    hits = np.isin(codes, places).astype(np.float64)
    return fit_rare(hits, places, of_all=False, dispersion=dispersion, own=own, rhythm=rhythm)


def _share(
    codes: Codes, place: int, size: int, limits: Thresholds, rhythm: Rhythm | None, *, of_all: bool
) -> Fitted | str:
    """A share that may grow or shrink; where it is too small for that to be seen, one that may grow."""
    hits = (codes == place).astype(np.float64)
    share = float(hits.mean())
    variance = share * (1 - share)
    window = PANE
    while window * variance < EXPECTED:
        window *= 2
        if window > SHAPE_WINDOW:
            if share < 0.5:
                return fit_rare(hits, (place,), of_all, rhythm=rhythm)
            places = tuple(other for other in range(size if of_all else size - 1) if other != place)
            return fit_rare(1 - hits, places, of_all, rhythm=rhythm)
    weights = -share * np.ones(size)
    weights[place] += 1
    if not of_all:
        weights[-1] = 0.0
    scale = math.sqrt(variance)
    return fit_linear((hits - share) / scale, weights / scale, limits, window=window, of_all=of_all, rhythm=rhythm)


SHIFTS = (0.25, 0.5, 1.0)
RATIOS = (1.5, 2.0, 4.0)
GAINS = (0.02, 0.05, 0.2)
"""A small, a medium and a large shift: of the mean in standard deviations, of the variance, of a share or accuracy."""


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
                case "expected_accuracy":
                    moved = list(GAINS)
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
