"""CAST: from any kind to any other that makes sense. A value that cannot be converted is null."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
from sqlglot import exp

from streamproc.core.expressions.kinds import Kind
from streamproc.core.expressions.node import Built, Node, clean, coerce
from streamproc.core.expressions.times import parse_timestamp
from streamproc.errors import ExpressionError

# The names that a type may be written with; the first of a kind is the canonical one.
TYPES: dict[str, Kind] = {
    "BIGINT": Kind.INTEGER,
    "INT": Kind.INTEGER,
    "DOUBLE": Kind.NUMBER,
    "TEXT": Kind.TEXT,
    "VARCHAR": Kind.TEXT,
    "BOOLEAN": Kind.BOOLEAN,
    "TIMESTAMP": Kind.TIMESTAMP,
    "TIMESTAMPTZ": Kind.TIMESTAMP,
}
_CANONICAL = {kind: next(name for name, k in TYPES.items() if k is kind) for kind in TYPES.values()}
_ALLOWED = "allowed are BIGINT (INTEGER), DOUBLE, TEXT (VARCHAR), BOOLEAN, TIMESTAMP"

_TRUTHS = {"true": True, "false": False}

_CASTS: dict[tuple[Kind, Kind], Callable[[pl.Expr], pl.Expr]] = {
    (Kind.BOOLEAN, Kind.INTEGER): lambda x: x.cast(pl.Int64),
    (Kind.NUMBER, Kind.INTEGER): lambda x: x.cast(pl.Int64, strict=False),
    (Kind.TEXT, Kind.INTEGER): lambda x: x.cast(pl.Int64, strict=False),
    (Kind.BOOLEAN, Kind.NUMBER): lambda x: x.cast(pl.Float64),
    (Kind.INTEGER, Kind.NUMBER): lambda x: x.cast(pl.Float64),
    (Kind.TEXT, Kind.NUMBER): lambda x: x.cast(pl.Float64, strict=False),
    (Kind.INTEGER, Kind.TEXT): lambda x: x.cast(pl.String),
    (Kind.NUMBER, Kind.TEXT): lambda x: x.cast(pl.String),
    (Kind.BOOLEAN, Kind.TEXT): lambda x: x.cast(pl.String),
    (Kind.TIMESTAMP, Kind.TEXT): lambda x: x.dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ"),
    (Kind.INTEGER, Kind.BOOLEAN): lambda x: x != 0,
    (Kind.NUMBER, Kind.BOOLEAN): lambda x: x != 0,
    (Kind.TEXT, Kind.BOOLEAN): lambda x: x.str.to_lowercase().replace_strict(
        _TRUTHS, default=None, return_dtype=pl.Boolean
    ),
    (Kind.TEXT, Kind.TIMESTAMP): parse_timestamp,
}


def target(to: exp.DataType, offset: int) -> tuple[Kind, str]:
    """The kind that a written type stands for, and the type's canonical name.

    Raises ExpressionError: a type that values cannot be cast to.
    """
    name = to.this.value if isinstance(to.this, exp.DataType.Type) else str(to.this)
    kind = TYPES.get(name)
    if kind is None or to.expressions:
        hint = f"{_ALLOWED}; a date is a TIMESTAMP at midnight" if name == "DATE" else _ALLOWED
        raise ExpressionError(f"CAST to {to.sql()} is not supported", hint, offset)
    return kind, _CANONICAL[kind]


def cast(node: Node, kind: Kind) -> Built:
    """The node as that kind, null where a value cannot be converted.

    Raises ExpressionError: kinds without a conversion.
    """
    if node.kind in (Kind.NULL, kind):
        same = coerce(node, kind)
        return Built(kind, same.expr, same.finite)
    compute = _CASTS.get((node.kind, kind))
    if compute is None:
        seconds = Kind.TIMESTAMP in (node.kind, kind) and (node.kind.numeric or kind.numeric)
        hint = "see TO_TIMESTAMP(seconds) and TO_SECONDS(ts)" if seconds else "there is no such conversion"
        raise ExpressionError(f"{node.kind} cannot become {kind}", hint, node.offset)
    source = clean(node)
    return Built(kind, compute(source.expr), finite=kind is not Kind.NUMBER, uses=2)
