"""Operators: what each makes of its operands, and its line in the docs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import polars as pl
from sqlglot import exp

from streamproc.core.expressions import node as n
from streamproc.core.expressions.kinds import INT64_MIN, NUMERIC, ORDERED, Kind
from streamproc.core.expressions.node import Built, Node, alike, clean, demand
from streamproc.core.expressions.table import Entry, Example
from streamproc.errors import ExpressionError

SMALL = 4  # nodes that are cheaper to evaluate twice than to make a column of zeros
_NULL_IF_ANY = "null if one side is"


@dataclass(frozen=True, slots=True)
class Binary:
    """One binary operator. ``build`` gets both sides and the symbol, which it names in errors."""

    symbol: str
    binds: int
    build: Callable[[Node, Node, str], Built]
    entry: Entry


def apply(operator: Binary, left: Node, right: Node) -> Node:
    """The node of ``left operator right``.

    Raises ExpressionError: kinds that do not go together.
    """
    built = operator.build(left, right, operator.symbol)
    # Comparisons do not chain in canonical text: (a = b) = c keeps its brackets.
    outer = operator.binds + (operator.binds == n.COMPARE)
    text = f"{left.inside(outer)} {operator.symbol} {right.inside(operator.binds + 1)}"
    return n.join(built, (left, right), text, left.offset, operator.binds)


def chain(operator: Binary, operands: Sequence[Node]) -> Node:
    """``a AND b AND c …`` as a balanced tree: Polars' planning grows with the cube of a tree's depth."""
    if len(operands) == 1:
        return operands[0]
    half = (len(operands) + 1) // 2
    made = apply(operator, chain(operator, operands[:half]), chain(operator, operands[half:]))
    texts = [operands[0].inside(operator.binds), *(o.inside(operator.binds + 1) for o in operands[1:])]
    return replace(made, sql=f" {operator.symbol} ".join(texts))


def negate(operand: Node, offset: int) -> Node:
    """``-x``; null for -2^63, whose opposite does not fit 64 bits. Raises ExpressionError for what is no number."""
    operand = demand(operand, NUMERIC, "-")
    if operand.kind is Kind.INTEGER:
        # -(-2^63) does not fit; Polars would hand back -2^63.
        kept = pl.when(operand.expr != INT64_MIN).then(-operand.expr)
        built = Built(Kind.INTEGER, kept, uses=2)
    else:
        built = Built(Kind.NUMBER, -operand.expr, operand.finite)
    inner = operand.inside(n.UNARY)
    text = f"-({inner})" if inner.startswith("-") else f"-{inner}"  # two dashes would begin a comment
    return n.join(built, (operand,), text, offset, n.UNARY)


def invert(operand: Node, offset: int) -> Node:
    """``NOT p``; null stays null. Raises ExpressionError for what is not boolean."""
    operand = demand(operand, (Kind.BOOLEAN,), "NOT")
    return n.join(Built(Kind.BOOLEAN, ~operand.expr), (operand,), f"NOT {operand.inside(n.NOT)}", offset, n.NOT)


def _arithmetic(compute: Callable[[pl.Expr, pl.Expr], pl.Expr]) -> Callable[[Node, Node, str], Built]:
    def build(left: Node, right: Node, symbol: str) -> Built:
        left, right = alike((demand(left, NUMERIC, symbol), demand(right, NUMERIC, symbol)), symbol)
        if left.kind is Kind.NUMBER:
            return Built(Kind.NUMBER, compute(left.expr, right.expr), finite=False)
        # 128 bits hold every sum and product of 64-bit numbers; what does not fit back is null.
        wide = compute(left.expr.cast(pl.Int128), right.expr.cast(pl.Int128))
        return Built(Kind.INTEGER, wide.cast(pl.Int64, strict=False))

    return build


def _divide(left: Node, right: Node, symbol: str) -> Built:
    left, right = (demand(side, NUMERIC, symbol) for side in (left, right))
    _refuse_zero(right)
    return Built(Kind.NUMBER, n.quotient(left.expr, clean(right).expr, repeat=left.size <= SMALL), finite=False, uses=2)


def remainder(left: Node, right: Node, symbol: str) -> Built:
    """The remainder of whole numbers with the sign of the first, as in SQL (Polars: of the second)."""
    left, right = (demand(side, (Kind.INTEGER,), symbol) for side in (left, right))
    _refuse_zero(right)
    wide, by = left.expr.cast(pl.Int128), right.expr.cast(pl.Int128)
    return Built(Kind.INTEGER, (wide.sign() * (wide.abs() % by.abs())).cast(pl.Int64, strict=False), uses=2)


def _refuse_zero(divisor: Node) -> None:
    if divisor.constant and divisor.value == 0:
        raise ExpressionError("divides by zero, always", "write NULL if null is meant", divisor.offset)


def _compare(comparison: n.Comparison, ordered: bool) -> Callable[[Node, Node, str], Built]:
    def build(left: Node, right: Node, symbol: str) -> Built:
        for side in (left, right):
            if side.kind is Kind.NULL:
                raise ExpressionError(f"{symbol} NULL is never true", "write IS NULL or IS NOT NULL", side.offset)
        pair = [demand(side, ORDERED, symbol) for side in (left, right)] if ordered else [left, right]
        left, right = map(clean, alike(pair, symbol))
        return Built(Kind.BOOLEAN, n.compare(comparison, left, right), uses=2)

    return build


def _distinct(comparison: n.Comparison) -> Callable[[Node, Node, str], Built]:
    def build(left: Node, right: Node, symbol: str) -> Built:
        left, right = map(clean, alike((left, right), symbol))
        if left.kind is Kind.NULL:
            raise ExpressionError("compares NULL with NULL", "name a column", left.offset)
        return Built(Kind.BOOLEAN, n.compare(comparison, left, right), uses=2)

    return build


def _logic(compute: Callable[[pl.Expr, pl.Expr], pl.Expr]) -> Callable[[Node, Node, str], Built]:
    def build(left: Node, right: Node, symbol: str) -> Built:
        left, right = (demand(side, (Kind.BOOLEAN,), symbol) for side in (left, right))
        return Built(Kind.BOOLEAN, compute(left.expr, right.expr))

    return build


def _concatenate(left: Node, right: Node, symbol: str) -> Built:
    left, right = (demand(side, (Kind.TEXT,), symbol) for side in (left, right))
    return Built(Kind.TEXT, pl.concat_str(left.expr, right.expr))


_SAME = "text by code point, timestamps by time, whole numbers with numbers as doubles"

BINARY: dict[type[exp.Expr], Binary] = {
    exp.Add: Binary(
        "+",
        n.ADD,
        _arithmetic(lambda a, b: a + b),
        Entry(
            "Arithmetic",
            "x + y",
            "Sum. Whole numbers stay whole; a result beyond 64 bits is null.",
            _NULL_IF_ANY,
            Example("a + 1", {"a": 9223372036854775807}, None),
        ),
    ),
    exp.Sub: Binary(
        "-",
        n.ADD,
        _arithmetic(lambda a, b: a - b),
        Entry(
            "Arithmetic",
            "x - y",
            "Difference, as +.",
            _NULL_IF_ANY,
            Example("a - x", {"a": 2, "x": 1.5}, 0.5),
        ),
    ),
    exp.Mul: Binary(
        "*",
        n.MULTIPLY,
        _arithmetic(lambda a, b: a * b),
        Entry("Arithmetic", "x * y", "Product, as +.", _NULL_IF_ANY, Example("a * b", {"a": 6, "b": 7}, 42)),
    ),
    exp.Div: Binary(
        "/",
        n.MULTIPLY,
        _divide,
        Entry(
            "Arithmetic",
            "x / y",
            "Quotient, always a double; dividing by zero gives null.",
            _NULL_IF_ANY,
            Example("a / b", {"a": 7, "b": 2}, 3.5),
        ),
    ),
    exp.Mod: Binary(
        "%",
        n.MULTIPLY,
        remainder,
        Entry(
            "Arithmetic",
            "a % b",
            "Remainder of whole numbers, with the sign of the first; % 0 gives null.",
            _NULL_IF_ANY,
            Example("a % 3", {"a": -7}, -1),
        ),
    ),
    exp.DPipe: Binary(
        "||",
        n.ADD,
        _concatenate,
        Entry(
            "Text",
            "s || t",
            "The two texts, one after the other.",
            _NULL_IF_ANY,
            Example("s || '-' || t", {"s": "a", "t": "b"}, "a-b"),
        ),
    ),
    exp.EQ: Binary(
        "=",
        n.COMPARE,
        _compare("eq", ordered=False),
        Entry(
            "Comparison",
            "x = y",
            f"Equal: {_SAME}.",
            _NULL_IF_ANY,
            Example("s = 'drifting'", {"s": "drifting"}, True),
        ),
    ),
    exp.NEQ: Binary(
        "<>",
        n.COMPARE,
        _compare("ne", ordered=False),
        Entry("Comparison", "x <> y, x != y", "Not equal.", _NULL_IF_ANY, Example("a <> 1", {"a": None}, None)),
    ),
    exp.LT: Binary(
        "<",
        n.COMPARE,
        _compare("lt", ordered=True),
        Entry(
            "Comparison",
            "x < y",
            "Less; not for true and false.",
            _NULL_IF_ANY,
            Example("x < 0.5", {"x": 0.25}, True),
        ),
    ),
    exp.LTE: Binary(
        "<=",
        n.COMPARE,
        _compare("le", ordered=True),
        Entry("Comparison", "x <= y", "Less or equal.", _NULL_IF_ANY, Example("a <= 3", {"a": 4}, False)),
    ),
    exp.GT: Binary(
        ">",
        n.COMPARE,
        _compare("gt", ordered=True),
        Entry("Comparison", "x > y", "Greater.", _NULL_IF_ANY, Example("x / y > 1", {"x": 1.0, "y": 0.0}, None)),
    ),
    exp.GTE: Binary(
        ">=",
        n.COMPARE,
        _compare("ge", ordered=True),
        Entry(
            "Comparison",
            "x >= y",
            "Greater or equal.",
            _NULL_IF_ANY,
            Example("ts >= ts2", {"ts": "2024-01-02", "ts2": "2024-01-01"}, True),
        ),
    ),
    exp.NullSafeEQ: Binary(
        "IS NOT DISTINCT FROM",
        n.COMPARE,
        _distinct("eq_missing"),
        Entry(
            "Comparison",
            "x IS NOT DISTINCT FROM y",
            "Equal, or both null.",
            "never null",
            Example("a IS NOT DISTINCT FROM b", {}, True),
        ),
    ),
    exp.NullSafeNEQ: Binary(
        "IS DISTINCT FROM",
        n.COMPARE,
        _distinct("ne_missing"),
        Entry(
            "Comparison",
            "x IS DISTINCT FROM y",
            "Not equal, or one of them null.",
            "never null",
            Example("a IS DISTINCT FROM b", {"a": 1}, True),
        ),
    ),
    exp.And: Binary(
        "AND",
        n.AND,
        _logic(lambda a, b: a & b),
        Entry(
            "Logic",
            "p AND q",
            "Both.",
            "false if one side is false; else null if one side is null",
            Example("flag AND a > 1", {"flag": None, "a": 0}, False),
        ),
    ),
    exp.Or: Binary(
        "OR",
        n.OR,
        _logic(lambda a, b: a | b),
        Entry(
            "Logic",
            "p OR q",
            "One or both.",
            "true if one side is true; else null if one side is null",
            Example("flag OR a > 1", {"flag": None, "a": 2}, True),
        ),
    ),
}
