"""Latencies in figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def quantiles(seconds: Sequence[float], *of: int) -> dict[str, float | None]:
    """Percentiles in milliseconds, by their names; those of nothing are ``None``.

    >>> quantiles([0.1, 0.3], 50), quantiles([], 50, 99)
    ({'p50': 200.0}, {'p50': None, 'p99': None})
    """
    found = np.percentile(seconds, of).tolist() if len(seconds) else [None] * len(of)
    return {f"p{one}": None if at is None else round(at * 1000, 1) for one, at in zip(of, found, strict=True)}
