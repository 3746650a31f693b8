"""docs/expressions.md is what the table says, and its examples are true."""

from __future__ import annotations

import runpy
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from streamproc.core.expressions import compile_expression
from streamproc.core.expressions.compiler import entries
from streamproc.core.expressions.kinds import Kind
from streamproc.core.expressions.table import EXAMPLE_COLUMNS, Entry

ROOT = Path(__file__).parents[2]
SCHEMA = {name: kind.dtype for name, kind in EXAMPLE_COLUMNS.items()}


def test_the_page_is_up_to_date() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "make_expression_docs.py"))
    written = (ROOT / "docs" / "expressions.md").read_text(encoding="utf-8")
    assert written == script["page"](), "run scripts/make_expression_docs.py"


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.signature)
def test_each_example_gives_its_result(entry: Entry) -> None:
    row = dict.fromkeys(SCHEMA) | dict(entry.example.inputs)
    for name, value in row.items():
        if EXAMPLE_COLUMNS[name] is Kind.TIMESTAMP and isinstance(value, str):
            time = datetime.fromisoformat(value)
            row[name] = time.replace(tzinfo=time.tzinfo or UTC)
    made = compile_expression(entry.example.expression, SCHEMA)
    result = pl.DataFrame([row], schema=SCHEMA).select(made.expr.alias("r"))["r"][0]
    assert result == entry.example.result
    assert type(result) is type(entry.example.result)
