"""Syntax that is neither an operator between two values nor a call: IS, BETWEEN, IN, LIKE, CASE, CAST …"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import polars as pl
from sqlglot import exp

from streamproc.core.expressions import node as n
from streamproc.core.expressions import operators
from streamproc.core.expressions.casts import cast, target
from streamproc.core.expressions.functions import entry
from streamproc.core.expressions.kinds import ORDERED, Kind
from streamproc.core.expressions.node import Built, Node, alike, clean, demand, join
from streamproc.core.expressions.parser import place
from streamproc.core.expressions.table import Entry, Example
from streamproc.core.expressions.text import like
from streamproc.core.expressions.times import PARTS
from streamproc.errors import ExpressionError

Visit: TypeAlias = Callable[[exp.Expr], Node]

_INNER = n.COMPARE + 1


@dataclass(frozen=True, slots=True)
class Form:
    """One piece of syntax. ``args`` are the parts of sqlglot's node that it reads; any other is refused."""

    compile: Callable[[Any, Visit], Node]
    args: frozenset[str]
    entries: tuple[Entry, ...]


def _not(tree: exp.Not, visit: Visit) -> Node:
    return operators.invert(visit(tree.this), place(tree))


def _negative(tree: exp.Neg, visit: Visit) -> Node:
    inner = tree.this
    if (
        isinstance(inner, exp.Literal) and not inner.is_string
    ):  # -9223372036854775808 fits, without its sign it does not
        return _number(f"-{inner.this}", place(tree))
    return operators.negate(visit(inner), place(tree))


def _literal(tree: exp.Literal, visit: Visit) -> Node:
    if tree.is_string:
        return n.literal(tree.this, n.quote_text(tree.this), place(tree))
    return _number(tree.this, place(tree))


def _number(text: str, offset: int) -> Node:
    digits = text.removeprefix("-").lstrip("0")
    whole = digits.isdecimal() or not digits
    if whole and len(digits) > 19:  # Python itself refuses to read thousands of digits
        raise ExpressionError("the number does not fit 64 bits", "write it with an exponent: 1e20", offset)
    value = int(text) if whole else float(text)
    if not text.startswith("-"):
        return n.literal(value, repr(value), offset)
    return replace(n.literal(value, f"-{abs(value)!r}", offset), binds=n.UNARY)


def _boolean(tree: exp.Boolean, visit: Visit) -> Node:
    return n.literal(bool(tree.this), "TRUE" if tree.this else "FALSE", place(tree))


def _null(tree: exp.Null, visit: Visit) -> Node:
    return n.literal(None, "NULL", place(tree))


def _is(tree: exp.Is, visit: Visit) -> Node:
    x, what = visit(tree.this), tree.expression
    if isinstance(what, exp.Null):
        x = clean(x)
        built, word = Built(Kind.BOOLEAN, x.expr.is_null()), "NULL"
    elif isinstance(what, exp.Boolean):
        x = demand(x, (Kind.BOOLEAN,), "IS TRUE or IS FALSE")
        wanted = x.expr if what.this else ~x.expr
        built, word = Built(Kind.BOOLEAN, wanted.fill_null(False)), "TRUE" if what.this else "FALSE"
    else:
        raise ExpressionError("IS goes with NULL, TRUE, FALSE or DISTINCT FROM", "use = to compare", place(what))
    return join(built, (x,), f"{x.inside(_INNER)} IS {word}", x.offset, n.COMPARE)


def _between(tree: exp.Between, visit: Visit) -> Node:
    x, low, high = map(clean, alike([visit(tree.args[name]) for name in ("this", "low", "high")], "BETWEEN"))
    demand(x, ORDERED, "BETWEEN")
    text = f"{x.inside(_INNER)} BETWEEN {low.inside(_INNER)} AND {high.inside(_INNER)}"
    built = Built(Kind.BOOLEAN, n.compare("ge", x, low) & n.compare("le", x, high), uses=2)
    return join(built, (x, low, high), text, x.offset, n.COMPARE)


def _in(tree: exp.In, visit: Visit) -> Node:
    if not tree.expressions:
        raise ExpressionError(
            "IN needs a list of constants",
            "write x IN (1, 2, 3); tables and sub-selects do not exist",
            place(tree),
        )
    x, *items = alike([visit(tree.this), *map(visit, tree.expressions)], "IN")
    for item in items:
        if not item.constant:
            raise ExpressionError("IN needs constants", "write x = y OR x = z for columns", item.offset)
        if item.value is None:
            raise ExpressionError("IN with NULL is never false", "leave NULL out and add OR x IS NULL", item.offset)
    x = clean(x)
    values = pl.Series([item.value for item in items], dtype=x.kind.dtype)
    text = f"{x.inside(_INNER)} IN ({', '.join(item.sql for item in items)})"
    return join(Built(Kind.BOOLEAN, x.expr.is_in(values.implode())), (x, *items), text, x.offset, n.COMPARE)


def _like(tree: exp.Like | exp.ILike, visit: Visit) -> Node:
    word = "ILIKE" if isinstance(tree, exp.ILike) else "LIKE"
    x, pattern = demand(visit(tree.this), (Kind.TEXT,), word), visit(tree.expression)
    built = Built(Kind.BOOLEAN, x.expr.str.contains(like(pattern, ignore_case=word == "ILIKE")))
    return join(built, (x, pattern), f"{x.inside(_INNER)} {word} {pattern.inside(_INNER)}", x.offset, n.COMPARE)


def _case(tree: exp.Case, visit: Visit) -> Node:
    subject = visit(tree.this) if tree.this else None
    whens = [visit(branch.this) for branch in tree.args["ifs"]]
    values = [visit(branch.args["true"]) for branch in tree.args["ifs"]]
    if not whens:
        raise ExpressionError("CASE without WHEN", "write CASE WHEN condition THEN value ELSE value END", place(tree))
    default = visit(tree.args["default"]) if tree.args.get("default") else None
    branches = [f"WHEN {when.sql} THEN {value.sql}" for when, value in zip(whens, values, strict=True)]
    text = " ".join(
        [
            "CASE",
            *([subject.sql] if subject else []),
            *branches,
            *([f"ELSE {default.sql}"] if default else []),
            "END",
        ]
    )
    equal = operators.BINARY[exp.EQ]
    conditions = [operators.apply(equal, subject, when) for when in whens] if subject else whens
    return _choose("CASE", conditions, [*values, default or n.literal(None, "NULL", 0)], text, place(tree))


def _if(tree: exp.If, visit: Visit) -> Node:
    otherwise = tree.args.get("false")
    if not tree.args.get("true") or not otherwise:
        raise ExpressionError("IF takes a condition and two values", "write IF(condition, value, other)", place(tree))
    condition, value, other = visit(tree.this), visit(tree.args["true"]), visit(otherwise)
    return _choose("IF", [condition], [value, other], f"IF({condition.sql}, {value.sql}, {other.sql})", place(tree))


def _choose(what: str, conditions: Sequence[Node], values: Sequence[Node], text: str, offset: int) -> Node:
    """The first value whose condition is true, else the last value (there is one more than conditions)."""
    conditions = [demand(condition, (Kind.BOOLEAN,), f"a condition of {what}") for condition in conditions]
    values = [clean(value) for value in alike(values, what)]
    *chosen, default = values
    chain: Any = pl
    for condition, value in zip(conditions, chosen, strict=True):
        chain = chain.when(condition.expr).then(value.expr)
    built = Built(default.kind, chain.otherwise(default.expr))
    return join(built, (*conditions, *values), text, offset)


def _cast(tree: exp.Cast, visit: Visit) -> Node:
    x = visit(tree.this)
    kind, name = target(tree.to, place(tree))
    return join(cast(x, kind), (x,), f"CAST({x.sql} AS {name})", place(tree))


def _extract(tree: exp.Extract, visit: Visit) -> Node:
    part = tree.name.upper()
    compute = PARTS.get(part)
    if compute is None:
        raise ExpressionError(f"cannot extract {part}", f"there are {', '.join(PARTS).lower()}", place(tree))
    ts = demand(visit(tree.expression), (Kind.TIMESTAMP,), "EXTRACT")
    built = Built(Kind.INTEGER, compute(ts.expr).cast(pl.Int64))
    return join(built, (ts,), f"EXTRACT({part} FROM {ts.sql})", place(tree))


_CASTS = Entry(
    "Conversion",
    "CAST(x AS type), TRY_CAST(x AS type), x::type",
    "To BIGINT (or INTEGER, both 64 bits; doubles lose their fraction), DOUBLE, TEXT (VARCHAR), BOOLEAN "
    "(from text: true and false in any case; from numbers: not 0) or TIMESTAMP (from text: ISO 8601, UTC "
    "unless it names a zone).",
    "null if x is, or if the value cannot be converted",
    Example("CAST(s AS DOUBLE)", {"s": "n/a"}, None),
)
_CASE = Entry(
    "Choice",
    "CASE WHEN p THEN x … ELSE y END",
    "The value of the first condition that is true. CASE v WHEN w THEN … compares v = w. Without ELSE: null.",
    "a condition that is null does not match, as in SQL",
    Example("CASE WHEN a > 10 THEN 'high' WHEN a > 5 THEN 'mid' ELSE 'low' END", {"a": 7}, "mid"),
)


def _form(compile_: Callable[[Any, Visit], Node], args: str, *entries: Entry) -> Form:
    return Form(compile_, frozenset(args.split()), entries)


FORMS: dict[type[exp.Expr], Form] = {
    exp.Literal: _form(
        _literal,
        "this is_string",
        Entry(
            "Values",
            "1, 2.5, 1e6, 'text'",
            "Literals. A quote in text is doubled: 'it''s'.",
            "",
            Example("'it''s'", {}, "it's"),
        ),
    ),
    exp.Boolean: _form(_boolean, "this", Entry("Values", "TRUE, FALSE", "Truth.", "", Example("NOT TRUE", {}, False))),
    exp.Null: _form(
        _null,
        "",
        Entry("Values", "NULL", "A missing value.", "", Example("COALESCE(a, NULL)", {"a": None}, None)),
    ),
    exp.Neg: _form(_negative, "this", entry("Arithmetic", "-x", "The opposite.", "-x", -2.5, x=2.5)),
    exp.Not: _form(
        _not,
        "this",
        Entry("Logic", "NOT p", "The opposite.", "null if p is", Example("NOT flag", {"flag": None}, None)),
    ),
    exp.Is: _form(
        _is,
        "this expression",
        Entry(
            "Missing values",
            "x IS NULL, x IS NOT NULL",
            "Whether x is missing.",
            "never null",
            Example("x IS NULL", {"x": None}, True),
        ),
        Entry(
            "Logic",
            "p IS TRUE, p IS FALSE, p IS NOT TRUE, p IS NOT FALSE",
            "Truth with null as neither.",
            "never null",
            Example("flag IS NOT TRUE", {"flag": None}, True),
        ),
    ),
    exp.Between: _form(
        _between,
        "this low high",
        Entry(
            "Comparison",
            "x BETWEEN low AND high, x NOT BETWEEN …",
            "x >= low AND x <= high.",
            "as that AND",
            Example("a BETWEEN 1 AND b", {"a": 0, "b": None}, False),
        ),
    ),
    exp.In: _form(
        _in,
        "this expressions field query unnest",
        entry(
            "Comparison",
            "x IN (1, 2, …), x NOT IN (…)",
            "Equal to one of the constants.",
            "s IN ('a', 'b')",
            True,
            s="a",
        ),
    ),
    exp.Like: _form(
        _like,
        "this expression",
        entry(
            "Text",
            "s LIKE pattern, s NOT LIKE pattern",
            "The constant pattern fits all of s: % is any text, _ any character. No escape: see CONTAINS.",
            "s LIKE 'a%_c'",
            True,
            s="abcc",
        ),
    ),
    exp.ILike: _form(
        _like,
        "this expression",
        entry("Text", "s ILIKE pattern", "LIKE, capital or small.", "s ILIKE 'A%'", True, s="abc"),
    ),
    exp.Case: _form(_case, "this ifs default", _CASE),
    exp.If: _form(
        _if,
        "this true false",
        Entry(
            "Choice",
            "IF(p, x, y)",
            "CASE WHEN p THEN x ELSE y END.",
            "as CASE",
            Example("IF(flag, 1, 0)", {"flag": None}, 0),
        ),
    ),
    exp.Cast: _form(_cast, "this to", _CASTS),
    exp.TryCast: _form(_cast, "this to safe"),
    exp.Extract: _form(
        _extract,
        "this expression",
        entry(
            "Time",
            "EXTRACT(part FROM ts)",
            "year, month, day, hour, minute, second or dow (weekday, Sunday is 0), in UTC, a whole number.",
            "EXTRACT(dow FROM ts)",
            1,
            ts="2024-01-01T12:00:00Z",
        ),
    ),
}
