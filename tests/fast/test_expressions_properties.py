"""What holds for every expression, on random ones over random frames."""

from __future__ import annotations

import math

import polars as pl
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from streamproc.core.expressions import Expression, compile_expression
from streamproc.core.expressions.compiler import ALL_FUNCTIONS
from streamproc.core.expressions.forms import FORMS
from streamproc.core.expressions.operators import BINARY
from streamproc.errors import ExpressionError
from tests.fast.expression_strategies import (
    CONSTANTS,
    MADE_ABOVE,
    OPERANDS,
    RESULTS,
    SHAPES,
    expressions,
    frames,
)

COLUMNS: dict[str, pl.DataType] = {
    "flag": pl.Boolean(),
    "a": pl.Int64(),
    "b": pl.Int64(),
    "x": pl.Float64(),
    "y": pl.Float64(),
    "s": pl.String(),
    "address.city": pl.String(),
    "ts": pl.Datetime("us", "UTC"),
}
SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck))


def compiled(text: str) -> Expression:
    try:
        return compile_expression(text, COLUMNS)
    except ExpressionError as error:
        # What a random expression may run into: a divisor that folds to 0, a NULL, its own size.
        assume(not any(word in error.message for word in ("always", "too large", "never")))
        raise


def same(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.copysign(1, one) == math.copysign(1, other) and one == other
    return type(one) is type(other) and one == other


@SETTINGS
@given(expressions(COLUMNS), frames(COLUMNS))
def test_a_batch_is_the_concatenation_of_its_rows(text: str, frame: pl.DataFrame) -> None:
    made = compiled(text)
    whole = frame.select(made.expr.alias("r"))["r"]
    rows = [frame[k : k + 1].select(made.expr.alias("r"))["r"] for k in range(len(frame))]
    assert whole.dtype == made.dtype
    assert len(whole) == len(frame)
    assert all(row.dtype == made.dtype for row in rows)
    alone = [row[0] for row in rows]
    assert all(same(v, w) for v, w in zip(whole.to_list(), alone, strict=True)), (whole.to_list(), alone)


@SETTINGS
@given(expressions(COLUMNS), frames(COLUMNS))
def test_one_value_in_all_rows_or_in_a_scalar_column_changes_nothing(text: str, frame: pl.DataFrame) -> None:
    assume(len(frame) > 0)
    made = compiled(text)
    one = frame[:1].select(made.expr.alias("r"))["r"][0]
    repeated = pl.concat([frame[:1]] * 37).select(made.expr.alias("r"))["r"].to_list()
    scalars = pl.DataFrame({"row": range(5)}).with_columns(
        pl.lit(frame[name][0], dtype=dtype).alias(name) for name, dtype in COLUMNS.items()
    )
    held = scalars.select(made.expr.alias("r"))["r"].to_list()
    assert (len(repeated), len(held)) == (37, 5)
    assert all(same(one, value) for value in repeated + held)


@SETTINGS
@given(expressions(COLUMNS, want="number"), frames(COLUMNS))
def test_numbers_are_finite_or_null(text: str, frame: pl.DataFrame) -> None:
    made = compiled(text)
    assert all(value is None or math.isfinite(value) for value in frame.select(made.expr.alias("r"))["r"])


@SETTINGS
@given(expressions(COLUMNS), frames(COLUMNS))
def test_canonical_text_is_a_fixed_point_and_means_the_same(text: str, frame: pl.DataFrame) -> None:
    made = compiled(text)
    again = compile_expression(made.sql, COLUMNS)
    assert again.sql == made.sql
    assert (again.dtype, again.columns) == (made.dtype, made.columns)
    both = frame.select(one=made.expr, two=again.expr)
    assert both["one"].equals(both["two"], null_equal=True)


@SETTINGS
@given(st.text(max_size=40) | expressions(COLUMNS).flatmap(lambda text: st.permutations(text.split()).map(" ".join)))
def test_any_text_compiles_or_is_refused_with_a_place(text: str) -> None:
    try:
        compile_expression(text, COLUMNS)
    except ExpressionError as error:
        assert 0 <= error.offset <= len(text)
        assert error.message
        assert "report this" not in error.hint


def test_the_strategy_covers_the_whole_table() -> None:
    assert set(OPERANDS) == set(BINARY)
    assert set(SHAPES) | MADE_ABOVE == set(FORMS)
    assert {function.name for function in ALL_FUNCTIONS if not function.alike} == set(RESULTS)
    constants = {(f.name, p.name) for f in ALL_FUNCTIONS for p in f.params if p.constant}
    assert constants == set(CONSTANTS)
