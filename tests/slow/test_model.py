"""The car-loan model: the committed one is what its script makes, and the pipeline feeds it what it learned from."""

from __future__ import annotations

import runpy
from typing import Any

import numpy as np
import onnxruntime
import orjson
import polars as pl
import pytest
from numpy.typing import NDArray

from streamproc.offline import Offline, batch_of
from streamproc.onnx_trees import export
from streamproc.pipeline import open_pipeline
from streamproc.sample import car_loans, example

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
    made = scores(export(trained, "car_loan").SerializeToString(), features)
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
