"""How much more the mean of a dependent series varies than that of an independent one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from streamproc.core.drift.bins import Floats

MOST_LAGS = 12


@dataclass(frozen=True, slots=True)
class LongRun:
    """``variance`` is that of sqrt(n) times the mean of n values, ``tau`` its ratio to the variance of one."""

    variance: float
    tau: float


def long_run(series: Floats) -> LongRun:
    """Long-run variance by an autoregression (Yule-Walker, Levinson's recursion, its order at most 12 by BIC).

    Berk (1974): the spectral density at zero of the fitted autoregression, e / (1 - sum of phi)^2.
    """
    n = len(series)
    centred = series - series.mean()
    variance = float(centred @ centred) / n
    if variance <= 0:
        return LongRun(0.0, 1.0)
    lags = min(MOST_LAGS, n // 4)
    r = [1.0, *(float(centred[:-lag] @ centred[lag:]) / n / variance for lag in range(1, lags + 1))]
    phi, error = np.zeros(0), 1.0
    best = (0.0, 1.0, 0.0)  # BIC, innovation variance, sum of phi
    for order in range(1, lags + 1):
        reflection = (r[order] - float(phi @ np.array(r[order - 1 : 0 : -1]))) / error if order > 1 else r[1] / error
        phi = np.concatenate([phi - reflection * phi[::-1], [reflection]])
        error *= max(1 - reflection * reflection, 1e-12)
        bic = n * math.log(error) + order * math.log(n)
        if bic < best[0]:
            best = (bic, error, float(phi.sum()))
    tau = best[1] / max(1 - best[2], 1e-3) ** 2
    return LongRun(variance * tau, tau)


def lag_one(series: Floats) -> float:
    """The correlation of neighbours, its downward bias in short series taken back (Marriott and Pope 1954)."""
    n = len(series)
    centred = series - series.mean()
    whole = float(centred @ centred)
    if n < 3 or whole <= 0:
        return 0.0
    raw = float(centred[:-1] @ centred[1:]) / whole
    return min(0.9, raw + (1 + 3 * raw) / n)


def window_sums(series: Floats, window: int) -> Floats:
    """The sums of whole windows, in their order; what does not fill one is left out. Shape (n // window,)."""
    whole = len(series) // window * window
    sums: Floats = series[:whole].reshape(-1, window).sum(axis=1)
    return sums
