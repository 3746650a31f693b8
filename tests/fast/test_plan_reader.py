"""From bytes to data with places: what the reader takes, what it bounds, where things stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from streamproc.errors import PipelineError, UserError
from streamproc.plan.document import Document
from streamproc.plan.offsets import locate
from streamproc.plan.reader import MAX_BYTES, parse, read

FILE = Path("pipeline.yaml")


def problem(text: str) -> str:
    with pytest.raises(PipelineError) as raised:
        parse(FILE, text)
    (only,) = raised.value.problems
    return str(only)


def test_plain_values_are_those_of_yaml_1_2() -> None:
    text = "{a: 1, b: 1.5, c: true, d: no, e: 2018-01-01, f: ~, g: 010, h: '1', i: 1e3, j: 12:30, 7: x}"
    expected = {"a": 1, "b": 1.5, "c": True, "d": "no", "e": "2018-01-01", "f": None, "g": 10, "h": "1"}
    assert parse(FILE, text).data == {**expected, "i": 1000.0, "j": "12:30", "7": "x"}


def test_anchors_and_merges() -> None:
    document = parse(FILE, "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {y: 4, <<: [*a, {z: 5}]}\nd: *a\n")
    assert document.data == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 1, "y": 4, "z": 5},
        "d": {"x": 1, "y": 2},
    }
    assert document.spot(("b", "x")) == (1, 11), "a merged value stands where the anchor has it"
    assert document.spot(("b", "y")) == (2, 16)


def test_laughs_are_bounded() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "more than 100,000 values, aliases written out" in problem("\n".join(lines))
    merges = ["a0: &a0 {k: v}"]
    merges += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 12)]
    assert "too much" in problem("\n".join(merges)) or "more than" in problem("\n".join(merges))


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {<<: *a}", "[" * 5000, "{a: " * 5000, "- " * 5000])
def test_depth_is_bounded(text: str) -> None:
    said = problem(text)
    assert "nested too deeply" in said or "too much" in said


def test_numbers_are_bounded() -> None:
    document = parse(FILE, f"a: {'9' * 5000}\nb: 1e999\nc: {2**70}")
    assert [(p.line, p.column, p.message) for p in document.problems] == [
        (1, 4, "the number is too large"),
        (2, 4, "the number is too large"),
    ]
    assert document.data["c"] == 2**70


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="Is a directory"):
        read(tmp_path)
    (tmp_path / "large.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(UserError, match="larger than 1 MB"):
        read(tmp_path / "large.yaml")
    with pytest.raises(UserError, match="larger"):
        read(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "1:1: the file is empty"),
        (b"# nothing\n", "1:1: the file is empty"),
        (b"\xef\xbb\xbf", "1:1: the file is empty"),
        ("pipeline: x".encode("utf-16"), "1:1: the file is not UTF-8: it looks like UTF-16"),
        (b"a: x\nb: \xff", "2:4: the file is not UTF-8: byte 0xff"),
        (b"a: x\r\nb: \x00", "2:4: a control character, 0x00"),
    ],
)
def test_files_that_are_no_yaml(tmp_path: Path, raw: bytes, said: str) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_bytes(raw)
    with pytest.raises(PipelineError) as raised:
        read(file)
    assert said in str(raised.value)


def place_of(document: Document, word: str) -> tuple[int, int]:
    text = document.data["v"]
    return document.spot(("v",), offset=text.index(word))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("v: one WORD", (1, 8)),
        ("v: one\n  two WORD", (2, 7)),
        ("v: 'it''s WORD'", (1, 11)),
        ('v: "\\u00e9 \\"a\\" \\\n  WORD"', (2, 3)),
        ("v: |\n  one\n    WORD\n", (3, 5)),
        ("v: >-\n\n  one\n\n   two\n  WORD\n", (6, 3)),
        ("v: |2-\n    one WORD\n", (2, 9)),
        ("v: > # WORD\n  one\n  WORD\n", (3, 3)),
        ("v: &x !!str one WORD", (1, 17)),
    ],
)
def test_characters_of_every_style_are_found(text: str, place: tuple[int, int]) -> None:
    for breaks in ("\n", "\r\n"):
        assert place_of(parse(FILE, text.replace("\n", breaks)), "WORD") == place


words = st.lists(st.text("ab'\"\\#:>é\u2028 \n\t", max_size=12), min_size=1, max_size=4).map(" ".join)


@given(words, st.sampled_from(["'", '"', "|", ">", None]), st.integers(5, 40))
def test_a_character_is_where_the_file_has_it(value: str, style: Any, width: int) -> None:
    text = yaml.safe_dump({"key": value}, default_style=style, width=width, allow_unicode=True)
    node = yaml.compose(text)
    assert isinstance(node, yaml.MappingNode)
    scalar = node.value[0][1]
    lines = text.split("\n") if "\u2028" not in text else None
    for offset, char in enumerate(scalar.value):
        line, column = locate(text, scalar, offset)
        if lines is not None and char in "ab":
            assert lines[line - 1][column - 1] == char
