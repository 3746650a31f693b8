"""The five kinds of value that an expression knows, and how columns of a frame become them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from typing import TypeAlias

import polars as pl

Value: TypeAlias = "bool | int | float | str | datetime | None"

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


class Kind(Enum):
    """A kind of value; its ``dtype`` is the only Polars type that a value of it ever has."""

    BOOLEAN = "true or false"
    INTEGER = "a whole number"
    NUMBER = "a number"
    TEXT = "text"
    TIMESTAMP = "a timestamp"
    NULL = "NULL"  # a bare NULL, until its surroundings give it another kind

    @property
    def dtype(self) -> pl.DataType:
        """The Polars type of every column of this kind."""
        return _DTYPES[self]

    @property
    def numeric(self) -> bool:
        """Whether arithmetic takes it."""
        return self in (Kind.INTEGER, Kind.NUMBER)

    def __str__(self) -> str:
        return self.value


_DTYPES: dict[Kind, pl.DataType] = {
    Kind.BOOLEAN: pl.Boolean(),
    Kind.INTEGER: pl.Int64(),
    Kind.NUMBER: pl.Float64(),
    Kind.TEXT: pl.String(),
    Kind.TIMESTAMP: pl.Datetime("us", "UTC"),
    Kind.NULL: pl.Null(),
}

NUMERIC = (Kind.INTEGER, Kind.NUMBER)
ANY = (Kind.BOOLEAN, Kind.INTEGER, Kind.NUMBER, Kind.TEXT, Kind.TIMESTAMP)
ORDERED = (Kind.INTEGER, Kind.NUMBER, Kind.TEXT, Kind.TIMESTAMP)

# Outside the years 1 to 9999 neither Python nor ISO text can show a timestamp.
_FIRST_SECOND = int(datetime(1, 1, 1, tzinfo=UTC).timestamp())
_LAST_SECOND = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
_TICKS = {"ms": 10**3, "us": 10**6, "ns": 10**9}

Reader: TypeAlias = Callable[[pl.Expr], pl.Expr]


def reader(dtype: pl.DataType) -> tuple[Kind, Reader] | None:
    """The kind of a column and what turns the column into that kind; ``None`` if expressions cannot read it.

    Floats may still hold NaN and infinity after it: see ``Node.finite``.
    """
    if dtype == pl.Boolean:
        return Kind.BOOLEAN, _as_it_is
    if dtype == pl.Int64:
        return Kind.INTEGER, _as_it_is
    if dtype.is_integer():
        return Kind.INTEGER, partial(_cast, to=pl.Int64())
    if dtype == pl.Float64:
        return Kind.NUMBER, _as_it_is
    if dtype.is_float() or dtype.is_decimal():
        return Kind.NUMBER, partial(_cast, to=pl.Float64())
    if dtype == pl.String:
        return Kind.TEXT, _as_it_is
    if isinstance(dtype, pl.Categorical | pl.Enum):
        return Kind.TEXT, partial(_cast, to=pl.String())
    if isinstance(dtype, pl.Datetime):
        return Kind.TIMESTAMP, partial(_utc, dtype=dtype)
    if dtype == pl.Date:
        return Kind.TIMESTAMP, _midnight
    return None


def timestamp_of(ticks: pl.Expr) -> pl.Expr:
    """Timestamps from whole microseconds since 1970, null outside the years 1 to 9999."""
    return _within_years(ticks, "us").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def _as_it_is(column: pl.Expr) -> pl.Expr:
    return column


def _cast(column: pl.Expr, to: pl.DataType) -> pl.Expr:
    return column.cast(to, strict=False)


def _utc(column: pl.Expr, dtype: pl.Datetime) -> pl.Expr:
    # The physical number counts from 1970 in UTC whatever the zone; a timestamp without a zone is UTC.
    kept = _within_years(column.to_physical(), dtype.time_unit).cast(pl.Datetime(dtype.time_unit))
    return kept.dt.cast_time_unit("us").dt.replace_time_zone("UTC")


def _midnight(column: pl.Expr) -> pl.Expr:
    return timestamp_of(column.to_physical().cast(pl.Int64) * (86_400 * 10**6))


def _within_years(ticks: pl.Expr, unit: str) -> pl.Expr:
    first, after = _FIRST_SECOND * _TICKS[unit], (_LAST_SECOND + 1) * _TICKS[unit]
    first, after = max(first, INT64_MIN), min(after, INT64_MAX)  # nanoseconds end in the year 2262 anyway
    return pl.when(ticks >= first, ticks < after).then(ticks)
