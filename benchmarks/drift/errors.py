"""False alarms and delays of the detectors of errors, set to a budget, on independent errors."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from typing import Any

import numpy as np

from streamproc.core.drift.errors import error_alarms

BUDGETS = (1e4, 1e5, 1e6)
RATES = (0.02, 0.1, 0.3, 0.5)
EVENTS = 1_000_000
RISE = 0.05
BEFORE, AFTER, RUNS = 20_000, 20_000, 20
PROCESSES = 2


def measure(seed: int) -> Iterator[dict[str, Any]]:
    """A row for each budget and rate of errors."""
    with ProcessPoolExecutor(PROCESSES) as pool:
        yield from pool.map(_one, [(per, rate, seed) for per, rate in product(BUDGETS, RATES)])


def _one(job: tuple[float, float, int]) -> dict[str, Any]:
    per, rate, seed = job
    rng = np.random.default_rng(seed)
    steady = error_alarms((rng.random(EVENTS) < rate).astype(np.float64), per)
    delays = dict[str, list[float]]()
    for _ in range(RUNS):
        errors = np.concatenate([rng.random(BEFORE) < rate, rng.random(AFTER) < rate + RISE]).astype(np.float64)
        for name, rows in error_alarms(errors, per).items():
            seen = next((row - BEFORE for row in rows if row >= BEFORE), None)
            delays.setdefault(name, []).append(float("inf") if seen is None else seen)
    return {
        "events_per_alarm": per,
        "errors": rate,
        "of_budget": {name: len(rows) / (EVENTS / per) for name, rows in steady.items()},
        "delays": {name: float(np.median(seen)) for name, seen in delays.items()},
    }
