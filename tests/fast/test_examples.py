"""The examples: the committed model is what its script makes, and the pipeline feeds it what it learned from."""

from __future__ import annotations

import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import orjson
import polars as pl
import pytest
from numpy.typing import NDArray

from streamproc.offline import Offline, batch_of
from streamproc.pipeline import open_pipeline
from streamproc.sample import car_loans, example
from streamproc.testing import run_tests

ROWS = 2000
TOLERANCE = 1e-5
FOLDER = example("car_loan")


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / "train.py"))


@pytest.fixture(scope="module")
def loans() -> pl.DataFrame:
    return pl.read_csv(car_loans().analysis, n_rows=ROWS)


def scores(model: bytes, features: NDArray[np.float32]) -> NDArray[np.float64]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    [output] = session.run(None, {session.get_inputs()[0].name: features})
    return np.asarray(output, np.float64).ravel()


def test_the_script_makes_the_committed_model(script: dict[str, Any], loans: pl.DataFrame) -> None:
    trained = script["train"](pl.read_csv(car_loans().reference))
    features = script["features"](loans)
    committed = scores((FOLDER / "model.onnx").read_bytes(), features)
    made = scores(script["export"](trained).SerializeToString(), features)
    np.testing.assert_allclose(made, committed, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(trained.predict_proba(features)[:, 1], committed, rtol=0, atol=TOLERANCE)


def test_the_pipeline_gives_the_model_what_it_was_trained_on(script: dict[str, Any], loans: pl.DataFrame) -> None:
    pipeline = open_pipeline(FOLDER / "pipeline.yaml")
    rows = loans.select(pl.exclude("y_pred_proba", "y_pred")).to_dicts()
    offline = Offline(pipeline.processor, pipeline.answers.now)
    effects = offline.process(batch_of(pipeline.plan.events.topic, [orjson.dumps(row) for row in rows]))
    [decisions] = [output for output in effects.records if output.topic == pipeline.plan.topics.decisions]
    decided = [orjson.loads(value or b"")["score"] for value in decisions.values]
    expected = scores((FOLDER / "model.onnx").read_bytes(), script["features"](loans))
    np.testing.assert_allclose(decided, expected, rtol=0, atol=TOLERANCE)


def test_people_can_do_the_review_that_the_example_asks_for(script: dict[str, Any], loans: pl.DataFrame) -> None:
    pipeline = open_pipeline(FOLDER / "pipeline.yaml")
    values = [orjson.dumps(row) for row in loans.to_dicts()]
    effects = Offline(pipeline.processor, pipeline.answers.now).process(batch_of(pipeline.plan.events.topic, values))
    kinds = Counter({label: count for (name, label), count in effects.counts.items() if name == "decisions"})
    assert kinds.total() == ROWS
    assert kinds["review"] < ROWS / 10
    assert min(kinds["approve"], kinds["decline"]) > ROWS / 10


def test_the_tests_of_the_example_pass() -> None:
    results = run_tests(open_pipeline(FOLDER / "pipeline.yaml"))
    assert results
    assert [result for result in results if not result.passed] == []


def test_the_counter_counts_as_a_plain_loop_does() -> None:
    names = runpy.run_path(str(Path(example("counter")) / "counter.py"))
    offline = Offline(names["Counter"]("in", "out"), _nothing, tables=(names["TABLE"],))
    keys: list[bytes | None] = [b"a", None, b"b", b"a", b"", b"a", b"b"]
    plain: Counter[bytes] = Counter()
    for first in range(0, len(keys), 3):
        some = keys[first : first + 3]
        effects = offline.process(batch_of("in", [b"x"] * len(some), keys=some, first_offset=first))
        [output] = effects.records
        for key, value in zip(output.keys, output.values, strict=True):
            plain[key or b""] += 1
            assert orjson.loads(value or b"")["count"] == plain[key or b""]
    state = offline.state(0).get_many(names["TABLE"], list(plain))
    assert [int(value or 0) for value in state] == list(plain.values())


def _nothing(ask: Any) -> Any:
    raise LookupError(ask)
