"""A slow, clear evaluator in plain Python must agree with the compiled expression."""

from __future__ import annotations

import math
import operator as op
from typing import TypeAlias

import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamproc.core.expressions import compile_expression
from streamproc.errors import ExpressionError
from tests.fast.expression_strategies import frames

Value: TypeAlias = "bool | int | float | None"
Tree: TypeAlias = "tuple[str, ...] | tuple[object, ...]"

KINDS = {"p": "bool", "q": "bool", "a": "int", "b": "int", "x": "float", "y": "float"}
_DTYPES: dict[str, pl.DataType] = {"bool": pl.Boolean(), "int": pl.Int64(), "float": pl.Float64()}
COLUMNS = {name: _DTYPES[kind] for name, kind in KINDS.items()}


COMPARISONS = {"=": op.eq, "<>": op.ne, "<": op.lt, "<=": op.le, ">": op.gt, ">=": op.ge}


def evaluate(tree: Tree, row: dict[str, Value]) -> Value:
    """The value of a tree for one row, by the rules of docs/expressions.md."""
    operator, *parts = tree
    if operator == "column":
        return finite(row[str(parts[0])])
    if operator == "literal":
        return parts[0]  # type: ignore[return-value]
    values = [evaluate(part, row) for part in parts]  # type: ignore[arg-type]
    match operator:
        case "AND":
            return False if False in values else None if None in values else True
        case "OR":
            return True if True in values else None if None in values else False
        case "COALESCE":
            return next((value for value in values if value is not None), None)
        case "CASE":
            return values[1] if values[0] is True else values[2]
        case "IS NULL":
            return values[0] is None
    if any(value is None for value in values):
        return None
    return strict(str(operator), values)


def strict(operator: str, values: list[Value]) -> Value:
    """The value of an operator that is null when an operand is, for operands that are not."""
    if operator == "NOT":
        return not values[0]
    left, right = values if len(values) == 2 else (values[0], 0)
    assert left is not None
    assert right is not None
    try:
        match operator:
            case "+":
                return fits(left + right)
            case "-":
                return fits(left - right)
            case "*":
                return fits(left * right)
            case "/":
                return finite(float(left) / float(right))
            case "%":
                return int(math.copysign(1, left)) * (abs(left) % abs(right))
            case "GREATEST":
                return max(left, right)
            case "LEAST":
                return min(left, right)
            case "ABS":
                return fits(abs(left))
    except (ZeroDivisionError, OverflowError):
        return None
    if isinstance(left, float) or isinstance(right, float):
        left, right = float(left), float(right)  # a whole number beside a double is compared as a double
    return bool(COMPARISONS[operator](left, right))


def fits(value: int | float) -> Value:
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else None
    return finite(value)


def finite(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def render(tree: Tree) -> str:
    operator, *parts = tree
    if operator in ("column", "literal"):
        return f"({parts[0]!r})" if operator == "literal" else str(parts[0])
    texts = [render(part) for part in parts]  # type: ignore[arg-type]
    if operator == "CASE":
        return f"CASE WHEN {texts[0]} THEN {texts[1]} ELSE {texts[2]} END"
    if operator == "IS NULL":
        return f"({texts[0]} IS NULL)"
    if operator == "NOT":
        return f"(NOT {texts[0]})"
    if operator in ("COALESCE", "GREATEST", "LEAST", "ABS"):
        return f"{operator}({', '.join(texts)})"
    return f"({texts[0]} {operator} {texts[1]})"


LITERALS: dict[str, st.SearchStrategy[Value]] = {
    "bool": st.booleans(),
    "int": st.sampled_from([-7, -1, 2, 3, 10, 2**62, 2**63 - 1]),
    "float": st.sampled_from([0.5, -2.5, 3.0, 49.0, 1e300]),
}


def trees(kind: str, depth: int) -> st.SearchStrategy[Tree]:
    columns = st.sampled_from([name for name, k in KINDS.items() if k == kind]).map(lambda name: ("column", name))
    leaf = columns | LITERALS[kind].map(lambda value: ("literal", value))
    if depth == 0:
        return columns
    deeper = {k: trees(k, depth - 1) for k in ("bool", "int", "float")}
    of = deeper[kind]
    made = [
        st.tuples(st.just("CASE"), deeper["bool"], of, of),
        st.tuples(st.just("COALESCE"), of, of),
    ]
    if kind == "bool":
        ordered = st.sampled_from(["=", "<>", "<", "<=", ">", ">="])
        numbers = deeper["int"] | deeper["float"]
        made += [
            st.tuples(ordered, numbers, numbers),
            st.tuples(st.sampled_from(["AND", "OR", "=", "<>"]), of, of),
            st.tuples(st.just("NOT"), of),
            st.tuples(st.just("IS NULL"), numbers | of),
        ]
    else:
        made += [
            st.tuples(st.sampled_from(["+", "-", "*", "GREATEST", "LEAST"]), of, of),
            st.tuples(st.just("ABS"), of),
        ]
    if kind == "int":
        made.append(st.tuples(st.just("%"), of, of))
    if kind == "float":
        numbers = deeper["int"] | of
        made.append(st.tuples(st.just("/"), numbers, numbers))
        made.append(st.tuples(st.sampled_from(["+", "-", "*"]), deeper["int"], of))
    return st.one_of(leaf, *made)


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=200)
@given(st.one_of(trees("bool", 3), trees("int", 3), trees("float", 3)), frames(COLUMNS))
def test_the_compiled_expression_agrees_with_plain_python(tree: Tree, frame: pl.DataFrame) -> None:
    text = render(tree)
    try:
        made = compile_expression(text, COLUMNS)
    except ExpressionError as error:
        assert "divides by zero" in error.message or "never" in error.message
        return
    got = frame.select(made.expr.alias("r"))["r"].to_list()
    expected = [evaluate(tree, row) for row in frame.to_dicts()]
    assert got == expected, text
    assert [type(value) for value in got] == [type(value) for value in expected], text
