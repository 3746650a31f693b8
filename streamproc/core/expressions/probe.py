"""The trial at load: an expression must give its type on no rows, on nulls and on values."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal

import polars as pl

from streamproc.errors import ExpressionError


def probe(expr: pl.Expr, dtype: pl.DataType, columns: Mapping[str, pl.DataType]) -> None:
    """Raises ExpressionError: Polars cannot evaluate the expression, or it gives a wrong type or height."""
    schema = {"row": pl.Int64(), **columns}
    null = dict.fromkeys(schema, None)
    some = {name: _sample(column) for name, column in schema.items()}
    for rows in ([], [null], [some], [null, some, null]):
        frame = pl.DataFrame({name: [row[name] for row in rows] for name in schema}, schema=schema)
        try:
            result = frame.select(expr.alias("result"))["result"]
        except pl.exceptions.PolarsError as error:
            first = str(error).split("\n", 1)[0]
            raise ExpressionError(
                f"cannot be evaluated: {first}", "please report this: it should have been refused"
            ) from error
        if result.dtype != dtype or len(result) != len(rows):
            raise ExpressionError(
                f"gives {result.dtype} of height {len(result)}, not {dtype} of height {len(rows)}",
                "please report this: it should have been refused",
            )


def _sample(dtype: pl.DataType) -> object:
    """One ordinary value of a type."""
    if dtype == pl.Boolean:
        return True
    if dtype.is_decimal():
        return Decimal(1)
    if dtype.is_integer():
        return 1
    if dtype.is_float():
        return 0.5
    if dtype == pl.Date:
        return date(2024, 1, 2)
    if isinstance(dtype, pl.Datetime):
        return datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC if dtype.time_zone else None)
    if isinstance(dtype, pl.Enum):
        return next(iter(dtype.categories), None)
    return "text"
