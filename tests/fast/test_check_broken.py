"""Every file under broken/ says in its first lines what is wrong with it; `check` must say that alone."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from pathlib import Path

import pytest

from streamproc.errors import PipelineError
from streamproc.pipeline import open_pipeline

FILES = sorted((Path(__file__).parent / "broken").glob("*.yaml"))
EXPECT = re.compile(rb"^# expect: (\d+):(\d+) (.*?) ?\|(.*?)\r?$", re.MULTILINE)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_all_that_is_wrong_is_told_at_its_place_and_nothing_else(file: Path) -> None:
    expected = [
        (int(line), int(column), message.decode(), remedy.decode().strip())
        for line, column, message, remedy in EXPECT.findall(file.read_bytes().removeprefix(BOM_UTF8))
    ]
    with pytest.raises(PipelineError) as raised:
        open_pipeline(file, masked=False)
    problems = raised.value.problems
    said = "\n".join(str(problem) for problem in problems)
    assert sorted((p.line, p.column) for p in problems) == sorted(place[:2] for place in expected), said
    for line, column, message, remedy in expected:
        here = [problem for problem in problems if (problem.line, problem.column) == (line, column)]
        assert any(message in problem.message and remedy in problem.remedy for problem in here), said


def test_there_are_enough_of_them() -> None:
    assert len(FILES) >= 40
    assert max(len(EXPECT.findall(file.read_bytes())) for file in FILES) >= 12


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_problem_has_a_remedy(file: Path) -> None:
    with pytest.raises(PipelineError) as raised:
        open_pipeline(file, masked=False)
    assert all(problem.remedy for problem in raised.value.problems)
