"""What a column looked like then and looks like now, in figures that people know."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamproc.core.drift.bins import Bins, Floats, NumericBins, merged
from streamproc.core.drift.panes import FIXED, Counts

SHOWN_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
SHOWN_CATEGORIES = 5
LEAST_SHARE = 0.001


def describe_reference(column: Bins, counts: Counts) -> dict[str, Any]:
    """The reference's counts, shape (bins,), in words and figures."""
    own = {"mean": column.mean, "spread": column.spread} if isinstance(column, NumericBins) else {}
    return {**describe(column, counts), **own}


def describe(column: Bins, counts: Counts, moments: Floats | None = None) -> dict[str, Any]:
    """Counts, shape (bins,), in words and figures. ``moments`` give the mean and the spread, where they are known."""
    events = int(counts.sum())
    valid = counts[:-1]
    n = int(valid.sum())
    shown: dict[str, Any] = {"events": events, "missing": _share(int(counts[-1]), events)}
    if isinstance(column, NumericBins):
        shown["quantiles"] = {str(q): quantile(column, valid, q) for q in SHOWN_QUANTILES} if n else {}
        if moments is not None and n:
            mean = float(moments[0]) / n / FIXED
            spread = math.sqrt(max(float(moments[1]) / n / FIXED**2 - mean * mean, 0.0))
            shown |= {"mean": column.centre + column.scale * mean, "spread": column.scale * spread}
            shown |= {"least": float(moments[2]), "greatest": float(moments[3])}
    else:
        order = np.argsort(-valid, kind="stable")[:SHOWN_CATEGORIES]
        shown["shares"] = {column.label(int(place)): _share(int(valid[place]), n) for place in order if valid[place]}
    return shown


def quantile(column: NumericBins, valid: Counts, q: float) -> float:
    """A quantile of binned values, shape (bins - 1,), a straight line within the bin; the outermost edge beyond it."""
    edges, last = column.edges, len(column.edges) - 1
    wanted = q * float(valid.sum())
    before = 0
    for place, inside in enumerate(valid.tolist()):
        if before + inside >= wanted and inside:
            low, high = float(edges[max(place - 1, 0)]), float(edges[min(place, last)])
            return low + (high - low) * float((wanted - before) / inside)
        before += inside
    return float(edges[last])


def changed_most(column: Bins, reference: Counts, current: Counts) -> list[dict[str, Any]]:
    """The bins whose shares differ most, with both shares."""
    p, q = reference / max(reference.sum(), 1), current / max(current.sum(), 1)
    order = np.argsort(-np.abs(q - p), kind="stable")[:SHOWN_CATEGORIES]
    return [
        {"value": column.label(int(place)), "before": round(float(p[place]), 4), "now": round(float(q[place]), 4)}
        for place in order
        if p[place] != q[place]
    ]


def effect(reference: Counts, current: Counts) -> tuple[float, float]:
    """Severity and PSI of a change, from counts of shape (bins,).

    Severity is Cohen's w: the root of the sum of (q - p)^2 / p, shares of the reference below 0.1 % taken for that.
    PSI is the population stability index: the sum of (q - p) ln(q / p). Both over about ten merged bins and that of
    missing values.
    """
    whole, n = max(int(reference.sum()), 1), int(current.sum())
    starts = np.append(merged(reference[:-1] / whole, 10**9), len(reference) - 1)
    p = np.add.reduceat(reference, starts) / whole
    q = np.add.reduceat(current, starts) / max(n, 1)
    beyond = max((_share(int(current[place]), n) for place in (0, -2) if not reference[place]), default=0.0)
    floor = np.maximum(p, LEAST_SHARE)
    severity = math.sqrt(float(((q - p) ** 2 / floor).sum()) + beyond * beyond / LEAST_SHARE)
    a, b = np.maximum(p, LEAST_SHARE), np.maximum(q, LEAST_SHARE)
    return severity, float(((b - a) * np.log(b / a)).sum())


def shares(column: Bins, counts: Sequence[int] | Counts) -> Mapping[str, float]:
    """The share of each value that a categorical column has."""
    whole = int(np.sum(counts))
    return {column.label(place): _share(int(count), whole) for place, count in enumerate(counts) if count}


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0
