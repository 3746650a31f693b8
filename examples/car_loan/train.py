"""Trains the example's model on the reference file and writes it as ONNX.

Run it with ``uv run python examples/car_loan/train.py``; it says how good the model is on the later file.
Gradient-boosted trees by scikit-learn.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from streamproc.onnx_trees import export
from streamproc.sample import car_loans

HERE = Path(__file__).parent
SALARIES = {"0 - 20K €": 10.0, "20K - 40K €": 30.0, "40K - 60K €": 50.0, "60K+ €": 70.0}


def features(loans: pl.DataFrame) -> NDArray[np.float32]:
    """The model's inputs, shape (n, 7), in the order of the pipeline file."""
    columns = loans.select(
        "car_value",
        "debt_to_income_ratio",
        "loan_length",
        pl.col("driver_tenure").fill_null(0.0),
        pl.col("repaid_loan_on_prev_car").cast(pl.Float64),
        pl.col("size_of_downpayment").str.strip_suffix("%").cast(pl.Float64) / 100,
        pl.col("salary_range").replace_strict(SALARIES, return_dtype=pl.Float64),
    )
    return columns.to_numpy().astype(np.float32)


def train(loans: pl.DataFrame) -> HistGradientBoostingClassifier:
    """The classifier: the chance that a loan is repaid."""
    model = HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=15, learning_rate=0.1, early_stopping=False, random_state=0
    )
    return model.fit(features(loans), loans["repaid"].to_numpy())


def main() -> None:
    """Train, write, and say how good it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "model.onnx")
    out = parser.parse_args().out
    files = car_loans()
    model = train(pl.read_csv(files.reference))
    out.write_bytes(export(model, "car_loan").SerializeToString())
    later, truth = pl.read_csv(files.analysis), pl.read_csv(files.outcomes)["repaid"].to_numpy()
    right = model.predict(features(later)) == truth
    half = len(right) // 2
    before, after = right[:half].mean(), right[half:].mean()
    print(f"accuracy {before:.3f} before the shift, {after:.3f} after; {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
