"""Trains the example's model on the features that the pipeline computes, and writes it as ONNX.

Run it with ``uv run python examples/card_fraud/train.py``; it says what the model is worth on later payments. The
features are those of ``streamproc features``, so there is one definition of them for training and for deciding.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import yaml
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import average_precision_score, roc_auc_score

from streamproc.demo.surroundings import PARTITIONS
from streamproc.onnx_trees import export
from streamproc.payments import FRAUD, REPORTED_AFTER, events

HERE = Path(__file__).parent
PIPELINE = HERE / "pipeline.yaml"
SPLIT = datetime(2019, 6, 1, tzinfo=UTC)
"""The model learns from what was known by then, and is tested on the payments after it."""
REFERENCE = datetime(2019, 2, 1, tzinfo=UTC), datetime(2019, 2, 15, tzinfo=UTC)
"""What is normal for the monitors of drift: days in which reports have long begun."""
INPUTS: list[str] = yaml.safe_load(PIPELINE.read_text(encoding="utf-8"))["model"]["inputs"]
VERY_LARGE = 90_000


def history(folder: Path) -> pl.DataFrame:
    """The payments with their features and what came true of them, as ``streamproc features`` writes them."""
    rows, out = folder / "history.ndjson", folder / "train.parquet"
    events().write_ndjson(rows)
    command = [sys.executable, "-m", "streamproc", "features", str(PIPELINE), str(rows), "--out", str(out)]
    subprocess.run([*command, "--outcome-field", FRAUD, "--lanes", str(PARTITIONS)], check=True)
    return pl.read_parquet(out).filter("payment").with_columns(pl.col("outcome") == "true")


def features(payments: pl.DataFrame) -> NDArray[np.float32]:
    """The model's inputs, shape (n, number of inputs), in the order of the pipeline file."""
    return payments.select(INPUTS).to_numpy().astype(np.float32)


def known(payments: pl.DataFrame) -> pl.DataFrame:
    """The payments that are old enough at the split: of younger ones nobody knew yet whether they were frauds."""
    return payments.filter(pl.col("event_time") < SPLIT - REPORTED_AFTER)


def train(payments: pl.DataFrame) -> HistGradientBoostingClassifier:
    """The classifier: the chance that a payment is a fraud."""
    model = HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=8, learning_rate=0.1, early_stopping=False, random_state=0
    )
    return model.fit(features(payments), payments["outcome"].to_numpy())


def worth(what: str, payments: pl.DataFrame, scores: NDArray[np.float64]) -> str:
    """How well scores tell frauds from other payments: the area under both curves."""
    true = payments["outcome"].to_numpy()
    area, precision = roc_auc_score(true, scores), average_precision_score(true, scores)
    rows = f"{len(true):,} payments, {true.mean():.1%} frauds"
    return f"{what}: {rows}; area under the ROC curve {area:.3f}, average precision {precision:.3f}"


def main() -> None:
    """Train, write, and say how good it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE)
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        payments = history(Path(folder))
    model = train(known(payments))
    (out / "model.onnx").write_bytes(export(model, "card_fraud").SerializeToString())
    begin, end = (f"{moment:%Y-%m-%d}" for moment in REFERENCE)
    events().filter(pl.col("time").is_between(pl.lit(begin), pl.lit(end))).drop(FRAUD).write_parquet(
        out / "reference.parquet"
    )
    later = payments.filter(pl.col("event_time") >= SPLIT)
    scores = model.predict_proba(features(later))[:, 1]
    print(worth("later payments", later, scores))
    print(worth("by the amount alone", later, later["amount"].to_numpy().astype(np.float64)))
    usual = (later["amount"] <= VERY_LARGE).to_numpy()
    print(worth("of those that are not very large", later.filter(usual), scores[usual]))


if __name__ == "__main__":
    main()
