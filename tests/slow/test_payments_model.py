"""The model of card payments: the committed one is what its script makes of what `streamproc features` writes."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score

from streamproc.onnx_trees import export
from streamproc.payments import PAYMENTS
from streamproc.sample import example
from tests.slow.test_model import TOLERANCE, scores

FOLDER = example("card_fraud")


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / "train.py"))


@pytest.fixture(scope="module")
def payments(script: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    found: pl.DataFrame = script["history"](Path(tmp_path_factory.mktemp("history")))
    return found


def test_the_script_makes_the_committed_model(script: dict[str, Any], payments: pl.DataFrame) -> None:
    trained = script["train"](script["known"](payments))
    features = script["features"](payments)
    committed = scores((FOLDER / "model.onnx").read_bytes(), features)
    made = scores(export(trained, "card_fraud").SerializeToString(), features)
    np.testing.assert_allclose(made, committed, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(trained.predict_proba(features)[:, 1], committed, rtol=0, atol=TOLERANCE)


def test_the_model_learns_from_what_was_known(script: dict[str, Any], payments: pl.DataFrame) -> None:
    reports = script["events"]().filter(pl.col("kind") == "report").select(pl.col("id") - PAYMENTS, reported="time")
    frauds = script["events"]().filter(script["FRAUD"]).join(reports, on="id", validate="1:1")
    late = frauds.filter(pl.col("reported") >= f"{script['SPLIT']:%Y-%m-%dT%H:%M:%SZ}")
    learned = script["known"](payments)
    assert learned["event_time"].max() < late["time"].str.to_datetime(time_zone="UTC").min()
    assert learned["outcome"].sum() == len(frauds) - len(late)


def test_what_a_card_did_before_says_more_than_the_amount(script: dict[str, Any], payments: pl.DataFrame) -> None:
    later = payments.filter(pl.col("event_time") >= script["SPLIT"])
    found = scores((FOLDER / "model.onnx").read_bytes(), script["features"](later))
    frauds = later["outcome"].to_numpy()
    by_amount = average_precision_score(frauds, later["amount"].to_numpy())
    assert average_precision_score(frauds, found) > by_amount + 0.15


def test_the_reference_is_of_the_payments(script: dict[str, Any]) -> None:
    reference = pl.read_parquet(FOLDER / "reference.parquet")
    whole = script["events"]().drop(script["FRAUD"])
    begin, end = reference["time"].min(), reference["time"].max()
    assert reference.equals(whole.filter(pl.col("time").is_between(pl.lit(begin), pl.lit(end))))
