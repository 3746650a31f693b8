"""What usual detectors, fed event by event with their defaults, and one that looks at nothing, make of the same
columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from streamproc.core.drift.bins import numbers

EVERY = 1_000
"""The one that looks at nothing alarms once in so many events: naive measures of a detector like it."""
Told = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Rival:
    """A detector and the rows at which it alarmed, over all columns together."""

    name: str
    alarms: tuple[int, ...]


def rivals(columns: pl.DataFrame, told: Told | None = None) -> Iterator[Rival]:
    """One after another; ``told`` hears of the detector, the columns that it has seen, and how many there are.

    Each numeric column has a detector of its own, with river's defaults. Missing values are left out.
    """
    from river.drift import ADWIN, KSWIN, PageHinkley

    numeric = [name for name, kind in columns.schema.items() if kind.is_numeric()]
    makers: dict[str, Callable[[], Any]] = {
        "ADWIN": ADWIN,
        "PageHinkley": PageHinkley,
        "KSWIN": lambda: KSWIN(seed=7),
    }
    for name, make in makers.items():
        alarms = list[int]()
        for done, column in enumerate(numeric):
            if told is not None:
                told(name, done, len(numeric))
            alarms += alarms_of(make(), numbers(columns[column]))
        yield Rival(f"{name} (river, defaults)", tuple(sorted(alarms)))
    yield Rival(f"an alarm every {EVERY:,} events", tuple(range(EVERY - 1, len(columns), EVERY)))


def alarms_of(detector: Any, values: np.ndarray[Any, np.dtype[np.float64]]) -> list[int]:
    """The rows at which a detector of river's alarms; missing values are left out."""
    rows = np.flatnonzero(np.isfinite(values))
    alarms = list[int]()
    for row, value in zip(rows.tolist(), values[rows].tolist(), strict=True):
        detector.update(value)
        if detector.drift_detected:
            alarms.append(row)
    return alarms
