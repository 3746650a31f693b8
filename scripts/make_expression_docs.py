"""Write docs/expressions.md from the visitor's table; ``--check`` only says by its exit code."""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

from streamproc.core.expressions import MAX_CHARACTERS, MAX_NESTING
from streamproc.core.expressions.compiler import ALL_FUNCTIONS, entries
from streamproc.core.expressions.table import Entry, Plain

PAGE = Path(__file__).parent.parent / "docs" / "expressions.md"
GROUPS = (
    *("Values", "Arithmetic", "Comparison", "Logic", "Missing values"),
    *("Choice", "Numbers", "Text", "Time", "Conversion"),
)

OPENING = f"""\
<!-- Made by scripts/make_expression_docs.py from the table in the code. Do not edit. -->
# Expressions

Features, confidence and rules are SQL expressions over the columns of one event. What this page lists
exists; everything else is refused when the pipeline is loaded, with the place and a remedy.
An expression sees one event: no aggregates, `OVER`, sub-selects, clock or random numbers. So an event
gives the same result alone, in any batch, and when it is replayed.

## What holds everywhere

- **Names.** A nested field is a column with dots: `address.city`. Names are case-sensitive, functions
  are not. A name with other characters goes in double quotes (`"weird name"`), text in single quotes. A
  bare name is a column; if there is none, a param.
- **Kinds.** True or false, whole number (64 bits), number (double), text, timestamp (microseconds,
  UTC). A whole number beside a number becomes a double (above 2^53 it is rounded); nothing else is
  converted silently. Text against a number, or a truth value in arithmetic, is an error at load.
- **Missing values.** Null in, null out, unless the table says otherwise. A comparison with null is
  null; `AND` and `OR` follow SQL's three-valued logic. `x = NULL` is an error with the remedy `IS
  NULL`. A rule that is null could not be evaluated: the event takes the pipeline's `undecided:` way.
- **GREATEST and LEAST are null if an argument is**, unlike in PostgreSQL: a missing value never passes
  as "no risk". `COALESCE(a, 0)` says otherwise where that is meant.
- **CASE and IF take a null condition as not met**, as in SQL. If missing must be seen, ask first: `CASE
  WHEN x IS NULL THEN … WHEN x > 5 THEN … END`.
- **No NaN, no infinity.** They become null, in columns too (a model may give them). A step that leaves
  the doubles, such as `1e308 * 10`, is null from there on, even if a later one would have come back.
- **Division** `/` always gives a double: `7 / 2` is 3.5. Dividing by zero gives null; by a constant 0
  is an error.
- **Whole numbers never wrap.** A result of `+ - *` beyond 64 bits is null.
- **Numbers that do not exist** (`SQRT(-1)`, `LN(0)`) are null.
- **Text** is compared by code point, and counted in code points. Patterns of `LIKE` and `REGEXP_LIKE`
  are constants.
- **Time.** Timestamps in events are text until `CAST(x AS TIMESTAMP)`: ISO 8601 with `T` or a blank,
  seconds, up to nine decimals (six are kept), `Z` or an offset. Without a zone it is UTC; a date is its
  midnight; what does not fit is null.
- **Bounds.** {MAX_CHARACTERS:,} characters; {MAX_NESTING} levels of brackets, `CASE` and prefix
  operators; chains of up to 100 operators such as `a + b + c`, longer ones of `AND` and `OR`; a bounded
  amount of work per row. Features can use the features before them.
- Comments (`-- …`, `/* … */`) are allowed.

Examples show the columns given, then the result; every one is a test.
"""


def page() -> str:
    """The whole page."""
    by_group = {name: list(lines) for name, lines in groupby(sorted(entries(), key=_rank), key=lambda e: e.group)}
    parts = [OPENING]
    for group, lines in by_group.items():
        parts.append(f"## {group}\n\n| write | meaning | null | example |\n|---|---|---|---|")
        parts.append("\n".join(map(_row, lines)) + "\n")
    aliases = [f"`{other}` is `{f.name}`" for f in ALL_FUNCTIONS for other in f.names[1:]]
    parts.append(f"Other names: {', '.join(aliases)}.\n")
    return "\n".join(parts)


def _rank(entry: Entry) -> int:
    return GROUPS.index(entry.group)


def _row(entry: Entry) -> str:
    example = entry.example
    given = ", ".join(f"{name} = {_plain(value)}" for name, value in example.inputs.items())
    shown = f"`{example.expression}`{' with ' + given if given else ''} → {_plain(example.result)}"
    cells = (f"`{entry.signature}`", entry.meaning, entry.nulls, shown)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _plain(value: Plain) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)


def main() -> int:
    text = page()
    if "--check" in sys.argv:
        return int(not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
