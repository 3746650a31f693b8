"""A compiled piece of an expression, and the few ways to make one from others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from typing import Literal, TypeAlias

import polars as pl

from streamproc.core.expressions.kinds import INT64_MAX, INT64_MIN, Kind, Value
from streamproc.core.expressions.parser import SPLIT_IT
from streamproc.errors import ExpressionError

# Polars evaluates a sub-expression once for each place it stands in. The bound keeps one expression on 4,000
# rows to some milliseconds, and stops copies of copies of copies.
MAX_SIZE = 2_000

# How tightly the parts of canonical text bind, loosest first.
OR, AND, NOT, COMPARE, ADD, MULTIPLY, UNARY, ATOM = range(8)

Comparison: TypeAlias = Literal["eq", "ne", "lt", "le", "gt", "ge", "eq_missing", "ne_missing"]

_MIRRORED: dict[Comparison, Comparison] = {
    "eq": "eq",
    "ne": "ne",
    "lt": "gt",
    "le": "ge",
    "gt": "lt",
    "ge": "le",
    "eq_missing": "eq_missing",
    "ne_missing": "ne_missing",
}
_ONE_ROW = pl.DataFrame({"row": [0]})
_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Node:
    """One compiled node. ``value`` counts only if the node is constant (reads no column).

    ``finite`` says that a float is never NaN or infinite. + - * and the like carry those on, so that they are
    turned into null once, where the result is used, and not after every step.
    """

    kind: Kind
    expr: pl.Expr
    sql: str
    offset: int
    binds: int = ATOM
    columns: frozenset[str] = _NOTHING
    params: frozenset[str] = _NOTHING
    finite: bool = True
    size: int = 1
    value: Value = None

    @property
    def constant(self) -> bool:
        """Whether it reads no column, and so is the same for every event."""
        return not self.columns

    def inside(self, binds: int) -> str:
        """Canonical text as part of something that binds that tightly."""
        return self.sql if self.binds >= binds else f"({self.sql})"


@dataclass(frozen=True, slots=True)
class Built:
    """What an operator or function makes of its arguments. ``uses``: how often it repeats each of them."""

    kind: Kind
    expr: pl.Expr
    finite: bool = True
    uses: int = 1


def join(built: Built, parts: Sequence[Node], sql: str, offset: int, binds: int = ATOM) -> Node:
    """A node from what was built of its parts; one without columns is evaluated now and becomes a literal."""
    size = 2 + built.uses * sum(part.size for part in parts)
    if size > MAX_SIZE:
        raise ExpressionError("the expression is too large", SPLIT_IT, offset)
    node = Node(
        kind=built.kind,
        expr=built.expr,
        sql=sql,
        offset=offset,
        binds=binds,
        columns=_NOTHING.union(*(part.columns for part in parts)),
        params=_NOTHING.union(*(part.params for part in parts)),
        finite=built.finite,
        size=size,
    )
    if node.constant and node.kind is not Kind.NULL:
        value: Value = _ONE_ROW.select(clean(node).expr.alias("value"))["value"][0]
        return constant(node, value)
    return node


def constant(node: Node, value: Value) -> Node:
    """The node as a literal of its kind."""
    return replace(node, value=value, expr=pl.lit(value, dtype=node.kind.dtype), finite=True, size=1)


def literal(value: Value, sql: str, offset: int, params: frozenset[str] = _NOTHING) -> Node:
    """A literal or a param.

    Raises ExpressionError: an integer beyond 64 bits, a float that is not finite.
    """
    match value:
        case None:
            kind = Kind.NULL
        case bool():
            kind = Kind.BOOLEAN
        case int():
            kind = Kind.INTEGER
            if not INT64_MIN <= value <= INT64_MAX:
                raise ExpressionError(f"{value} does not fit 64 bits", f"write it as a decimal: {value}.0", offset)
        case float():
            kind = Kind.NUMBER
            if not math.isfinite(value):
                raise ExpressionError("the number does not fit a double", "numbers end at about 1.8e308", offset)
        case str():
            kind = Kind.TEXT
        case _:
            kind, value = Kind.TIMESTAMP, value.astimezone(UTC)
    node = Node(kind, pl.lit(None), sql, offset, params=params)
    return constant(node, value)


def clean(node: Node) -> Node:
    """The node with NaN and infinity turned into null."""
    if node.finite:
        return node
    expr = pl.when(node.expr.is_finite()).then(node.expr)
    return replace(node, expr=expr, finite=True, size=2 * node.size + 1)


def quotient(left: pl.Expr, right: pl.Expr, *, repeat: bool = False) -> pl.Expr:
    """``left / right`` in doubles, the same for a row in every batch; may be NaN or infinite.

    Where the divisor is one number for all rows, Polars multiplies by its reciprocal, which differs from a
    division in the last bit (49 / 49 is 0.9999999999999999 in a batch of two and 1 alone). Adding a column of
    zeros makes the divisor each row's own, also where a caller's frame holds it as a scalar. ``repeat`` makes them of
    the dividend, which is then evaluated twice: half the cost for a small one. (If that is one number for all rows
    too, Polars divides the two numbers.)
    """
    dividend = left.cast(pl.Float64)
    zeros = (dividend if repeat else pl.int_range(pl.len()).cast(pl.Float64)) * 0.0
    return dividend / (right.cast(pl.Float64) + zeros)


def compare(comparison: Comparison, left: Node, right: Node) -> pl.Expr:
    """One of Polars' comparisons, with a constant always on the right.

    A constant on the left of a column that Polars holds as one scalar gives one row instead of the frame's
    height (2.1), and any column may be one: of a caller's frame, or a CASE with one
    branch for all rows.
    """
    if left.constant and not right.constant:
        comparison, left, right = _MIRRORED[comparison], right, left
    result: pl.Expr = getattr(left.expr, comparison)(right.expr)
    return result


def coerce(node: Node, kind: Kind) -> Node:
    """The node as that kind: a whole number as a double, a bare NULL as anything, the rest unchanged."""
    if node.kind is kind:
        return node
    if node.constant:
        value = float(node.value) if kind is Kind.NUMBER and isinstance(node.value, int) else node.value
        return constant(replace(node, kind=kind), value)
    return replace(node, kind=kind, expr=node.expr.cast(kind.dtype), size=node.size + 1)


def alike(nodes: Sequence[Node], what: str) -> list[Node]:
    """The nodes as one kind: whole numbers among numbers become doubles, bare NULLs take the others' kind.

    Raises ExpressionError at the first node that does not go with those before it.
    """
    kind = Kind.NULL
    for node in nodes:
        if node.kind is Kind.NULL or node.kind is kind:
            continue
        if kind is Kind.NULL:
            kind = node.kind
        elif kind.numeric and node.kind.numeric:
            kind = Kind.NUMBER
        else:
            raise ExpressionError(
                f"{what}: {kind} and {node.kind} do not go together",
                _conversion(kind, node.kind),
                node.offset,
            )
    return [coerce(node, kind) for node in nodes]


def demand(node: Node, kinds: Sequence[Kind], what: str) -> Node:
    """The node if it is of one of the kinds (a bare NULL becomes the first of them).

    Raises ExpressionError otherwise.
    """
    if node.kind in kinds:
        return node
    if node.kind is Kind.NULL:
        return coerce(node, kinds[0])
    wanted = " or ".join(str(kind) for kind in kinds if not (kind is Kind.INTEGER and Kind.NUMBER in kinds))
    raise ExpressionError(f"{what} needs {wanted}, not {node.kind}", _conversion(kinds[0], node.kind), node.offset)


def quote_text(value: str) -> str:
    """A text as canonical text: in single quotes, its own doubled."""
    return "'" + value.replace("'", "''") + "'"


def quote_name(name: str) -> str:
    """A name as canonical text: always quoted, so that no list of reserved words enters the plan's hash."""
    return '"' + name.replace('"', '""') + '"'


def _conversion(one: Kind, other: Kind) -> str:
    """What to write so that two kinds meet."""
    pair = {one, other}
    if Kind.BOOLEAN in pair and pair & {Kind.INTEGER, Kind.NUMBER}:
        return "IF(p, 1, 0) makes numbers of true and false, x <> 0 a condition of numbers"
    if Kind.TEXT in pair and pair & {Kind.INTEGER, Kind.NUMBER}:
        return "text stands in single quotes, numbers do not; or CAST(… AS DOUBLE), CAST(… AS TEXT)"
    if Kind.TEXT in pair and Kind.TIMESTAMP in pair:
        return "convert the text: CAST(… AS TIMESTAMP)"
    if Kind.TIMESTAMP in pair and pair & {Kind.INTEGER, Kind.NUMBER}:
        return "see SECONDS_BETWEEN(a, b), EXTRACT(hour FROM ts), TO_SECONDS(ts), TO_TIMESTAMP(x)"
    return "convert one of them with CAST(… AS …)"
