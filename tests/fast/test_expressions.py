"""What compiles, what is refused and where, and the semantics that docs/expressions.md promises."""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from streamproc.core.expressions import MAX_CHARACTERS, MAX_NESTING, Expression, Want, compile_expression
from streamproc.errors import ExpressionError

COLUMNS: dict[str, pl.DataType] = {
    "a": pl.Int64(),
    "b": pl.Int64(),
    "x": pl.Float64(),
    "y": pl.Float64(),
    "s": pl.String(),
    "t": pl.String(),
    "flag": pl.Boolean(),
    "ts": pl.Datetime("us", "UTC"),
    "ts2": pl.Datetime("us", "UTC"),
    "address.city": pl.String(),
    "weird name": pl.Int64(),
    "car_value": pl.Float64(),
    "items": pl.List(pl.Int64),
    "comment": pl.String(),
    "deep.one.two.three.four": pl.Int64(),
}
PARAMS: dict[str, bool | int | float | str | None] = {
    "limit": 100,
    "share": 0.5,
    "word": "x",
    "live": True,
    "none": None,
}
BIG = 2**63 - 1


def compiled(text: str, want: Want = "any") -> Expression:
    return compile_expression(text, COLUMNS, PARAMS, want=want)


def value(text: str, **row: Any) -> Any:
    frame = pl.DataFrame([dict.fromkeys(COLUMNS) | row], schema=COLUMNS)
    return frame.select(r=compiled(text).expr)["r"][0]


def test_an_expression_says_what_it_reads_and_gives() -> None:
    made = compiled("address.city = word AND car_value>limit", "boolean")
    assert made.columns == {"address.city", "car_value"}
    assert made.params == {"word", "limit"}
    assert made.dtype == pl.Boolean()
    assert made.text == "address.city = word AND car_value>limit"
    assert made.sql == '"address.city" = "word" AND "car_value" > "limit"'


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a+1", "( a  + 1 ) -- a comment"),
        ("GREATEST(a, b)", "greatest(a,b)"),
        ("a <> 1", "a != 1"),
        ("CAST(a AS TEXT)", "a::varchar"),
        ("POWER(x, 2)", "pow(x, 2)"),
        ("x IS NOT NULL", "NOT x IS NULL"),
        ("(a + b) * 2", "((a) + (b)) * (2)"),
    ],
)
def test_equal_trees_have_equal_text(one: str, other: str) -> None:
    assert compiled(one).sql == compiled(other).sql


def test_different_trees_have_different_text() -> None:
    texts = [
        "a - (b - 1)",
        "a - b - 1",
        "-(-a)",
        "a = 1",
        "a = 1.0",
        "s = '1'",
        "(flag = flag) = flag",
        "flag = (flag = flag)",
    ]
    assert len({compiled(text).sql for text in texts}) == len(texts)


# text, what the message or hint says, the place as a mark in the text
REFUSED = [
    ("¦car_valu > 1", "did you mean 'car_value'?"),
    ("a > 1 AND ¦qqqq", "there are a, address.city"),
    ('s = ¦"drifting"', "single quotes: 'drifting'"),
    ("¦A > 1", "did you mean 'a'"),
    ("¦items", "List(Int64)"),
    ("a > 1 AND ¦sum(a) > 3", "not row-wise"),
    ("¦max(a)", "GREATEST(x, y)"),
    ("¦count(*)", "not row-wise"),
    ("¦count(distinct a)", "not row-wise"),
    ("a > ¦sum(a) over (partition by b)", "SUM() is not row-wise"),
    ("¦row_number() over ()", "not row-wise"),
    ("¦abs(a) over ()", "not row-wise"),
    ("¦sum(a) filter (where flag)", "SUM() is not row-wise"),
    ("ts > ¦now()", "clock is not available"),
    ("¦current_timestamp > ts", "events.max_age"),
    ("¦current_date", "clock is not available"),
    ("¦random() < 0.5", "random"),
    ("¦select a", "no tables"),
    ("a in (¦select 1)", "no tables"),
    ("exists(¦select 1)", "no tables"),
    ("(¦select 1) > a", "no tables"),
    ("¦a in b", "list of constants"),
    ("a in (1, ¦b)", "IN needs constants"),
    ("a in (1, ¦null)", "leave NULL out"),
    ("¦lenght(s)", "did you mean 'LENGTH'?"),
    ("¦log(x)", "LN(x)"),
    ("¦read_csv('x')", "unknown function"),
    ("¦*", "name the columns"),
    ("a¦; b", "remove the ;"),
    ("¦x -> x + 1", "no access into values"),
    ("¦? > 1", "placeholders"),
    ("¦:p > 1", "placeholders"),
    ("¦cast(a as decimal)", "CAST to DECIMAL is not supported"),
    ("¦cast(s as date)", "TIMESTAMP at midnight"),
    ("cast(¦ts as bigint)", "TO_SECONDS"),
    ("¦", "empty"),
    ("¦  -- nothing", "empty"),
    ("a +¦ ", "too early"),
    ("(a¦", "too early"),
    ("a ¦b", "without an operator"),
    ("s = ¦'x", "never ends"),
    ("a ¦/* x", "never ends"),
    ("a > ¦) 1", "not expected"),
    ("a = ¦null", "IS NULL"),
    ("a <> ¦none", "IS NULL"),
    ("s > ¦1", "CAST(… AS DOUBLE)"),
    ("a = ¦'1'", "text stands in single quotes"),
    ("¦flag + 1", "IF(p, 1, 0)"),
    ("¦flag < flag", "needs a number"),
    ("flag and ¦a", "x <> 0"),
    ("case when ¦a then 1 end", "needs true or false"),
    ("case when flag then 1 else ¦s end", "do not go together"),
    ("¦ts - ts2", "SECONDS_BETWEEN"),
    ("ts > ¦'2024-01-01'", "CAST(… AS TIMESTAMP)"),
    ("a + ¦9223372036854775808", "64 bits"),
    ("¦" + "9" * 5000, "64 bits"),
    ("¦1e999", "double"),
    ("x / ¦0", "zero"),
    ("a % (¦1 - 1)", "zero"),
    ("s like ¦t", "constant"),
    ("¦s like 'a' escape 'x'", "ESCAPE"),
    ("regexp_like(s, ¦'(')", "unclosed group"),
    ("regexp_like(s, ¦'(?=a)')", "look-around"),
    ("regexp_like(s, ¦'(a{1000}){1000}')", "not a regular expression"),
    ("round(x, ¦a)", "constant"),
    ("round(x, ¦16)", "0 to 15"),
    ("power(x, ¦y)", "constant"),
    ("substr(s, ¦0)", "from 1"),
    ("replace(s, ¦'', 'x')", "empty text"),
    ("¦abs(a, b)", "ABS(x)"),
    ("¦if(flag, 1)", "IF(condition, value, other)"),
    ("¦a between symmetric 1 and 2", "SYMMETRIC"),
    ("¦extract(week from ts)", "there are year"),
    ("¦null", "always NULL"),
    ("¦coalesce(null, null)", "always NULL"),
    ("¦a[1]", "address.city"),
    ("ts > interval ¦'1' day", "count in seconds"),
]


@pytest.mark.parametrize(("marked", "says"), REFUSED, ids=lambda text: text[:40])
def test_what_is_refused_says_why_and_where(marked: str, says: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        compiled(marked.replace("¦", ""))
    assert says in f"{caught.value.message} — {caught.value.hint}"
    assert caught.value.offset == marked.index("¦")


def test_the_result_must_be_what_is_wanted() -> None:
    with pytest.raises(ExpressionError, match="not boolean: it gives a number"):
        compiled("x", "boolean")
    with pytest.raises(ExpressionError, match="not a number: it gives true or false"):
        compiled("x > 1", "number")
    assert compiled("a", "number").dtype == pl.Int64()


@pytest.mark.parametrize(
    "text",
    [
        "(" * (MAX_NESTING + 1) + "a" + ")" * (MAX_NESTING + 1),
        "(" * 4000 + "a" + ")" * 4000,
        "not " * 2000 + "flag",
        "- " * 2000 + "a",
        "case when " * 500 + "flag" + " then flag end" * 500,
        "abs(" * 1500 + "x" + ")" * 1500,
        "a" + "::bigint" * 1000,
        "flag" + " is not null" * 700,
        "exp(" * 15 + "x" + ")" * 15,
        "a" + " + a" * 3000,
        "x" * (MAX_CHARACTERS + 1),
    ],
    ids=lambda text: text[:20],
)
def test_too_much_is_refused_and_no_recursion_error_escapes(text: str) -> None:
    with pytest.raises(ExpressionError, match=r"nested|too large|characters|chain"):
        compiled(text)


def test_long_chains_and_full_nesting_compile_where_the_stack_is_deep() -> None:
    def deep(levels: int) -> Expression:
        return deep(levels - 1) if levels else compiled("(" * MAX_NESTING + "a" + ")" * MAX_NESTING)

    assert deep(300).sql == '"a"'
    assert value(" AND ".join(["flag"] * 500), flag=True) is True
    assert value("a" + " + 1" * 100, a=0) == 100
    assert value("CASE " + "WHEN a = 1 THEN 2 " * 200 + "END", a=1) == 2


def test_a_thread_with_its_own_stack_can_compile() -> None:
    made: list[Expression] = []
    thread = threading.Thread(target=lambda: made.append(compiled("a > 1 OR (b > 2 AND x < 0.5)")))
    thread.start()
    thread.join()
    assert made


@pytest.mark.parametrize(
    ("text", "row", "result"),
    [
        ("a + b", {"a": BIG, "b": 1}, None),
        ("a - b", {"a": -BIG, "b": 2}, None),
        ("a * b", {"a": 2**32, "b": 2**31}, None),
        ("a * b", {"a": -(2**32), "b": 2**31}, -(2**63)),
        ("-a", {"a": -(2**63)}, None),
        ("abs(a)", {"a": -(2**63)}, None),
        ("a % -1", {"a": -(2**63)}, 0),
        ("-9223372036854775808", {}, -(2**63)),
        ("a / b", {"a": 1, "b": 0}, None),
        ("0.0 / x", {"x": 0.0}, None),
        ("x * 10 / 10", {"x": 1e308}, None),
        ("1 / (x * 10)", {"x": 1e308}, None),
        ("x * 10 > 5", {"x": 1e308}, None),
        ("coalesce(x * 10, 7)", {"x": 1e308}, 7.0),
        ("x > 5", {"x": float("nan")}, None),
        ("x IS NULL", {"x": float("inf")}, True),
        ("exp(x)", {"x": 1000.0}, None),
        ("power(x, 0.5)", {"x": -1.0}, None),
        ("round(x)", {"x": -2.5}, -3.0),
        ("flag AND NULL", {"flag": False}, False),
        ("flag OR NULL", {"flag": True}, True),
        ("a NOT IN (1, 2)", {"a": None}, None),
        ("a IN (1, 2.5)", {"a": 1}, True),
        ("least(x, 1)", {"x": None}, None),
        ("case when a > 1 then 'big' else 'small' end", {"a": None}, "small"),
        ("case s when 'a' then 1 when 'b' then 2 end", {"s": "c"}, None),
        ("nullif(a, b)", {"a": 1, "b": None}, 1),
        ("s LIKE '100%'", {"s": "100\n."}, True),
        ("s LIKE 'a.c'", {"s": "abc"}, False),
        ("s ILIKE 'STRASSE É%'", {"s": "strasse é!"}, True),
        ("substr(s, 2)", {"s": "héllo"}, "éllo"),
        ("replace(s, 'a', '$0')", {"s": "xax"}, "x$0x"),
        ("cast(s as bigint)", {"s": "1.5"}, None),
        ("cast(s as bigint)", {"s": str(BIG + 1)}, None),
        ("cast(s as double)", {"s": "inf"}, None),
        ("cast(x as bigint)", {"x": -1.9}, -1),
        ("cast(x as bigint)", {"x": 2.0**63}, None),
        ("cast(s as boolean)", {"s": "True"}, True),
        ("cast(s as boolean)", {"s": "yes"}, None),
        ("cast(x as text)", {"x": 0.1}, "0.1"),
        ("cast(ts as text)", {"ts": datetime(2024, 1, 2, tzinfo=UTC)}, "2024-01-02T00:00:00.000000Z"),
        ("to_timestamp(x)", {"x": 1e18}, None),
        ("to_timestamp(a)", {"a": BIG}, None),
        ("extract(dow from ts)", {"ts": datetime(2024, 1, 7, tzinfo=UTC)}, 0),
        ("a < share", {"a": 0}, True),
        ("comment = word", {"comment": "x"}, True),
        ("deep.one.two.three.four + 1", {"deep.one.two.three.four": 1}, 2),
        ('"weird name" * 2', {"weird name": 2}, 4),
        ("live AND flag", {"flag": None}, None),
        ("coalesce(none, a)", {"a": 3}, 3),
    ],
)
def test_semantics(text: str, row: dict[str, Any], result: Any) -> None:
    got = value(text, **row)
    assert got == result
    assert type(got) is type(result)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("2024-02-29", datetime(2024, 2, 29, tzinfo=UTC)),
        ("2024-01-02T03:04:05Z", datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2024-01-02 03:04:05.25", datetime(2024, 1, 2, 3, 4, 5, 250_000, tzinfo=UTC)),
        ("2024-01-02T03:04:05.123456789+02:00", datetime(2024, 1, 2, 1, 4, 5, 123_456, tzinfo=UTC)),
        ("2024-01-02t03:04:05-0130", datetime(2024, 1, 2, 4, 34, 5, tzinfo=UTC)),
        ("0001-01-01T00:00:00+14:00", None),  # before the year 1
        ("2023-02-29", None),
        ("2024-01-02T25:00:00Z", None),
        ("2024-01-02T03:04", None),
        ("02/01/2024", None),
        ("1704067200", None),
        ("٢٠٢٤-01-02", None),
        ("", None),
    ],
)
def test_timestamps_are_parsed_each_by_itself(text: str, result: datetime | None) -> None:
    assert value("CAST(s AS TIMESTAMP)", s=text) == result


def test_a_divisor_that_is_one_number_for_all_rows_divides_exactly() -> None:
    """Polars would multiply by the reciprocal: 49 / 49 is then 0.9999999999999999 in a batch and 1 alone."""
    made = compiled("x / 49 = 1")
    frame = pl.DataFrame({"x": [49.0, 1.0, 5.0]})
    assert frame.select(r=made.expr)["r"].to_list() == [True, False, False]
    scalar = frame.with_columns(y=pl.lit(49.0)).select(r=compiled("x / y = 1").expr)
    assert scalar["r"].to_list() == [True, False, False]


@pytest.mark.parametrize("text", ["1 = a", "s > 'k'", "'k' < s", "nullif(1, a)", "1 between a and b"])
def test_a_constant_beside_a_scalar_column_keeps_the_height(text: str) -> None:
    frame = pl.DataFrame({"row": range(3)}).with_columns(a=pl.lit(1), b=pl.lit(2), s=pl.lit("x"))
    assert frame.select(r=compiled(text).expr).height == 3


@pytest.mark.parametrize(
    "text", ["TRUE", "1 + 1", "limit", "'x' || word", "CAST(NULL AS DOUBLE)", "TIMESTAMP '2024-01-01'"]
)
@pytest.mark.parametrize("height", [0, 1, 3])
def test_constants_have_the_height_of_the_frame(text: str, height: int) -> None:
    made = compiled(text)
    result = pl.DataFrame({"a": list(range(height))}).select(r=made.expr)["r"]
    assert (len(result), result.dtype) == (height, made.dtype)


@pytest.mark.parametrize(
    ("dtype", "given", "text", "result"),
    [
        (pl.Int8(), 5, "c * 100", 500),
        (pl.UInt64(), 2**64 - 1, "c", None),
        (pl.Float32(), 0.5, "c + 1", 1.5),
        (pl.Decimal(10, 2), Decimal("1.25"), "c * 2", 2.5),
        (pl.Enum(["u", "v"]), "v", "c = 'v'", True),
        (pl.Categorical(), "v", "c || 'w'", "vw"),
        (pl.Date(), date(2024, 1, 2), "EXTRACT(day FROM c)", 2),
        (pl.Datetime("ms"), datetime(2024, 1, 2, 3), "EXTRACT(hour FROM c)", 3),  # noqa: DTZ001
        (pl.Datetime("ns", "Europe/Berlin"), datetime(2024, 1, 2, 3, tzinfo=UTC), "EXTRACT(hour FROM c)", 3),
    ],
)
def test_columns_of_other_types_are_read_as_one_of_the_kinds(
    dtype: pl.DataType, given: Any, text: str, result: Any
) -> None:
    made = compile_expression(text, {"c": dtype})
    frame = pl.DataFrame({"c": [given, None]}, schema={"c": dtype})
    assert frame.select(r=made.expr)["r"].to_list() == [result, None]


def test_a_column_hides_a_param_of_its_name() -> None:
    assert compile_expression("a", {"a": pl.Int64()}, {"a": 1}).columns == {"a"}


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("nothing > 1", "nothing"),
        ('"it\'s""odd" > 1', "it's\"odd"),
        ("address.town = 'x'", "address.town"),
        ("current_date", None),  # a clock, and no name that might exist
        ("nothing(1)", None),
        ("1 +", None),
    ],
)
def test_an_error_about_a_name_carries_the_name(text: str, unknown: str | None) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(text, {"a": pl.Int64()})
    assert caught.value.unknown == unknown
