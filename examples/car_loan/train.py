"""Trains the example's model on the reference file and writes it as ONNX.

Run it with ``uv run python examples/car_loan/train.py``; it says how good the model is on the later file.
Gradient-boosted trees by scikit-learn; the export is ours, since a tree ensemble is a few arrays in ONNX.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
from numpy.typing import NDArray
from onnx import TensorProto, helper
from sklearn.ensemble import HistGradientBoostingClassifier

from streamproc.sample import car_loans

HERE = Path(__file__).parent
SALARIES = {"0 - 20K €": 10.0, "20K - 40K €": 30.0, "40K - 60K €": 50.0, "60K+ €": 70.0}
OPSET, ML_OPSET, IR_VERSION = 17, 3, 8


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


def export(model: HistGradientBoostingClassifier) -> onnx.ModelProto:
    """The same trees as an ONNX graph: the sum of their leaves, through a sigmoid."""
    names = ["treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids"]
    nodes: dict[str, list[Any]] = {f"nodes_{name}": [] for name in names}
    nodes["nodes_missing_value_tracks_true"] = []
    leaves: dict[str, list[Any]] = {f"target_{name}": [] for name in ("treeids", "nodeids", "ids", "weights")}
    for tree, (predictor,) in enumerate(model._predictors):
        for number, node in enumerate(predictor.nodes):
            leaf = bool(node["is_leaf"])
            row = [
                tree, number, int(node["feature_idx"]), float(np.float32(node["num_threshold"])) if not leaf else 0.0,
                "LEAF" if leaf else "BRANCH_LEQ", int(node["left"]), int(node["right"]),
            ]  # fmt: skip
            for name, value in zip(names, row, strict=True):
                nodes[f"nodes_{name}"].append(value)
            nodes["nodes_missing_value_tracks_true"].append(int(node["missing_go_to_left"]))
            if leaf:
                for name, value in zip(leaves, (tree, number, 0, float(node["value"])), strict=True):
                    leaves[name].append(value)
    trees = helper.make_node(
        "TreeEnsembleRegressor", ["features"], ["raw"], domain="ai.onnx.ml", n_targets=1, post_transform="NONE",
        base_values=[float(np.ravel(model._baseline_prediction)[0])], **nodes, **leaves,
    )  # fmt: skip
    graph = helper.make_graph(
        [trees, helper.make_node("Sigmoid", ["raw"], ["score"])],
        "car_loan",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, 7])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    exported = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="streamproc")
    onnx.checker.check_model(exported)
    return exported


def main() -> None:
    """Train, write, and say how good it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "model.onnx")
    out = parser.parse_args().out
    files = car_loans()
    model = train(pl.read_csv(files.reference))
    out.write_bytes(export(model).SerializeToString())
    later, truth = pl.read_csv(files.analysis), pl.read_csv(files.outcomes)["repaid"].to_numpy()
    right = model.predict(features(later)) == truth
    half = len(right) // 2
    before, after = right[:half].mean(), right[half:].mean()
    print(f"accuracy {before:.3f} before the shift, {after:.3f} after; {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
