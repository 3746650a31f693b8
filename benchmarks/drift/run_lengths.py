"""Average run lengths of CUSUM and EWMA charts by simulation, beside those in the literature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

CUSUM: Mapping[float, Mapping[float, float]] = {
    4.0: {0: 168, 0.25: 74.2, 0.5: 26.6, 0.75: 13.3, 1: 8.38, 1.5: 4.75, 2: 3.34, 3: 2.19},
    5.0: {0: 465},
}
"""Two-sided, k = .5, by threshold and shift: Lucas and Crosier 1982."""
EWMA: Mapping[tuple[float, float], Mapping[float, float]] = {
    (0.5, 3.071): {0: 500, 0.25: 255, 0.5: 88.8, 0.75: 35.9, 1: 17.5, 2: 3.63},
    (0.03, 2.437): {0: 500, 0.25: 76.7, 0.5: 29.3, 0.75: 17.6, 1: 12.6, 2: 5.99},
}
"""Two-sided with fixed limits, by weight and limit: Lucas and Saccucci 1990."""


def measure(runs: int, seed: int) -> list[dict[str, Any]]:
    """Simulated and published run lengths."""
    rng = np.random.default_rng(seed)
    rows = [
        _row(f"CUSUM k .5, h {threshold:g}", shift, published, cusum_length(0.5, threshold, shift, runs, rng))
        for threshold, shifts in CUSUM.items()
        for shift, published in shifts.items()
    ]
    return rows + [
        _row(f"EWMA {weight:g}, {limit:g}", shift, published, ewma_length(weight, limit, shift, runs, rng))
        for (weight, limit), shifts in EWMA.items()
        for shift, published in shifts.items()
    ]


def cusum_length(allowance: float, threshold: float, shift: float, runs: int, rng: np.random.Generator) -> float:
    """Of a two-sided CUSUM of normals with this mean."""
    up, down = np.zeros(runs), np.zeros(runs)
    steps = total = 0
    while len(up):
        steps += 1
        z = rng.standard_normal(len(up)) + shift
        up, down = np.maximum(up + z - allowance, 0.0), np.maximum(down - z - allowance, 0.0)
        alarmed = (up > threshold) | (down > threshold)
        total += steps * int(alarmed.sum())
        up, down = up[~alarmed], down[~alarmed]
    return total / runs


def ewma_length(weight: float, limit: float, shift: float, runs: int, rng: np.random.Generator) -> float:
    """Of an exponentially weighted mean, whose limits are those of its asymptotic spread."""
    mean, bound = np.zeros(runs), limit * np.sqrt(weight / (2 - weight))
    steps = total = 0
    while len(mean):
        steps += 1
        mean = (1 - weight) * mean + weight * (rng.standard_normal(len(mean)) + shift)
        alarmed = np.abs(mean) > bound
        total += steps * int(alarmed.sum())
        mean = mean[~alarmed]
    return total / runs


def _row(chart: str, shift: float, published: float, simulated: float) -> dict[str, Any]:
    off = simulated / published - 1
    return {"chart": chart, "shift": shift, "published": published, "simulated": simulated, "off": off}
