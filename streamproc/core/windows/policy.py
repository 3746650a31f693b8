"""What is declared of windows: which columns they add, and for how long and of how many keys anything is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal, TypeAlias

import polars as pl

from streamproc.core.expressions import Expression

Aggregate: TypeAlias = Literal[
    "count",
    "sum",
    "mean",
    "min",
    "max",
    "std",
    "last",
    "first",
    "distinct",
    "time_since_last",
    "rate",
    "zscore",
]
BUCKETS: Final = 60
"""A window is so many buckets by default: what falls into one is kept together."""
MOST_DISTINCT: Final = 100
CAPPED: Final = "_capped"
"""Ends the name of the column that says where a number of distinct values is only the least that it can be."""


def window_columns(name: str, aggregate: Aggregate) -> dict[str, pl.DataType]:
    """The columns that such a feature adds, with their types."""
    if aggregate == "distinct":
        return {name: pl.Int64(), name + CAPPED: pl.Boolean()}
    return {name: pl.Int64() if aggregate == "count" else pl.Float64()}


@dataclass(frozen=True, slots=True)
class WindowFeature:
    """An aggregate of the earlier events with the same value of ``by``.

    ``window`` and ``unit``, the length of a bucket, are in microseconds; without a window all earlier events count.
    ``of`` is what is aggregated, and only events where ``where`` is true count. ``most`` bounds the values among which
    distinct ones are counted.
    """

    name: str
    by: str
    aggregate: Aggregate
    window: int | None = None
    unit: int = 1
    of: Expression | None = None
    where: Expression | None = None
    include_self: bool = False
    most: int = MOST_DISTINCT

    @property
    def values(self) -> frozenset[str]:
        """The columns whose values it tells of."""
        return frozenset().union(*(part.columns for part in (self.of, self.where) if part is not None))

    @property
    def reads(self) -> frozenset[str]:
        """The columns that it is computed from."""
        return self.values | {self.by}

    @property
    def capped(self) -> str:
        """The name of the column that says where a number of distinct values is only the least that it can be."""
        return f"{self.name}{CAPPED}"

    @property
    def columns(self) -> Mapping[str, pl.DataType]:
        """The columns that it adds, with their types."""
        return window_columns(self.name, self.aggregate)


@dataclass(frozen=True, slots=True)
class WindowsPolicy:
    """``lateness``: how far an event's time may be before the newest one of its key for its windows to be known.

    A key is forgotten when its newest event is ``ttl`` before the newest of the lane, and the least recently used ones
    where a lane has more than ``max_keys``.
    """

    lateness: timedelta = timedelta(hours=1)
    ttl: timedelta = timedelta(days=90)
    max_keys: int = 1_000_000
