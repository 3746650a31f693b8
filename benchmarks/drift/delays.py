"""Events from a change to the first alarm of the column that changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.drift.generators import DAY
from benchmarks.drift.watching import Watcher, learned

REFERENCE = 10_000
BEFORE = 2_048
LONGEST = 40_000
BLOCK = 1_024
COLUMNS = 10
EVENTS_PER_ALARM = 1e6
PROCESSES = 2

Floats: TypeAlias = NDArray[np.float64]
Draw: TypeAlias = Callable[[np.random.Generator, int, int], Any]
"""Given randomness, how many events after the change the first is (negative before it), and how many: values."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A change, and the goal: events within which nine of ten are to be seen."""

    goal: int | None
    draw: Draw
    reference: int = REFERENCE
    season: int | None = None
    """Declared, in events."""


def _moved(change: Callable[[Floats, np.random.Generator], Floats]) -> Draw:
    def draw(rng: np.random.Generator, since: int, n: int) -> Floats:
        values = rng.standard_normal(n)
        return np.where(np.arange(since, since + n) < 0, values, change(values, rng))

    return draw


def _daily(rng: np.random.Generator, since: int, n: int) -> Floats:
    at = np.arange(since, since + n)
    return np.sin(2 * np.pi * at / DAY) + rng.standard_normal(n) + 0.5 * (at >= 0)


def _ramp(rng: np.random.Generator, since: int, n: int) -> Floats:
    return rng.standard_normal(n) + np.clip(np.arange(since, since + n) / 20_000, 0.0, 1.0)


def _two_humps(values: Floats, rng: np.random.Generator) -> Floats:
    side = np.where(rng.random(len(values)) < 0.5, -0.95, 0.95)
    return side + np.sqrt(1 - 0.95**2) * values


def _missing(values: Floats, rng: np.random.Generator) -> Floats:
    return np.where(rng.random(len(values)) < 0.02, np.nan, values)


def _heavy_tail(rng: np.random.Generator, since: int, n: int) -> Floats:
    values = np.exp(rng.standard_normal(n))
    top = values > np.exp(2.3263)
    return np.where((np.arange(since, since + n) >= 0) & top, 10 * values, values)


def _shares(gain: float) -> Draw:
    def draw(rng: np.random.Generator, since: int, n: int) -> pl.Series:
        before, after = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.4, 0.3, 0.2, 0.1])
        after *= 1 - gain / 0.8
        after[2] = 0.2 + gain
        named = np.array(["a", "b", "c", "d"])
        was, now = rng.choice(named, n, p=before), rng.choice(named, n, p=after)
        return pl.Series(np.where(np.arange(since, since + n) < 0, was, now))

    return draw


SCENARIOS: Mapping[str, Scenario] = {
    "mean .25 σ": Scenario(1_000, _moved(lambda values, _: values + 0.25)),
    "mean .5 σ": Scenario(None, _moved(lambda values, _: values + 0.5)),
    "mean 1 σ": Scenario(200, _moved(lambda values, _: values + 1.0)),
    "mean 2 σ": Scenario(None, _moved(lambda values, _: values + 2.0)),
    "variance × 1.5": Scenario(None, _moved(lambda values, _: values * np.sqrt(1.5))),
    "variance × 2": Scenario(350, _moved(lambda values, _: values * np.sqrt(2.0))),
    "bimodal, equal moments": Scenario(1_000, _moved(_two_humps)),
    "category + .2": Scenario(700, _shares(0.2)),
    "category + .05": Scenario(None, _shares(0.05)),
    "missing 0 → 2 %": Scenario(600, _moved(_missing)),
    "top 1 % × 10": Scenario(3_000, _heavy_tail),
    "ramp to 1 σ over 20,000": Scenario(4_500, _ramp),
    "daily, season declared: mean .5 σ": Scenario(None, _daily, 50_000, DAY),
    "daily, not declared: mean .5 σ": Scenario(None, _daily, 50_000),
}


def measure(name: str, runs: int, seed: int) -> dict[str, Any]:
    """The distribution of delays over so many runs, each with a reference of its own."""
    with ProcessPoolExecutor(PROCESSES) as pool:
        found = list(pool.map(_one, [(name, seed + run) for run in range(runs)]))
    seen = [delay for delay, _ in found if delay is not None]
    early = sum(early for _, early in found)
    whole = [np.inf if delay is None else delay for delay, _ in found]
    middle, most = (float(one) for one in np.quantile(whole, [0.5, 0.9], method="higher"))
    return {
        "change": name,
        "runs": runs,
        "median": middle,
        "ninety": most,
        "goal": SCENARIOS[name].goal,
        "missed": 1 - len(seen) / runs,
        "alarms_before": early,
    }


def _one(job: tuple[str, int]) -> tuple[int | None, int]:
    """Events to the first alarm, and the alarms before the change."""
    name, seed = job
    rng = np.random.default_rng(seed)
    scenario = SCENARIOS[name]
    draw = scenario.draw
    reference = pl.DataFrame({"x": draw(rng, -10 * LONGEST, scenario.reference)})
    # One column with the budget of ten: as many looks as ten columns have.
    baseline = learned(reference, EVENTS_PER_ALARM * COLUMNS, scenario.season)
    change_at, at, early = BEFORE + int(rng.integers(64)), 0, 0
    watcher = Watcher(baseline, clock=-change_at % DAY)
    while at < change_at + LONGEST:
        for change in watcher.feed(pl.DataFrame({"x": draw(rng, at - change_at, BLOCK)})):
            if change.after == "drifting":
                seen_at = change.end.offset + 64
                if seen_at > change_at:
                    return seen_at - change_at, early
                early += 1
        at += BLOCK
    return None, early
