"""Whatever is done to a good file, it is a plan or a list of problems with places, never an exception."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.errors import PipelineError, Problem
from streamproc.plan.document import Path_
from streamproc.plan.inspect import ModelFacts
from streamproc.plan.load import load_plan
from streamproc.plan.reader import read

GOOD = Path(__file__).parents[2] / "examples" / "car_loan" / "pipeline.yaml"
DATA = read(GOOD).data
ODD: list[Any] = [
    None,
    "",
    "x",
    "a b",
    0,
    -1,
    2**70,
    1.5,
    True,
    [],
    ["x"],
    [[]],
    {},
    {"x": 1},
    "1 +",
    "now()",
    "score",
]


def paths(data: Any, path: Path_ = ()) -> Iterator[Path_]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from paths(value, (*path, key))


def problems_of(file: Path) -> list[Problem]:
    try:
        load_plan(file, lambda name, part, llm, folder, secrets: ModelFacts("0" * 32, 7))
    except PipelineError as error:
        return list(error.problems)
    return []


def changed(change: list[tuple[Path_, Any]]) -> Any:
    data = deepcopy(DATA)
    for path, value in change:
        here = data
        try:
            for part in path[:-1]:
                here = here[part]
            if value is problems_of:
                del here[path[-1]]
            else:
                here[path[-1]] = value
        except (LookupError, TypeError):
            continue
    return data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("robust")
    for schema in GOOD.parent.glob("*.schema.json"):
        (path / schema.name).write_bytes(schema.read_bytes())
    return path


PATHS = list(paths(DATA))
ONE = st.tuples(st.sampled_from(PATHS), st.sampled_from([*ODD, problems_of]))


@settings(max_examples=60, deadline=None)
@given(change=st.lists(ONE, min_size=1, max_size=4))
def test_odd_values_anywhere_are_problems_with_a_place(change: list[tuple[Path_, Any]], folder: Path) -> None:
    file = folder / "pipeline.yaml"
    text = yaml.safe_dump(changed(change), allow_unicode=True, sort_keys=False)
    file.write_text(text, encoding="utf-8")
    lines = text.split("\n")
    for problem in problems_of(file):
        assert problem.message
        assert 1 <= problem.line <= len(lines)
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1


@settings(max_examples=60, deadline=None)
@given(
    place=st.integers(0, len(GOOD.read_text(encoding="utf-8"))),
    insert=st.text("{}[]:,&*!|>'\"%@`#- \n\tä", max_size=3),
)
def test_odd_characters_anywhere_are_problems(place: int, insert: str, folder: Path) -> None:
    file = folder / "text.yaml"
    text = GOOD.read_text(encoding="utf-8")
    file.write_text(text[:place] + insert + text[place + len(insert) :], encoding="utf-8")
    for problem in problems_of(file):
        assert problem.message and problem.line >= 1 and problem.column >= 1


@pytest.mark.parametrize("path", [path for path in PATHS if path[0] != "tests" and len(path) < 4], ids=str)
def test_one_wrong_type_causes_no_avalanche(path: Path_, folder: Path) -> None:
    """A value of a wrong type is one problem, or none where it happens to fit, and hides no other checks."""
    file = folder / "one.yaml"
    file.write_text(yaml.safe_dump(changed([(path, [[1]])]), allow_unicode=True, sort_keys=False), encoding="utf-8")
    assert len(problems_of(file)) == 1, "\n".join(map(str, problems_of(file)))
