"""Rows of a file as events: what becomes of lines that are odd."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner

from streamproc.cli import cli
from streamproc.rows import chunks

ROOT = Path(__file__).parents[2]


def values(source: Path) -> list[bytes]:
    async def gather() -> list[bytes]:
        return [value async for chunk in chunks(str(source)) for value in chunk.values]

    return asyncio.run(gather())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b'\n\r\n{"a": 1}\n\n\n{"a": 2}\r\n\n', [b'{"a": 1}', b'{"a": 2}']),
        (b'{"a": 1}', [b'{"a": 1}']),
        (b'  \n{"a": 1} \n', [b"  ", b'{"a": 1} ']),  # a line of spaces is not empty: a dead letter
        (b'\xff\n\xef\xbb\xbf{"a": 1}\n', [b"\xff", b'\xef\xbb\xbf{"a": 1}']),
    ],
)
def test_lines_are_rows_byte_for_byte_and_empty_ones_are_none(
    content: bytes, expected: list[bytes], tmp_path: Path
) -> None:
    file = tmp_path / "rows.ndjson"
    file.write_bytes(content)
    assert values(file) == expected


def test_rows_of_a_table_are_json_objects(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("a,b\n1,x\n,y\n", encoding="utf-8")
    assert values(file) == [b'{"a":1,"b":"x"}', b'{"a":null,"b":"y"}']


def test_a_row_of_a_batch_is_counted_as_one(tmp_path: Path) -> None:
    rows = tmp_path / "rows.ndjson"
    rows.write_bytes(b'\n{"id": 1\n\n')
    pipeline = ROOT / "examples" / "car_loan" / "pipeline.yaml"
    done = CliRunner().invoke(cli, ["batch", str(pipeline), str(rows), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "1 event in" in done.output
    assert "1 dead letter\n" in done.output
