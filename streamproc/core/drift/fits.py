"""One test's idea of normal, learned from a reference column in time order.

Each function gives a fit, or says in words why there is none. What all of them guard against is the error of a finite
reference and dependence between events: both make a detector cry wolf that takes its thresholds from the textbook.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv, chdtri

from streamproc.core.drift.baseline import PANE, Linear, Rare, Shape
from streamproc.core.drift.bins import Codes, Floats, merged
from streamproc.core.drift.budget import K, Thresholds
from streamproc.core.drift.dependence import LongRun, lag_one, long_run, window_sums
from streamproc.core.drift.season import COEFFICIENTS, Rhythm
from streamproc.core.drift.tests import distances, wilson_hilferty

SHAPE_WINDOW = 4 * PANE
FEWEST_WINDOWS = 12
INDEPENDENT = 12.0
"""A window is so many times as long as events depend on one another."""
CORRELATED = 0.3
"""Windows whose neighbours correlate more are made longer, while the reference has enough of them."""
TOO_SLOW = 0.6
SIGNIFICANT = 0.01
REPLAYED = 0.6
"""How much of its threshold a CUSUM may use on the reference itself."""
WIDER = 1.15
RARE_LEVEL = 0.99
"""How surely the reference's true rate of something rare is below the one that counts as normal."""

WANDERING = 1.25
WANDERS = "it wanders: where it goes beyond what the reference shows it may alarm more often than the budget says"
SLOW = "the reference is too short for how slowly this moves"


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fit, the window that it is for, and how dependent its events are. ``note`` is what people should know of it."""

    fit: Linear | Shape | Rare
    window: int
    tau: float
    note: str = ""


def fit_linear(
    scores: Floats,
    weights: Floats,
    limits: Thresholds,
    *,
    window: int = PANE,
    of_all: bool = False,
    dead_band: float = 1.0,
    rhythm: Rhythm | None = None,
) -> Fitted | str:
    """For a score per event, shape (n,), with mean zero; ``weights`` are the score of each bin.

    The dead band of b / m is what makes a CUSUM whose mean is known from m windows only hold its run length on average:
    with an error of that mean of variance 1 / m, E exp(2 b error) = exp(2 b b / m). ``dead_band`` multiplies it.

    With a ``rhythm`` what it expects is taken out of the scores. The mean that is expected at a phase has then been
    learned with five coefficients instead of one, an error of variance 5 / m (a constant, and cos^2 + sin^2 = 1 for
    each harmonic, which has variance 1/2), so the band is 5 b / m. The spread is that of the noisiest phase.
    """
    coefficients = 1 if rhythm is None else COEFFICIENTS
    if rhythm is not None:
        scores = scores - rhythm.expected(weights)
    dependence = long_run(scores)
    found = _window(scores, dependence, window)
    if isinstance(found, str):
        return found
    window = found
    means = window_sums(scores, window) / window
    m = len(means)
    modelled, sd = _spread(scores, means, window, dependence, limits, coefficients)
    noisiest = 1.0 if rhythm is None else math.sqrt(rhythm.noisiest(scores))
    modelled, sd = modelled * noisiest, sd * noisiest
    allowance = K + dead_band * coefficients * limits.height / m
    shown = _shown_skew(means)
    up, down = (
        min(exponent(side * scores, sd / noisiest, window, dependence.tau), theta(side * shown)) for side in (1, -1)
    )
    z = means / sd
    wider = _replay([(z, allowance, up), (-z, allowance, down)], limits)
    fit = Linear(tuple(weights.tolist()), window, sd * wider, allowance, up, down, of_all)
    return Fitted(fit, window, dependence.tau, WANDERS if sd * wider > WANDERING * modelled else "")


def fit_shape(codes: Codes, size: int, limits: Thresholds, slowest: int, rhythm: Rhythm | None = None) -> Fitted | str:
    """For the bin of each valid event, of ``size`` bins.

    ``slowest`` is the longest window of the column's other tests. With a ``rhythm`` its deviations are taken out of the
    windows' counts. Its harmonics have seen the windows that they are judged on, so these lie nearer to them by 4 / m,
    and those to come lie farther off.
    """
    coefficients = 1 if rhythm is None else COEFFICIENTS
    n, window = len(codes), max(SHAPE_WINDOW, slowest)
    m = n // window
    if m < FEWEST_WINDOWS:
        return f"the reference has {m} windows of {window} events, and {FEWEST_WINDOWS} are needed"
    totals = np.bincount(codes, minlength=size)
    starts = merged(totals / n, window)
    if len(starts) < 3:
        return "it has too few bins that hold enough events"
    group = np.searchsorted(starts, np.arange(size), side="right") - 1
    in_group = group[codes]
    groups = len(starts)
    counts = np.bincount(
        np.arange(m * window) // window * groups + in_group[: m * window], minlength=m * groups
    ).reshape(m, groups)
    whole = np.bincount(in_group, minlength=groups)
    deviations = None if rhythm is None else rhythm.of_windows(window, starts)
    adjusted, events = (counts, window) if deviations is None else _adjusted(counts, deviations)
    without = np.maximum((whole - adjusted) / (n - window), 0.5 / n)  # each window against the others
    distance = distances(adjusted, events * without, deviations).sum(axis=1)
    shares = whole / n
    taus = _component_taus(in_group, shares, starts, rhythm)
    delta, df = max(1.0, float(taus.mean())), float(taus.sum() ** 2 / (taus**2).sum())
    shrink = (1 + coefficients / (m - 1)) * delta * (groups - 1) / df
    seen = (1 + 1 / (m - 1) - (coefficients - 1) / m) / (1 + coefficients / (m - 1))
    z = wilson_hilferty(distance / shrink / seen, df)
    mean, sd, allowance = _shape_scale(z, limits, coefficients)
    up = theta(0.15)
    wider = _replay([((z - mean) / sd, allowance, up)], limits)
    fit = Shape(tuple(starts.tolist()), tuple(shares.tolist()), window, shrink, df, mean, sd * wider, allowance, up)
    return Fitted(fit, window, delta)


def fit_rare(
    hits: Floats,
    places: Sequence[int],
    of_all: bool,
    *,
    dispersion: float = 1.0,
    own: int = 0,
    rhythm: Rhythm | None = None,
) -> Fitted | str:
    """For a share of events that should not grow; ``hits`` has 1 for each such event, and 0.

    ``dispersion`` is what is known of how much such events come in clusters, of which a few hits may show nothing.
    ``own`` are hits that there would be, had the places not been chosen such that there are none.

    With a ``rhythm`` the rate that counts as normal is that of the phase in which it is greatest. Taking the deviation
    out of the hits would not do: a likelihood ratio holds its budget only where hits are no likelier than p0 says.
    """
    n, count = len(hits), float(hits.sum())
    greatest = 0.0
    if rhythm is not None:
        deviations = rhythm.expected(np.isin(np.arange(rhythm.waves.shape[1]), places).astype(np.float64))
        greatest, hits = max(0.0, float(deviations.max())), hits - deviations
    dependence = long_run(hits) if 0 < count < n else LongRun(0.0, 1.0)
    window = _window(hits, dependence, PANE)
    if isinstance(window, str):
        return window
    dispersion = max(dispersion, dependence.tau)
    sums = window_sums(hits, window)
    share = count / n
    expected = window * share * (1 - share)
    if expected > 0:
        ratio = float(sums.var(ddof=1)) / expected
        if ratio > float(chdtri(len(sums) - 1, SIGNIFICANT)) / (len(sums) - 1):
            dispersion = max(dispersion, ratio)
    p0 = float(betaincinv((count + own) / dispersion + 1, max(n - count, 1e-9) / dispersion, RARE_LEVEL))
    p0 = min(p0 + greatest, (1 + p0) / 2) if greatest else p0
    p1 = min(p0 + min(max(p0, 0.01), 0.1), (1 + p0) / 2)
    return Fitted(Rare(tuple(places), p0, p1, dispersion, of_all), window, dependence.tau)


def theta(skew: float) -> float:
    """The root of theta / 2 + skew theta^2 / 6 = k: by how much a positive skew makes large sums likelier; at most 1.

    From the third-order expansion of the cumulant generating function (the adjustment coefficient of risk theory).
    """
    if skew < 1e-9:
        return 2 * K
    return (math.sqrt(0.25 + 4 * skew * K / 6) - 0.5) / (skew / 3)


def exponent(scores: Floats, sd: float, window: int, tau: float) -> float:
    """The theta > 0 with E exp(theta (z - k)) = 1, at most 1: Lundberg's exponent, e^(-theta h) the chance to exceed h.

    z is the mean of ``window`` scores over ``sd``, taken for that of window / tau independent ones like the sample
    ``scores``.
    """
    values, counts = np.unique(scores, return_counts=True)
    shares, independent = counts / len(scores), window / max(tau, 1.0)

    def grows(at: float) -> bool:
        generating = float(shares @ np.exp(at * values / (sd * independent)))
        return independent * math.log(generating) > at * K

    low, high = 0.0, 1.0
    if not grows(high):
        return high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if grows(middle) else (middle, high)
    return low


def largest_cusum(z: Floats, allowance: float) -> float:
    """The greatest value of the CUSUM over a series."""
    sums = np.cumsum(z - allowance)
    if not len(sums):
        return 0.0
    return float((sums - np.minimum(np.minimum.accumulate(sums), 0.0)).max())


def _window(series: Floats, dependence: LongRun, window: int) -> int | str:
    """Long enough for windows to be nearly independent, as far as the reference allows."""
    n = len(series)
    while True:
        m = n // window
        if m < FEWEST_WINDOWS:
            if window > PANE:
                return SLOW
            return f"the reference has {n:,} events of it, and {FEWEST_WINDOWS * window:,} are needed"
        slow = window < INDEPENDENT * dependence.tau
        correlation = lag_one(window_sums(series, window))
        if slow or (correlation > max(CORRELATED, 2 / math.sqrt(m)) and m >= 2 * FEWEST_WINDOWS):
            window *= 2
            continue
        return SLOW if correlation > TOO_SLOW else window


def _spread(
    scores: Floats, means: Floats, window: int, dependence: LongRun, limits: Thresholds, coefficients: int = 1
) -> tuple[float, float]:
    """The standard deviation of a window's mean: what dependence says, and the largest of that and what windows show.

    Each is widened for how well so few windows can tell it (a fraction k b / df: to first order what a scale estimated
    from df values does to the tail that a threshold b stands for). ``coefficients`` were fitted to the scores.
    """
    n, m = len(scores), len(means)
    variance = float(scores.var())
    kurtosis = float((scores**4).mean()) / variance**2
    df = 2 * n / max(kurtosis - 1, 1.0) / max(dependence.tau, 1.0)  # of a variance that so many events tell
    modelled = math.sqrt(max(dependence.variance, variance) / window) * (1 + K * limits.height / df)
    shown = float(means.std(ddof=coefficients))
    candidates = [modelled, shown]
    if _exceeds(shown, modelled, m):
        candidates.append(shown * (1 + K * limits.height / (m - 1)))
    correlation = lag_one(means)
    if correlation > max(2 / math.sqrt(m), 0.1):
        ratio = (1 + correlation) / (1 - correlation)
        effective = max(m / ratio, 3.0)
        candidates.append(shown * math.sqrt(ratio) * (1 + K * limits.height / (effective - 1)))
    for together in (2, 4, 8):
        batches = m // together
        if batches >= 10:
            averages = means[: batches * together].reshape(-1, together).mean(axis=1)
            spread = float(averages.std(ddof=1)) * math.sqrt(together)
            if _exceeds(spread, max(candidates), batches):
                candidates.append(spread * (1 + K * limits.height / (batches - 1)))
    return modelled, max(candidates)


def _exceeds(sd: float, other: float, count: int) -> bool:
    """Whether a standard deviation of so many values is significantly larger than another."""
    return (sd / other) ** 2 > float(chdtri(count - 1, SIGNIFICANT)) / (count - 1)


def _shown_skew(means: Floats) -> float:
    """The skewness of the reference's windows, where it stands out; else 0."""
    m = len(means)
    centred = means - means.mean()
    skew = float((centred**3).mean()) / max(float(means.std()), 1e-12) ** 3
    return skew if m >= 20 and abs(skew) > 2 * math.sqrt(6 / m) else 0.0


def _replay(sides: Sequence[tuple[Floats, float, float]], limits: Thresholds) -> float:
    """By how much to widen so that the reference itself stays well below the threshold.

    ``sides``: z, allowance, theta.
    """
    wider = 1.0
    while wider < 30 and any(
        largest_cusum(z / wider, allowance) * side > REPLAYED * limits.cusum for z, allowance, side in sides
    ):
        wider *= WIDER
    return wider


def _component_taus(groups: Codes, shares: Floats, starts: Codes, rhythm: Rhythm | None) -> Floats:
    """The dependence of each orthonormal component of the chi-squared distance (Rao and Scott 1981), shape (bins - 1,).

    The components are polynomials over the bins' mid-ranks, orthonormal under the reference. ``starts`` are the first
    bins of the groups.
    """
    count = len(shares)
    ranks = 2 * (np.cumsum(shares) - shares / 2) - 1
    basis, _ = np.linalg.qr(np.vander(ranks, count, increasing=True) * np.sqrt(shares)[:, None])
    scores = basis / np.sqrt(shares)[:, None]
    if rhythm is None:
        return np.array([long_run(scores[groups, place]).tau for place in range(1, count)])
    of_bin = np.searchsorted(starts, np.arange(rhythm.waves.shape[1] - 1), side="right") - 1
    return np.array([long_run(scores[groups, p] - rhythm.expected(scores[of_bin, p])).tau for p in range(1, count)])


def _adjusted(counts: Codes, deviations: Floats) -> tuple[Floats, Floats]:
    """Windows' counts without the season, and what is left of their events, shapes (m, groups) and (m, 1)."""
    adjusted: Floats = counts - deviations
    return adjusted, adjusted.sum(axis=1, keepdims=True)


def _shape_scale(z: Floats, limits: Thresholds, coefficients: int) -> tuple[float, float, float]:
    """Mean, sd and allowance of the shape test's z: theory's, where the reference's windows agree with it.

    ``coefficients`` were fitted to each share.
    """
    m = len(z)
    mean, sd = float(z.mean()), float(z.std(ddof=1))
    correlation = max(0.0, lag_one(z))
    if correlation < 2 / math.sqrt(m):
        correlation = 0.0
    as_in_theory = abs(mean) < 2.5 / math.sqrt(m) and not _exceeds(sd, 1.0, m) and correlation == 0.0
    if as_in_theory:
        raised = sd if sd**2 > float(chdtri(m - 1, 0.1)) / (m - 1) else 1.0
        return (
            max(mean, 0.0) if mean > 1 / math.sqrt(m) else 0.0,
            max(1.0, raised) * (1 + K * limits.height / (16 * m)),
            K + coefficients * limits.height / (4 * m),
        )
    ratio = (1 + correlation) / (1 - correlation)
    wide = max(1.0, sd * math.sqrt(ratio)) * (1 + K * limits.height / max(m / ratio - 1, 2.0))
    return max(mean, 0.0), wide, K + coefficients * limits.height / m
