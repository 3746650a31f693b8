"""The one visitor: a sqlglot tree becomes a Polars expression, or an error with its place and a remedy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, TypeAlias

import polars as pl
from sqlglot import exp

from streamproc.core.expressions import node as n
from streamproc.core.expressions import refusals
from streamproc.core.expressions.forms import FORMS
from streamproc.core.expressions.functions import FUNCTIONS
from streamproc.core.expressions.kinds import Kind, Value, reader
from streamproc.core.expressions.node import Node, alike, clean, demand, join
from streamproc.core.expressions.operators import BINARY, apply, chain
from streamproc.core.expressions.parser import SEE_DOCS, SPLIT_IT, parse, place
from streamproc.core.expressions.probe import probe
from streamproc.core.expressions.table import Entry, Function, Param
from streamproc.core.expressions.text import TEXT_FUNCTIONS
from streamproc.core.expressions.times import TIME_FUNCTIONS
from streamproc.errors import ExpressionError

Want: TypeAlias = Literal["boolean", "number", "any"]

ALL_FUNCTIONS: tuple[Function, ...] = FUNCTIONS + TEXT_FUNCTIONS + TIME_FUNCTIONS
_BY_NAME: dict[str, Function] = {name: function for function in ALL_FUNCTIONS for name in function.names}
_MAX_CHAIN = 100  # operators in a row, AND and OR apart: Polars plans a deep tree slowly, and does so for each batch
_MAX_HEIGHT = 60  # levels of this visitor; chains of operators do not count


def entries() -> list[Entry]:
    """Every line of the docs, in the order of the table."""
    lines = [entry for form in FORMS.values() for entry in form.entries]
    lines += [operator.entry for operator in BINARY.values()]
    return lines + [function.entry for function in ALL_FUNCTIONS]


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression. Equal trees have equal ``sql``.

    ``expr`` gives one value per row of the frame that it is selected from, always of ``dtype`` (Boolean,
    Int64, Float64, String or Datetime in microseconds UTC), never NaN or infinite; each depends on its own
    row alone.
    """

    text: str
    expr: pl.Expr
    dtype: pl.DataType
    columns: frozenset[str]
    params: frozenset[str]
    sql: str


def compile_expression(
    text: str,
    columns: Mapping[str, pl.DataType],
    params: Mapping[str, Value] | None = None,
    *,
    want: Want = "any",
    finite: bool = False,
) -> Expression:
    """Compile one expression over columns of the given types; params are constants, found after columns.

    ``finite`` is the caller's word that no column holds NaN or infinity: reading them costs less then.
    Raises ExpressionError: what is written is not SQL, not allowed, not well typed, or not what is wanted.
    """
    visitor = _Visitor(columns, params or {}, finite)
    try:
        root = clean(visitor.visit(parse(text)))
    except RecursionError:
        raise ExpressionError("the expression is nested too deeply", SPLIT_IT) from None
    _check_result(root, want)
    # A literal alone would be one row whatever the height of the frame.
    expr = pl.repeat(root.value, pl.len(), dtype=root.kind.dtype) if root.constant else root.expr
    made = Expression(text, expr, root.kind.dtype, root.columns, root.params, root.sql)
    probe(made.expr, made.dtype, {name: columns[name] for name in made.columns})
    return made


def _check_result(root: Node, want: Want) -> None:
    if root.kind is Kind.NULL:
        raise ExpressionError("the result is always NULL", "give it a type: CAST(NULL AS DOUBLE)", root.offset)
    if want == "boolean" and root.kind is not Kind.BOOLEAN:
        raise ExpressionError(f"not boolean: it gives {root.kind}", "compare it with something: … > 0", root.offset)
    if want == "number" and not root.kind.numeric:
        hint = "write IF(…, 1, 0)" if root.kind is Kind.BOOLEAN else "convert it: CAST(… AS DOUBLE)"
        raise ExpressionError(f"not a number: it gives {root.kind}", hint, root.offset)


class _Visitor:
    """Compiles the nodes of one tree. What is not in the table is refused."""

    def __init__(self, columns: Mapping[str, pl.DataType], params: Mapping[str, Value], finite: bool) -> None:
        self._columns = columns
        self._finite = finite
        self._params = params
        self._height = 0

    def visit(self, tree: exp.Expr) -> Node:
        """The node of a tree. A chain of operators is walked, not recursed into: it may be thousands long."""
        self._height += 1
        if self._height > _MAX_HEIGHT:
            raise ExpressionError("the expression is nested too deeply", SPLIT_IT, place(tree))
        links: list[exp.Expr] = []
        while type(tree) in BINARY:
            _refuse_extras(tree, frozenset({"this", "expression", "safe"}))
            links.append(tree)
            tree = tree.this
        made = self._operand(tree)
        runs = 0
        for kind, run in groupby(reversed(links), key=type):
            rights = [self.visit(link.expression) for link in run]
            if kind in (exp.And, exp.Or):
                made = chain(BINARY[kind], [made, *rights])
                continue
            runs += len(rights)
            if runs > _MAX_CHAIN:
                raise ExpressionError(f"a chain of more than {_MAX_CHAIN} operators", SPLIT_IT, rights[-1].offset)
            for right in rights:
                made = apply(BINARY[kind], made, right)
        self._height -= 1
        return made

    def _operand(self, tree: exp.Expr) -> Node:
        match tree:
            case exp.Paren():
                return self.visit(tree.this)
            case exp.Column() | exp.Dot():
                return self._name(tree)
            case exp.Anonymous():
                return self._call(tree)
        form = FORMS.get(type(tree))
        if form is None:
            raise _refused(tree)
        _refuse_extras(tree, form.args)
        return form.compile(tree, self.visit)

    def _name(self, tree: exp.Column | exp.Dot) -> Node:
        offset = place(tree)
        parts = _parts(tree)
        name = ".".join(part.name for part in parts)
        sql = n.quote_name(name)
        if name in self._columns:
            found = reader(self._columns[name])
            if found is None:
                raise ExpressionError(
                    f"column {name!r} is {self._columns[name]}, which expressions cannot read",
                    "they read true and false, numbers, text and timestamps",
                    offset,
                )
            kind, read = found
            expr = read(pl.col(name))
            # Floats may come from models, which give NaN.
            finite = self._finite or kind is not Kind.NUMBER
            return Node(kind, expr, sql, offset, columns=frozenset({name}), finite=finite)
        if name in self._params:
            return n.literal(self._params[name], sql, offset, frozenset({name}))
        message, hint = refusals.of_name(name, any(part.quoted for part in parts), self._columns, self._params)
        raise ExpressionError(message, hint, offset, unknown=None if refusals.is_clock(name) else name)

    def _call(self, tree: exp.Anonymous) -> Node:
        offset = place(tree)
        function = _BY_NAME.get(tree.name.upper())
        if function is None:
            raise ExpressionError(*refusals.of_function(tree.name, _BY_NAME), offset)
        params = _arguments(function, len(tree.expressions), offset)
        args = [self.visit(arg) for arg in tree.expressions]
        for arg, param in zip(args, params, strict=True):
            if param.constant and not arg.constant:
                raise ExpressionError(
                    f"{param.name} of {function.name} must be a constant, not {arg.sql}",
                    function.entry.signature,
                    arg.offset,
                )
        sql = f"{function.name}({', '.join(arg.sql for arg in args)})"
        checked = [
            arg if function.alike and arg.kind is Kind.NULL else demand(arg, param.kinds, function.name)
            for arg, param in zip(args, params, strict=True)
        ]
        if function.alike:
            checked = alike(checked, function.name)
        if not function.carries:
            checked = [clean(arg) for arg in checked]
        return join(function.build(checked), checked, sql, offset)


def _arguments(function: Function, count: int, offset: int) -> list[Param]:
    """The param that each of ``count`` arguments is for.

    Raises ExpressionError: too few or too many.
    """
    params = list(function.params)
    if function.repeated:
        params += [params[-1]] * (count - len(params))
    required = sum(not param.optional for param in function.params)
    if not required <= count <= len(params):
        raise ExpressionError(
            f"{function.name} cannot take {count} argument{'s' * (count != 1)}",
            f"write {function.entry.signature}",
            offset,
        )
    return params[:count]


def _parts(tree: exp.Expr) -> list[exp.Identifier]:
    """The names between the dots of a column.

    Raises ExpressionError: something else than names.
    """
    parts: list[exp.Identifier] = []
    pending: list[exp.Expr] = [tree]
    while pending:
        part = pending.pop()
        match part:
            case exp.Identifier():
                parts.append(part)
            case exp.Dot():
                pending += [part.expression, part.this]
            case exp.Column():
                pending += [part.args[key] for key in ("this", "table", "db", "catalog") if part.args.get(key)]
            case _:
                raise _refused(part)
    return parts


def _refuse_extras(tree: exp.Expr, args: frozenset[str]) -> None:
    """Raises ExpressionError where sqlglot has read something into a node that its form does not know."""
    for name, value in tree.args.items():
        if value and name not in args:
            if isinstance(value, exp.Expr) and type(value) not in FORMS:
                raise _refused(value)
            what = f"{type(tree).__name__.upper()} with {name.replace('_', ' ').upper()}"
            raise ExpressionError(f"{what} is not supported", SEE_DOCS, place(tree))


def _refused(tree: exp.Expr) -> ExpressionError:
    at = tree.args["alias"] if isinstance(tree, exp.Alias) else tree
    return ExpressionError(*refusals.of_syntax(tree), place(at))
