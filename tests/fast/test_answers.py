"""Models and their answers: whatever a model does is a value or a reason."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from datetime import timedelta
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from streamproc.core.processor import Answer, Lookup, Score
from streamproc.errors import UserError
from streamproc.io.answers import IN_FLIGHT, Answers, Source
from streamproc.io.model import Scores
from streamproc.io.onnx import OnnxModel
from streamproc.io.python import PythonModel
from streamproc.sample import example

INPUTS = ["car_value", "debt_to_income_ratio", "loan_length", "tenure", "repaid_before", "downpayment", "salary"]


class Model:
    """Returns, or raises, what it was made with."""

    version = "v1"

    def __init__(self, result: Any) -> None:
        self._result = result

    def score(self, columns: Mapping[str, Any], rows: int, deadline: float = inf) -> Scores:
        if isinstance(self._result, BaseException):
            raise self._result
        result = self._result(rows) if callable(self._result) else self._result
        return result if isinstance(result, Scores) else Scores(result)


def ask(rows: int = 2) -> Score:
    return Score("m", {"x": np.arange(rows, dtype=np.float64)}, [str(row) for row in range(rows)])


def answers(model: Any, timeout: float = 5.0) -> Answers:
    return Answers({"m": Source(model, timedelta(seconds=timeout))})


@pytest.mark.parametrize(
    ("result", "values", "reasons"),
    [
        (np.array([0.25, 0.5]), [0.25, 0.5], [None, None]),
        (np.array([np.nan, np.inf]), None, ["not_finite", "not_finite"]),
        (np.array([0.5]), None, ["wrong_length", "wrong_length"]),
        (np.zeros((2, 1)), None, ["wrong_length", "wrong_length"]),
        (lambda rows: np.array(["a"] * rows, object), None, ["model_error", "model_error"]),
        (lambda rows: np.zeros(rows, "M8[s]"), None, ["model_error", "model_error"]),
        (lambda rows: np.zeros(rows, np.float32), None, ["model_error", "model_error"]),
        (None, None, ["model_error", "model_error"]),
        (lambda rows: Scores(np.ones(rows), {"said": np.ones(rows + 1)}), None, ["model_error", "model_error"]),
        (lambda rows: Scores(np.ones(rows), {"said": np.zeros(rows, "M8[s]")}), None, ["model_error", "model_error"]),
        (lambda rows: Scores(np.ones(rows), None), None, ["model_error", "model_error"]),  # type: ignore[arg-type]
        (RuntimeError("with an event's values"), None, ["model_error", "model_error"]),
        (SystemExit(3), None, ["model_error", "model_error"]),
    ],
)
def test_what_a_model_gives_is_values_or_reasons(result: Any, values: Any, reasons: list[str | None]) -> None:
    [answer] = asyncio.run(answers(Model(result))([ask()]))
    assert list(answer.reasons) == reasons
    if values is not None:
        assert list(answer.values) == values
    assert answer.version == "v1"


def test_a_model_that_takes_too_long_is_not_waited_for() -> None:
    release = threading.Event()

    def hang(rows: int) -> Any:
        release.wait(20)
        return np.zeros(rows)

    source = answers(Model(hang), timeout=0.05)

    async def many() -> list[Answer]:
        found = await source([ask()] * (IN_FLIGHT + 3))
        release.set()
        return found

    found = asyncio.run(many())
    assert [answer.reasons[0] for answer in found].count("timeout") == IN_FLIGHT
    assert [answer.reasons[0] for answer in found].count("busy") == 3


def test_what_goes_wrong_beside_the_model_is_an_answer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    source = answers(Model(np.ones(2)))

    def refuse(ask: Any) -> Answer:
        raise MemoryError

    monkeypatch.setattr(source, "now", refuse)
    found = [asyncio.run(source([ask()]))[0] for _ in range(IN_FLIGHT + 1)]
    assert {reason for answer in found for reason in answer.reasons} == {"model_error"}  # and none is "busy" for ever


def test_nobody_answers_a_look_up_here() -> None:
    [answer] = asyncio.run(answers(Model(None))([Lookup("s", [b"1", b"2"])]))
    assert list(answer.reasons) == ["no_such_source"] * 2


def car_loan_model() -> OnnxModel:
    return OnnxModel(example("car_loan") / "model.onnx", INPUTS)


def test_an_onnx_score_does_not_depend_on_the_batch() -> None:
    model, chance = car_loan_model(), np.random.default_rng(5)
    columns = {name: chance.uniform(0, 50, 500) for name in INPUTS}
    together = model.score(columns, 500).values
    for first, last in ((0, 1), (7, 70), (499, 500)):
        part = {name: column[first:last] for name, column in columns.items()}
        assert (model.score(part, last - first).values == together[first:last]).all()
    assert model.width == len(INPUTS)


def test_missing_values_reach_the_model_as_nan() -> None:
    columns = {name: np.array([np.nan]) for name in INPUTS}
    assert np.isfinite(car_loan_model().score(columns, 1).values).all()  # trees have a branch for it


def whole_numbers(path: Path, matrix: bool) -> OnnxModel:
    """The first input and the second, added: one matrix of int64, or a column of int64 and one of double."""
    kind = onnx.TensorProto
    last = helper.make_tensor_value_info("sum", kind.DOUBLE, [None, 1])
    if matrix:
        given = [helper.make_tensor_value_info("x", kind.INT64, [None, 2])]
        axes = numpy_helper.from_array(np.array([1]), "axes")
        nodes = [
            helper.make_node("ReduceSum", ["x", "axes"], ["whole"], keepdims=1),
            helper.make_node("Cast", ["whole"], ["sum"], to=kind.DOUBLE),
        ]
    else:
        given = [helper.make_tensor_value_info(*one, [None, 1]) for one in (("x", kind.INT64), ("y", kind.DOUBLE))]
        axes = None
        nodes = [
            helper.make_node("Cast", ["x"], ["wide"], to=kind.DOUBLE),
            helper.make_node("Add", ["wide", "y"], ["sum"]),
        ]
    graph = helper.make_graph(nodes, "sum", given, [last], [axes] if axes is not None else [])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(made.SerializeToString())
    return OnnxModel(path, ["x", "y"])


@pytest.mark.parametrize("matrix", [True, False])
@pytest.mark.parametrize(
    "x",
    [
        np.array([1.0, np.nan, np.inf, -np.inf, 1e300, 2.0**63, -3.0]),
        np.array([1, None, None, None, None, None, -3], object),
    ],
    ids=["float", "object"],
)
def test_what_is_no_whole_number_is_none_of_its_model(tmp_path: Path, x: Any, matrix: bool) -> None:
    """Cast to int64 each of them would be some number, and the row would have a score."""
    scores = whole_numbers(tmp_path / "m.onnx", matrix).score({"x": x, "y": np.arange(7.0)}, 7)
    np.testing.assert_array_equal(scores.values, [1.0, *[np.nan] * 5, 3.0])


def test_a_missing_double_beside_whole_numbers_is_the_models(tmp_path: Path) -> None:
    columns = {"x": np.array([1, 2]), "y": np.array([np.nan, 1.0])}
    np.testing.assert_array_equal(whole_numbers(tmp_path / "m.onnx", False).score(columns, 2).values, [np.nan, 3.0])
    np.testing.assert_array_equal(whole_numbers(tmp_path / "m.onnx", True).score(columns, 2).values, [np.nan, 3.0])


@pytest.mark.parametrize(
    ("content", "output", "message"),
    [(None, None, "cannot read"), (b"not a model", None, "not a model"), ("same", "nope", "has no output 'nope'")],
)
def test_a_model_file_that_cannot_be_used_says_why(
    tmp_path: Path, content: Any, output: str | None, message: str
) -> None:
    path = tmp_path / "model.onnx"
    if content == "same":
        content = (example("car_loan") / "model.onnx").read_bytes()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        OnnxModel(path, INPUTS, output)


def test_python_models_are_functions_of_columns(tmp_path: Path) -> None:
    (tmp_path / "scoring_for_tests.py").write_text("def double(columns):\n    return columns['x'] * 2\n")
    model = PythonModel("scoring_for_tests:double", tmp_path)
    assert model.score({"x": np.array([1.0, 2.0])}, 2).values.tolist() == [2.0, 4.0]
    [answer] = asyncio.run(answers(model)([Score("m", {"x": np.array([1.0])}, ["1", "2"])]))
    assert list(answer.reasons) == ["wrong_length"] * 2
    for target, message in (
        ("x", "module:function"),
        ("no_such_module_here:f", "cannot import"),
        ("scoring_for_tests:g", "no function"),
    ):
        with pytest.raises(UserError, match=message):
            PythonModel(target, tmp_path)
