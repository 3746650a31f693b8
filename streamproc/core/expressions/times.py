"""Time: parts of a timestamp, distances, numbers to timestamps and back. There is no clock among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from streamproc.core.expressions.functions import entry
from streamproc.core.expressions.kinds import NUMERIC, Kind, timestamp_of
from streamproc.core.expressions.node import Built, Node, quotient
from streamproc.core.expressions.table import Function, Param

_TS = (Kind.TIMESTAMP,)

# What EXTRACT(… FROM ts) knows. Days of the week count from Sunday = 0, as in PostgreSQL.
PARTS: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "YEAR": lambda ts: ts.dt.year(),
    "MONTH": lambda ts: ts.dt.month(),
    "DAY": lambda ts: ts.dt.day(),
    "HOUR": lambda ts: ts.dt.hour(),
    "MINUTE": lambda ts: ts.dt.minute(),
    "SECOND": lambda ts: ts.dt.second(),
    "DOW": lambda ts: ts.dt.weekday() % 7,
}

_DATE, _TIME, _ZONE = r"(\d{4}-\d{2}-\d{2})", r"(\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?)", r"([+-]\d{2}:?\d{2})"


def parse_timestamp(text: pl.Expr) -> pl.Expr:
    """ISO 8601 text as timestamps, each row by itself: one format, never guessed from the batch.

    A date alone is its midnight, a time without a zone is UTC; anything else is null.
    """
    flags = "(?-u)"  # \d is 0 to 9 and not every script's digits
    full = (
        text.str.replace(f"{flags}^{_DATE}$", "${1}T00:00:00+00:00")
        .str.replace(f"{flags}^{_DATE}[Tt ]{_TIME}$", "${1}T${2}+00:00")
        .str.replace(f"{flags}^{_DATE}[Tt ]{_TIME}[Zz]$", "${1}T${2}+00:00")
        .str.replace(f"{flags}^{_DATE}[Tt ]{_TIME}{_ZONE}$", "${1}T${2}${3}")
    )
    # Whatever has another shape stays as it was, and is kept from the parser here.
    shaped = full.str.extract(f"{flags}^({_DATE[1:-1]}T{_TIME[1:-1]}{_ZONE[1:-1]})$", 1)
    parsed = shaped.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%z", strict=False, time_unit="us", time_zone="UTC")
    return timestamp_of(parsed.to_physical())


def _seconds_between(args: Sequence[Node]) -> Built:
    first, second = args
    return Built(Kind.NUMBER, quotient((second.expr - first.expr).dt.total_microseconds(), pl.lit(1e6)))


def _to_timestamp(args: Sequence[Node]) -> Built:
    seconds = args[0]
    if seconds.kind is Kind.INTEGER:
        ticks = (seconds.expr.cast(pl.Int128) * 10**6).cast(pl.Int64, strict=False)
    else:
        ticks = (seconds.expr * 1e6).round().cast(pl.Int64, strict=False)
    return Built(Kind.TIMESTAMP, timestamp_of(ticks), uses=2)


def _to_seconds(args: Sequence[Node]) -> Built:
    return Built(Kind.NUMBER, quotient(args[0].expr.to_physical(), pl.lit(1e6)))


TIME_FUNCTIONS: tuple[Function, ...] = (
    Function(
        ("SECONDS_BETWEEN",),
        [Param("from", _TS), Param("to", _TS)],
        _seconds_between,
        entry(
            "Time",
            "SECONDS_BETWEEN(from, to)",
            "Seconds from one timestamp to the other, negative if it is earlier.",
            "SECONDS_BETWEEN(ts, ts2)",
            1.5,
            ts="2024-01-01T00:00:00Z",
            ts2="2024-01-01T00:00:01.5Z",
        ),
    ),
    Function(
        ("TO_TIMESTAMP",),
        [Param("seconds", NUMERIC)],
        _to_timestamp,
        entry(
            "Time",
            "TO_TIMESTAMP(seconds)",
            "Seconds since 1970 (UTC) as a timestamp; null outside the years 1 to 9999.",
            "EXTRACT(year FROM TO_TIMESTAMP(a / 1000))",
            2024,
            a=1704067200000,
        ),
    ),
    Function(
        ("TO_SECONDS",),
        [Param("ts", _TS)],
        _to_seconds,
        entry("Time", "TO_SECONDS(ts)", "Seconds since 1970 (UTC).", "TO_SECONDS(ts)", 86400.0, ts="1970-01-02"),
    ),
)
