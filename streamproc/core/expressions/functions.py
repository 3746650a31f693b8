"""The allowed functions on numbers and on values of any kind; text.py and times.py have the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from streamproc.core.expressions import operators
from streamproc.core.expressions.kinds import ANY, INT64_MIN, NUMERIC, ORDERED, Kind
from streamproc.core.expressions.node import Built, Node, compare
from streamproc.core.expressions.table import Entry, Example, Function, Param, Plain
from streamproc.errors import ExpressionError

_X = Param("x", NUMERIC)
_WHOLE = (Kind.INTEGER,)


def entry(group: str, signature: str, meaning: str, expression: str, result: Plain, **inputs: Plain) -> Entry:
    """A line of the docs for a function that is null when an argument is."""
    return Entry(group, signature, meaning, "null if an argument is", Example(expression, inputs, result))


def _double(compute: Callable[[pl.Expr], pl.Expr]) -> Callable[[Sequence[Node]], Built]:
    """A function of a double that may leave the finite numbers."""

    def build(args: Sequence[Node]) -> Built:
        return Built(Kind.NUMBER, compute(args[0].expr.cast(pl.Float64)), finite=False)

    return build


def _whole_stays(compute: Callable[[pl.Expr], pl.Expr]) -> Callable[[Sequence[Node]], Built]:
    """A function that rounds doubles and leaves whole numbers as they are."""

    def build(args: Sequence[Node]) -> Built:
        x = args[0]
        return Built(x.kind, x.expr if x.kind is Kind.INTEGER else compute(x.expr), x.finite)

    return build


def _absolute(args: Sequence[Node]) -> Built:
    x = args[0]
    if x.kind is Kind.INTEGER:  # the absolute value of -2^63 does not fit; Polars would hand back -2^63
        return Built(Kind.INTEGER, pl.when(x.expr != INT64_MIN).then(x.expr.abs()), uses=2)
    return Built(Kind.NUMBER, x.expr.abs(), x.finite)


def _sign(args: Sequence[Node]) -> Built:
    return Built(Kind.INTEGER, args[0].expr.sign().cast(pl.Int64))


def _round(args: Sequence[Node]) -> Built:
    x = args[0]
    digits = integer(args[1], "ROUND", 0, 15) if len(args) > 1 else 0
    if x.kind is Kind.INTEGER:
        return Built(Kind.INTEGER, x.expr)
    return Built(Kind.NUMBER, x.expr.round(digits, mode="half_away_from_zero"), finite=False)


def _power(args: Sequence[Node]) -> Built:
    x, power = args
    if power.value is None:
        raise ExpressionError("POWER to NULL is always NULL", "write a number", power.offset)
    return Built(Kind.NUMBER, x.expr.cast(pl.Float64).pow(float(power.value)), finite=False)  # type: ignore[arg-type]


def _remainder(args: Sequence[Node]) -> Built:
    return operators.remainder(args[0], args[1], "MOD")


def _coalesce(args: Sequence[Node]) -> Built:
    return Built(args[0].kind, pl.coalesce([arg.expr for arg in args]))


def _null_if(args: Sequence[Node]) -> Built:
    x, y = args
    return Built(x.kind, pl.when(compare("ne_missing", x, y)).then(x.expr), uses=2)


def _extreme(pick: Callable[[list[pl.Expr]], pl.Expr]) -> Callable[[Sequence[Node]], Built]:
    def build(args: Sequence[Node]) -> Built:
        exprs = [arg.expr for arg in args]
        known = [arg.expr.is_not_null() for arg in args if not (arg.constant and arg.value is not None)]
        picked = pick(exprs)
        if known:
            picked = pl.when(pl.all_horizontal(known)).then(picked)
        return Built(args[0].kind, picked, uses=2)

    return build


def integer(arg: Node, function: str, low: int, high: int) -> int:
    """The value of a constant whole-number argument.

    Raises ExpressionError: NULL, or outside low to high.
    """
    value = arg.value
    if not isinstance(value, int) or not low <= value <= high:
        raise ExpressionError(f"{function} needs a constant from {low} to {high} here, not {arg.sql}", "", arg.offset)
    return value


FUNCTIONS: tuple[Function, ...] = (
    Function(
        ("ABS",),
        [_X],
        _absolute,
        entry("Numbers", "ABS(x)", "Size without sign.", "ABS(x - 0.5) * 2", 0.5, x=0.25),
        carries=True,
    ),
    Function(
        ("ROUND",),
        [_X, Param("digits", _WHOLE, constant=True, optional=True)],
        _round,
        entry(
            "Numbers",
            "ROUND(x [, digits])",
            "To 0 to 15 decimals, halves away from zero. Whole numbers stay.",
            "ROUND(x, 1)",
            2.5,
            x=2.46,
        ),
        carries=True,
    ),
    Function(
        ("FLOOR",),
        [_X],
        _whole_stays(lambda x: x.floor()),
        entry(
            "Numbers",
            "FLOOR(x)",
            "Largest whole number not above x; a double stays a double.",
            "FLOOR(x)",
            -3.0,
            x=-2.5,
        ),
        carries=True,
    ),
    Function(
        ("CEIL", "CEILING"),
        [_X],
        _whole_stays(lambda x: x.ceil()),
        entry(
            "Numbers",
            "CEIL(x)",
            "Smallest whole number not below x; a double stays a double.",
            "CEIL(x)",
            3.0,
            x=2.5,
        ),
        carries=True,
    ),
    Function(("SIGN",), [_X], _sign, entry("Numbers", "SIGN(x)", "-1, 0 or 1.", "SIGN(x)", -1, x=-2.5)),
    Function(
        ("SQRT",),
        [_X],
        _double(lambda x: x.sqrt()),
        entry("Numbers", "SQRT(x)", "Square root; null below zero.", "SQRT(x)", None, x=-1.0),
    ),
    Function(
        ("EXP",),
        [_X],
        _double(lambda x: x.exp()),
        entry(
            "Numbers",
            "EXP(x)",
            "e to the power of x; null when it does not fit a double.",
            "EXP(x)",
            1.0,
            x=0.0,
        ),
    ),
    Function(
        ("LN",),
        [_X],
        _double(lambda x: x.log()),
        entry("Numbers", "LN(x)", "Natural logarithm; null at zero and below.", "LN(x)", None, x=0.0),
    ),
    Function(
        ("LOG10",),
        [_X],
        _double(lambda x: x.log10()),
        entry("Numbers", "LOG10(x)", "Logarithm to base 10; null at zero and below.", "LOG10(a)", 2.0, a=100),
    ),
    Function(
        ("LOG2",),
        [_X],
        _double(lambda x: x.log(2.0)),
        entry("Numbers", "LOG2(x)", "Logarithm to base 2; null at zero and below.", "LOG2(a)", 3.0, a=8),
    ),
    Function(
        ("POWER", "POW"),
        [_X, Param("exponent", NUMERIC, constant=True)],
        _power,
        entry(
            "Numbers",
            "POWER(x, exponent)",
            "x to a constant exponent, a double; null where there is none. Of two columns: EXP(y * LN(x)).",
            "POWER(x, 2)",
            6.25,
            x=2.5,
        ),
    ),
    Function(
        ("MOD",),
        [Param("a", _WHOLE), Param("b", _WHOLE)],
        _remainder,
        entry("Numbers", "MOD(a, b)", "The same as a % b.", "MOD(a, b)", None, a=7, b=0),
    ),
    Function(
        ("COALESCE",),
        [Param("x", ANY), Param("y", ANY)],
        _coalesce,
        Entry(
            "Missing values",
            "COALESCE(x, y, …)",
            "The first that is not null.",
            "null if all are",
            Example("COALESCE(a, b, 0)", {"a": None, "b": 5}, 5),
        ),
        repeated=True,
        alike=True,
    ),
    Function(
        ("NULLIF",),
        [Param("x", ANY), Param("y", ANY)],
        _null_if,
        Entry(
            "Missing values",
            "NULLIF(x, y)",
            "Null if x = y, else x.",
            "null if x is; x if y is null",
            Example("NULLIF(s, '')", {"s": ""}, None),
        ),
        alike=True,
    ),
    Function(
        ("GREATEST",),
        [Param("x", ORDERED), Param("y", ORDERED)],
        _extreme(pl.max_horizontal),
        entry(
            "Numbers",
            "GREATEST(x, y, …)",
            "The largest. To leave missing ones out, give them a value: GREATEST(COALESCE(a, 0), b).",
            "GREATEST(a, b)",
            None,
            a=1,
            b=None,
        ),
        repeated=True,
        alike=True,
    ),
    Function(
        ("LEAST",),
        [Param("x", ORDERED), Param("y", ORDERED)],
        _extreme(pl.min_horizontal),
        entry("Numbers", "LEAST(x, y, …)", "The smallest.", "LEAST(a, b, 3)", 1, a=1, b=2),
        repeated=True,
        alike=True,
    ),
)
