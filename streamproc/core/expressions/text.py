"""The allowed functions on text, and patterns."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import polars as pl

from streamproc.core.expressions.functions import entry, integer
from streamproc.core.expressions.kinds import Kind
from streamproc.core.expressions.node import Built, Node
from streamproc.core.expressions.table import Function, Param
from streamproc.errors import ExpressionError

_S = Param("s", (Kind.TEXT,))
_CONSTANT = (Kind.TEXT,)
_LONGEST = 2**31 - 1


def like(pattern: Node, ignore_case: bool) -> str:
    """The regular expression of a LIKE pattern: % is any text, _ one character; there is no escape character.

    Raises ExpressionError: not a constant text.
    """
    value = constant_text(pattern, "LIKE")
    body = "".join({"%": ".*", "_": "."}.get(c) or re.sub(r"([^\w\s])", r"\\\1", c) for c in value)
    return f"(?s{'i' if ignore_case else ''})^(?:{body})$"


def constant_text(arg: Node, what: str) -> str:
    """The value of a text argument that must be known at load.

    Raises ExpressionError: not constant, NULL, or not text.
    """
    if arg.kind is not Kind.TEXT or not arg.constant or not isinstance(arg.value, str):
        raise ExpressionError(
            f"{what} needs a constant text here, not {arg.sql}",
            "write it in single quotes, or name a param",
            arg.offset,
        )
    return arg.value


def _of_text(kind: Kind, compute: Callable[[pl.Expr], pl.Expr]) -> Callable[[Sequence[Node]], Built]:
    def build(args: Sequence[Node]) -> Built:
        return Built(kind, compute(args[0].expr))

    return build


def _of_two(compute: Callable[[pl.Expr, pl.Expr], pl.Expr]) -> Callable[[Sequence[Node]], Built]:
    def build(args: Sequence[Node]) -> Built:
        return Built(Kind.BOOLEAN, compute(args[0].expr, args[1].expr))

    return build


def _substring(args: Sequence[Node]) -> Built:
    first = integer(args[1], "SUBSTR", 1, _LONGEST)
    length = integer(args[2], "SUBSTR", 0, _LONGEST) if len(args) > 2 else None
    return Built(Kind.TEXT, args[0].expr.str.slice(first - 1, length))


def _replace(args: Sequence[Node]) -> Built:
    old, new = constant_text(args[1], "REPLACE"), constant_text(args[2], "REPLACE")
    if not old:
        raise ExpressionError("REPLACE of an empty text", "name the text to replace", args[1].offset)
    return Built(Kind.TEXT, args[0].expr.str.replace_all(old, new, literal=True))


def _concat(args: Sequence[Node]) -> Built:
    return Built(Kind.TEXT, pl.concat_str([arg.expr for arg in args]))


def _regexp_like(args: Sequence[Node]) -> Built:
    pattern = constant_text(args[1], "REGEXP_LIKE")
    try:
        pl.select(pl.lit("").str.contains(pattern))
    except pl.exceptions.PolarsError as error:
        reasons = [line.removeprefix("error: ") for line in str(error).splitlines() if line.startswith("error: ")]
        reason = reasons[0] if reasons else "it cannot be compiled"
        raise ExpressionError(
            f"not a regular expression: {reason}",
            "the syntax is that of the Rust regex crate: no look-around, no back-references",
            args[1].offset,
        ) from None
    return Built(Kind.BOOLEAN, args[0].expr.str.contains(pattern))


TEXT_FUNCTIONS: tuple[Function, ...] = (
    Function(
        ("LENGTH",),
        [_S],
        _of_text(Kind.INTEGER, lambda s: s.str.len_chars().cast(pl.Int64)),
        entry("Text", "LENGTH(s)", "Number of characters (code points).", "LENGTH(s)", 4, s="naïf"),
    ),
    Function(
        ("LOWER",),
        [_S],
        _of_text(Kind.TEXT, lambda s: s.str.to_lowercase()),
        entry("Text", "LOWER(s)", "In small letters.", "LOWER(s)", "abc", s="AbC"),
    ),
    Function(
        ("UPPER",),
        [_S],
        _of_text(Kind.TEXT, lambda s: s.str.to_uppercase()),
        entry("Text", "UPPER(s)", "In capital letters.", "UPPER(s)", "ABC", s="AbC"),
    ),
    Function(
        ("TRIM",),
        [_S],
        _of_text(Kind.TEXT, lambda s: s.str.strip_chars()),
        entry(
            "Text",
            "TRIM(s)",
            "Without white space (spaces, tabs, line ends) at both ends.",
            "TRIM(s)",
            "a b",
            s=" a b\t",
        ),
    ),
    Function(
        ("SUBSTR", "SUBSTRING"),
        [
            _S,
            Param("start", (Kind.INTEGER,), constant=True),
            Param("length", (Kind.INTEGER,), constant=True, optional=True),
        ],
        _substring,
        entry(
            "Text",
            "SUBSTR(s, start [, length])",
            "A part; the first character is 1.",
            "SUBSTR(s, 2, 3)",
            "bcd",
            s="abcde",
        ),
    ),
    Function(
        ("STARTS_WITH",),
        [_S, Param("t", (Kind.TEXT,))],
        _of_two(lambda s, t: s.str.starts_with(t)),
        entry("Text", "STARTS_WITH(s, t)", "Whether s begins with t.", "STARTS_WITH(s, 'ab')", True, s="abc"),
    ),
    Function(
        ("ENDS_WITH",),
        [_S, Param("t", (Kind.TEXT,))],
        _of_two(lambda s, t: s.str.ends_with(t)),
        entry("Text", "ENDS_WITH(s, t)", "Whether s ends with t.", "ENDS_WITH(s, t)", False, s="abc", t="b"),
    ),
    Function(
        ("CONTAINS",),
        [_S, Param("t", (Kind.TEXT,))],
        _of_two(lambda s, t: s.str.contains(t, literal=True)),
        entry("Text", "CONTAINS(s, t)", "Whether t stands somewhere in s.", "CONTAINS(s, 'b.')", False, s="abc"),
    ),
    Function(
        ("REPLACE",),
        [_S, Param("old", _CONSTANT, constant=True), Param("new", _CONSTANT, constant=True)],
        _replace,
        entry(
            "Text",
            "REPLACE(s, old, new)",
            "Every old (a constant) as new (a constant).",
            "REPLACE(s, '-', '')",
            "12",
            s="1-2",
        ),
    ),
    Function(
        ("CONCAT",),
        [_S, Param("t", (Kind.TEXT,))],
        _concat,
        entry("Text", "CONCAT(s, t, …)", "The same as s || t.", "CONCAT(s, ', ', t)", None, s="a", t=None),
        repeated=True,
    ),
    Function(
        ("REGEXP_LIKE",),
        [_S, Param("pattern", _CONSTANT, constant=True)],
        _regexp_like,
        entry(
            "Text",
            "REGEXP_LIKE(s, pattern)",
            "Whether the constant pattern matches somewhere in s, in time linear in s (Rust regex).",
            "REGEXP_LIKE(s, '^[A-Z]{2}[0-9]+$')",
            True,
            s="DE42",
        ),
    ),
)
