"""Random well-typed expressions, made from the visitor's own table, and random frames to run them on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import polars as pl
from hypothesis import strategies as st
from sqlglot import exp

from streamproc.core.expressions import compile_expression
from streamproc.core.expressions.casts import TYPES
from streamproc.core.expressions.compiler import ALL_FUNCTIONS
from streamproc.core.expressions.kinds import ANY, ORDERED, Kind, reader
from streamproc.core.expressions.operators import BINARY
from streamproc.core.expressions.table import Function
from streamproc.core.expressions.times import PARTS
from streamproc.errors import ExpressionError

B, I, N, T, S = Kind.BOOLEAN, Kind.INTEGER, Kind.NUMBER, Kind.TIMESTAMP, Kind.TEXT  # noqa: E741
INTS = st.one_of(
    st.integers(-5, 5),
    st.sampled_from([2**63 - 1, -(2**63), 2**53 + 1, 3037000500, 0]),
    st.integers(-(2**63), 2**63 - 1),
)
FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 0.5, 1.0, 49.0, 1e308, -1e308, 5e-324, math.inf, -math.inf, math.nan]),
    st.floats(-100, 100),
    st.floats(),
)
TEXTS = st.one_of(
    st.sampled_from(
        [
            "",
            "a",
            "ab",
            "TRUE",
            "12",
            "-1.5",
            "1e5",
            "inf",
            "nan",
            "é",
            "Straße",
            "😀",
            " a ",
            "2024-02-29",
            "2024-01-02T03:04:05Z",
            "2024-01-02 03:04:05.123456+02:00",
            "2023-02-29T00:00:00Z",
            "2016-12-31T23:59:60Z",
            "0001-01-01T00:00:00+14:00",
            "x\ny",
        ]
    ),
    st.text(max_size=6),
)
TIMES = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001
VALUES: dict[Kind, st.SearchStrategy[Any]] = {B: st.booleans(), I: INTS, N: FLOATS, S: TEXTS, T: TIMES}

# The kinds of the operands of each binary operator, and of its result. One entry for each line of the table.
_NUMERIC = [((I, I), I), ((N, N), N), ((I, N), N), ((N, I), N)]
_SAME: list[tuple[tuple[Kind, Kind], Kind]] = [((k, k), B) for k in ANY]
_ORDER = [((k, k), B) for k in ORDERED] + [((I, N), B)]
OPERANDS: dict[type[exp.Expr], list[tuple[tuple[Kind, Kind], Kind]]] = {
    exp.Add: _NUMERIC,
    exp.Sub: _NUMERIC,
    exp.Mul: _NUMERIC,
    exp.Div: [(pair, N) for pair, _ in _NUMERIC],
    exp.Mod: [((I, I), I)],
    exp.DPipe: [((S, S), S)],
    exp.EQ: _SAME,
    exp.NEQ: _SAME,
    exp.LT: _ORDER,
    exp.LTE: _ORDER,
    exp.GT: _ORDER,
    exp.GTE: _ORDER,
    exp.NullSafeEQ: _SAME,
    exp.NullSafeNEQ: _SAME,
    exp.And: [((B, B), B)],
    exp.Or: [((B, B), B)],
}


def expressions(columns: Mapping[str, pl.DataType], want: str = "any") -> st.SearchStrategy[str]:
    """Texts of allowed expressions over the columns; ``want`` as in ``compile_expression``."""
    kinds = {"any": ANY, "boolean": (B,), "number": (I, N)}[want]
    maker = _Maker(columns)
    made = st.sampled_from(kinds).flatmap(lambda kind: maker.of(kind, 3))
    return made.filter(lambda text: not _divides_by_zero(text, columns))


def _divides_by_zero(text: str, columns: Mapping[str, pl.DataType]) -> bool:
    """Whether a divisor is the constant zero, however it is written: ``3 % (3 % 3)``. It is refused at load."""
    try:
        compile_expression(text, columns)
    except ExpressionError as error:
        return error.message == "divides by zero, always"
    return False


def frames(columns: Mapping[str, pl.DataType], max_rows: int = 8) -> st.SearchStrategy[pl.DataFrame]:
    """Frames of the columns with nulls, NaN, infinities, huge numbers and odd texts."""
    row = st.tuples(*(st.none() | VALUES[_kind(dtype)] for dtype in columns.values()))
    return st.lists(row, max_size=max_rows).map(lambda rows: pl.DataFrame(rows, schema=dict(columns), orient="row"))


def _kind(dtype: pl.DataType) -> Kind:
    found = reader(dtype)
    assert found is not None
    return found[0]


class _Maker:
    """Makes texts of a kind, at most so many levels deep."""

    def __init__(self, columns: Mapping[str, pl.DataType]) -> None:
        self._made: dict[tuple[Kind, int], st.SearchStrategy[str]] = {}
        self._names: dict[Kind, list[str]] = {}
        for name, dtype in columns.items():
            self._names.setdefault(_kind(dtype), []).append('"' + name.replace('"', '""') + '"')

    def of(self, kind: Kind, depth: int) -> st.SearchStrategy[str]:
        if (kind, depth) not in self._made:
            leaves = [_literals(kind)]
            if kind in self._names:
                leaves += [st.sampled_from(self._names[kind])] * 3
            leaf = st.one_of(leaves)
            self._made[kind, depth] = leaf if depth == 0 else st.one_of(leaf, self._inner(kind, depth - 1))
        return self._made[kind, depth]

    def _inner(self, kind: Kind, depth: int) -> st.SearchStrategy[str]:
        """Any of the ways to make the kind; drawn first and built then, which keeps this cheap."""
        ways: list[Callable[[], st.SearchStrategy[str]]] = [
            lambda: self._case(kind, depth),
            lambda: self._if(kind, depth),
        ]
        for operator, forms in OPERANDS.items():
            text = f"({{}} {BINARY[operator].symbol} {{}})"
            ways += [partial(self._filled, text, pair, depth) for pair, result in forms if result is kind]
        ways += [partial(self._call, f, kind, depth) for f in ALL_FUNCTIONS if kind in _results(f)]
        ways += [partial(self._filled, text, kinds, depth) for text, kinds, result in _forms() if result is kind]
        if kind is B:
            ways += [partial(self._in, k, depth) for k in ANY]
        return st.integers(0, len(ways) - 1).flatmap(lambda index: ways[index]())

    def _filled(self, text: str, kinds: tuple[Kind, ...], depth: int) -> st.SearchStrategy[str]:
        return st.tuples(*(self.of(kind, depth) for kind in kinds)).map(lambda parts: text.format(*parts))

    def _case(self, kind: Kind, depth: int) -> st.SearchStrategy[str]:
        branch = self._filled("WHEN {} THEN {}", (B, kind), depth)
        searched = st.tuples(st.lists(branch, min_size=1, max_size=2), self._else(kind, depth)).map(
            lambda parts: f"CASE {' '.join(parts[0])}{parts[1]} END"
        )
        compared = st.tuples(self._filled("CASE {} WHEN {} THEN {}", (I, I, kind), depth), self._else(kind, depth)).map(
            lambda parts: f"{parts[0]}{parts[1]} END"
        )
        return searched | compared

    def _else(self, kind: Kind, depth: int) -> st.SearchStrategy[str]:
        return st.one_of(st.just(""), st.just(" ELSE NULL"), self._filled(" ELSE {}", (kind,), depth))

    def _if(self, kind: Kind, depth: int) -> st.SearchStrategy[str]:
        return self._filled("IF({}, {}, {})", (B, kind, kind), depth)

    def _in(self, kind: Kind, depth: int) -> st.SearchStrategy[str]:
        items = st.lists(_literals(kind), min_size=1, max_size=3).map(", ".join)
        return st.tuples(self.of(kind, depth), st.sampled_from(["IN", "NOT IN"]), items).map(
            lambda parts: f"({parts[0]} {parts[1]} ({parts[2]}))"
        )

    def _call(self, function: Function, kind: Kind, depth: int) -> st.SearchStrategy[str]:
        def argument(index: int) -> st.SearchStrategy[str]:
            param = function.params[index]
            if param.constant:
                return CONSTANTS[function.name, param.name]
            wanted = [k for k in param.kinds if k is kind] if function.alike or kind in (I, N) else []
            return st.sampled_from(wanted or list(param.kinds)).flatmap(lambda k: self.of(k, depth))

        required = sum(not param.optional for param in function.params)
        counts = st.integers(required, len(function.params) + (1 if function.repeated else 0))

        def called(count: int) -> st.SearchStrategy[str]:
            args = [argument(min(index, len(function.params) - 1)) for index in range(count)]
            return st.tuples(*args).map(lambda texts: f"{function.name}({', '.join(texts)})")

        return counts.flatmap(called)


CONSTANTS: dict[tuple[str, str], st.SearchStrategy[str]] = {
    ("ROUND", "digits"): st.integers(0, 15).map(str),
    ("POWER", "exponent"): st.sampled_from(["2", "3", "0.5", "-1", "-0.5", "0", "1", "17", "1e3"]),
    ("SUBSTR", "start"): st.integers(1, 3).map(str),
    ("SUBSTR", "length"): st.integers(0, 3).map(str),
    ("REPLACE", "old"): st.sampled_from(["'a'", "'é'", "'.'", "' '"]),
    ("REPLACE", "new"): st.sampled_from(["''", "'b'", "'$0'", "'${1}'"]),
    ("REGEXP_LIKE", "pattern"): st.sampled_from(["'^a'", "'[0-9]+'", "'(a|b)c?$'", "'\\d'", "''", "'.'"]),
}


def _results(function: Function) -> tuple[Kind, ...]:
    """The kinds that a function may give."""
    if function.alike:
        return tuple(function.params[0].kinds)
    return RESULTS[function.name]


RESULTS: dict[str, tuple[Kind, ...]] = {
    **dict.fromkeys(("ABS", "ROUND", "FLOOR", "CEIL"), (I, N)),
    **dict.fromkeys(("SIGN", "MOD", "LENGTH"), (I,)),
    **dict.fromkeys(("SQRT", "EXP", "LN", "LOG10", "LOG2", "POWER", "SECONDS_BETWEEN", "TO_SECONDS"), (N,)),
    **dict.fromkeys(("LOWER", "UPPER", "TRIM", "SUBSTR", "REPLACE", "CONCAT"), (S,)),
    **dict.fromkeys(("STARTS_WITH", "ENDS_WITH", "CONTAINS", "REGEXP_LIKE"), (B,)),
    "TO_TIMESTAMP": (T,),
}

# Every form but the literals, CASE, IF and IN, which are made above.
MADE_ABOVE = {exp.Literal, exp.Boolean, exp.Null, exp.Case, exp.If, exp.In}
_PATTERNS = ("a%", "%a_", "", "%", "_", "é%", "a.c", "$^", "#&~")


def _forms() -> list[tuple[str, tuple[Kind, ...], Kind]]:
    """Text with places for operands, the operands' kinds, the result's."""
    return [shape for shapes in SHAPES.values() for shape in shapes()]


def _cast_shapes(function: str) -> list[tuple[str, tuple[Kind, ...], Kind]]:
    impossible = {(T, I), (T, N), (T, B), (B, T), (I, T), (N, T)}
    return [
        (f"{function}({{}} AS {name})", (source,), kind)
        for name, kind in TYPES.items()
        for source in ANY
        if (source, kind) not in impossible
    ]


Shapes = Callable[[], list[tuple[str, tuple[Kind, ...], Kind]]]
SHAPES: dict[type[exp.Expr], Shapes] = {
    exp.Neg: lambda: [("(- {})", (I,), I), ("(- {})", (N,), N)],
    exp.Not: lambda: [("(NOT {})", (B,), B)],
    exp.Is: lambda: [
        *((f"({{}} IS {word} NULL)", (kind,), B) for kind in ANY for word in ("", "NOT")),
        *((f"({{}} IS {word})", (B,), B) for word in ("TRUE", "FALSE", "NOT TRUE", "NOT FALSE")),
    ],
    exp.Between: lambda: [
        *(("({} BETWEEN {} AND {})", (kind, kind, kind), B) for kind in ORDERED),
        ("({} NOT BETWEEN {} AND {})", (N, I, N), B),
    ],
    exp.Like: lambda: [(f"({{}} LIKE '{pattern}')", (S,), B) for pattern in _PATTERNS],
    exp.ILike: lambda: [(f"({{}} ILIKE '{pattern}')", (S,), B) for pattern in _PATTERNS],
    exp.Cast: lambda: _cast_shapes("CAST"),
    exp.TryCast: lambda: _cast_shapes("TRY_CAST")[:5],
    exp.Extract: lambda: [(f"EXTRACT({part} FROM {{}})", (T,), I) for part in PARTS],
}


def _literals(kind: Kind) -> st.SearchStrategy[str]:
    finite = FLOATS.filter(math.isfinite)
    return {
        B: st.sampled_from(["TRUE", "FALSE"]),
        I: INTS.map(str),
        N: finite.map(repr),
        S: TEXTS.map(lambda text: "'" + text.replace("'", "''") + "'"),
        T: TIMES.map(lambda time: f"CAST('{time.isoformat()}' AS TIMESTAMP)"),
    }[kind]
