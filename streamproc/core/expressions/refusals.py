"""What is refused by name, why, and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from sqlglot import exp

from streamproc.core.expressions.parser import NO_TABLES, SEE_DOCS

_NOT_ROW_WISE = "an expression sees one event, not the others"
_NO_CLOCK = "the clock is not available: the same event must give the same result when it is replayed"
_CLOCK_HINT = "event time is, and events.max_age: compare timestamps of the event with SECONDS_BETWEEN(a, b)"
_OTHERS_HINT = "have it sent as a field of the event, or add it with a processor of your own: docs/processors.md"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_AGGREGATES = _words("""
    SUM AVG MEAN COUNT COUNT_IF COUNTIF MEDIAN MODE STDDEV STDDEV_POP STDDEV_SAMP VARIANCE VAR_POP
    VAR_SAMP CORR FIRST LAST ANY_VALUE ARRAY_AGG STRING_AGG LISTAGG GROUP_CONCAT BOOL_AND BOOL_OR
    EVERY PERCENTILE_CONT PERCENTILE_DISC QUANTILE APPROX_COUNT_DISTINCT ROW_NUMBER RANK DENSE_RANK
    NTILE LAG LEAD FIRST_VALUE LAST_VALUE NTH_VALUE CUME_DIST
""")
_CLOCK = _words("""
    NOW CURRENT_TIMESTAMP CURRENT_DATE CURRENT_TIME LOCALTIME LOCALTIMESTAMP GETDATE SYSDATE TODAY
    UNIX_TIMESTAMP CLOCK_TIMESTAMP STATEMENT_TIMESTAMP TRANSACTION_TIMESTAMP
""")
_RANDOM = _words("""
    RANDOM RAND UUID GEN_RANDOM_UUID NEWID RANDN
""")
_INSTEAD = {
    "LOG": "LN(x) is the natural logarithm, LOG10(x) that to base 10",
    "IFNULL": "write COALESCE(x, y)",
    "NVL": "write COALESCE(x, y)",
    "ISNULL": "write x IS NULL, or COALESCE(x, y)",
    "LEN": "write LENGTH(s)",
    "CHAR_LENGTH": "write LENGTH(s)",
    "IIF": "write IF(p, x, y)",
    "LEFT": "write SUBSTR(s, 1, n)",
    "DATEDIFF": "write SECONDS_BETWEEN(a, b) / 86400",
    "DATE_DIFF": "write SECONDS_BETWEEN(a, b) / 86400",
    "AGE": "write SECONDS_BETWEEN(a, b)",
    "YEAR": "write EXTRACT(year FROM ts)",
    "MONTH": "write EXTRACT(month FROM ts)",
    "DAY": "write EXTRACT(day FROM ts)",
    "HOUR": "write EXTRACT(hour FROM ts)",
    "DATE_PART": "write EXTRACT(hour FROM ts)",
    "DATE": "write CAST(s AS TIMESTAMP)",
    "TIMESTAMP": "write CAST(s AS TIMESTAMP)",
    "TRUNC": "write CAST(x AS BIGINT)",
    "POSITION": "write CONTAINS(s, t)",
    "REGEXP_MATCHES": "write REGEXP_LIKE(s, pattern)",
    "ANY": "write x IN (1, 2, 3)",
    "ALL": "write x = 1 AND y = 1",
}


def of_function(name: str, allowed: Iterable[str]) -> tuple[str, str]:
    """Message and hint for a function that does not exist here."""
    upper = name.upper()
    if upper in ("MIN", "MAX"):
        other = "LEAST" if upper == "MIN" else "GREATEST"
        return (
            f"{upper}() is not row-wise: {_NOT_ROW_WISE}",
            f"{other}(x, y) is the row-wise one; or {_OTHERS_HINT}",
        )
    if upper in _AGGREGATES:
        return f"{upper}() is not row-wise: {_NOT_ROW_WISE}", _OTHERS_HINT
    if is_clock(name):
        return f"{upper}: {_NO_CLOCK}", _CLOCK_HINT
    if upper in _RANDOM:
        return f"{upper}() is random: the same event must give the same result", "use a field of the event"
    known = sorted(allowed)
    return f"unknown function {name}()", _INSTEAD.get(upper) or nearest(upper, known) or f"there are {', '.join(known)}"


def is_clock(name: str) -> bool:
    """Whether SQL reads the clock under this name."""
    return name.upper() in _CLOCK


def of_name(name: str, quoted: bool, columns: Iterable[str], params: Iterable[str]) -> tuple[str, str]:
    """Message and hint for a name that is neither a column nor a param."""
    if is_clock(name):
        return f"{name}: {_NO_CLOCK}", _CLOCK_HINT
    known = sorted({*columns, *params})
    hint = nearest(name, known)
    if not hint and quoted:
        hint = f"double quotes are for names; text goes in single quotes: '{name}'"
    if not hint:
        shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
        hint = f"there are {shown}" if known else "there are no columns"
    return f"unknown column {name!r}", hint


def of_syntax(tree: exp.Expr) -> tuple[str, str]:
    """Message and hint for syntax that has no meaning here."""
    if (
        isinstance(tree, _AROUND_CALLS)
        and isinstance(tree.this, exp.Anonymous)
        and tree.this.name.upper() in _AGGREGATES
    ):
        return of_function(tree.this.name, ())
    for kinds, refusal in _SYNTAX:
        if isinstance(tree, kinds):
            return refusal
    return f"{type(tree).__name__.upper()} is not supported", SEE_DOCS


def nearest(name: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` for the names most like it, or nothing."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(repr(by_lower[match]) for match in found)}?" if found else ""


_AROUND_CALLS = (exp.Window, exp.Filter, exp.WithinGroup, exp.IgnoreNulls, exp.RespectNulls)

_SYNTAX: tuple[tuple[tuple[type[exp.Expr], ...], tuple[str, str]], ...] = (
    (
        (
            exp.Window,
            exp.Filter,
            exp.WithinGroup,
            exp.IgnoreNulls,
            exp.RespectNulls,
            exp.Distinct,
            exp.Ordered,
            exp.Order,
        ),
        (f"not row-wise: {_NOT_ROW_WISE}", _OTHERS_HINT),
    ),
    (
        (exp.CurrentDate, exp.CurrentTime, exp.CurrentTimestamp),
        (_NO_CLOCK, _CLOCK_HINT),
    ),
    ((exp.CurrentUser, exp.CurrentRole), ("there is no user here", "use a field of the event")),
    (
        (exp.Query, exp.Exists, exp.Values),
        ("an expression has no tables", NO_TABLES),
    ),
    ((exp.Star,), ("* stands for nothing here", "name the columns")),
    (
        (exp.Alias,),
        (
            "two values without an operator between them",
            "an expression has no AS; check for a missing operator",
        ),
    ),
    (
        (exp.Placeholder, exp.Parameter, exp.SessionParameter),
        ("placeholders are not supported", "declare it under params: and write its bare name"),
    ),
    (
        (exp.Lambda, exp.Kwarg),
        ("functions of your own are not supported", SEE_DOCS),
    ),
    ((exp.Tuple,), ("a list is not a value", "lists stand after IN: x IN (1, 2, 3)")),
    ((exp.IntDiv,), ("DIV is not supported", "write FLOOR(x / y)")),
    ((exp.Concat,), ("two texts without an operator between them", "join them with ||")),
    ((exp.Interval,), ("intervals are not supported", "count in seconds: SECONDS_BETWEEN(a, b) > 3600")),
    (
        (exp.Escape,),
        (
            "LIKE … ESCAPE is not supported",
            "write CONTAINS(s, t), STARTS_WITH(s, t) or REGEXP_LIKE(s, pattern)",
        ),
    ),
    ((exp.Any, exp.All), ("ANY and ALL are not supported", "write x IN (1, 2, 3)")),
    (
        (exp.JSONExtract, exp.JSONExtractScalar, exp.Bracket),
        ("no access into values", "nested fields are columns: address.city"),
    ),
)
