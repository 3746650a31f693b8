"""scikit-learn's gradient-boosted trees as ONNX: a tree ensemble is a few arrays there."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

OPSET, ML_OPSET, IR_VERSION = 17, 3, 8


def export(model: Any, name: str) -> onnx.ModelProto:
    """The trees of a fitted ``HistGradientBoostingClassifier`` of two classes, without categories, as an ONNX graph.

    The sum of their leaves, through a sigmoid: ``score``, the chance of the second class. It takes ``features``,
    float32 of shape (n, number of inputs).
    """
    names = ["treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids"]
    nodes: dict[str, Any] = {f"nodes_{one}": [] for one in names}
    nodes["nodes_missing_value_tracks_true"] = []
    leaves: dict[str, Any] = {f"target_{one}": [] for one in ("treeids", "nodeids", "ids", "weights")}
    for tree, (predictor,) in enumerate(model._predictors):
        for number, node in enumerate(predictor.nodes):
            leaf = bool(node["is_leaf"])
            row = [
                tree, number, int(node["feature_idx"]), float(np.float32(node["num_threshold"])) if not leaf else 0.0,
                "LEAF" if leaf else "BRANCH_LEQ", int(node["left"]), int(node["right"]),
            ]  # fmt: skip
            for one, value in zip(names, row, strict=True):
                nodes[f"nodes_{one}"].append(value)
            nodes["nodes_missing_value_tracks_true"].append(int(node["missing_go_to_left"]))
            if leaf:
                for one, value in zip(leaves, (tree, number, 0, float(node["value"])), strict=True):
                    leaves[one].append(value)
    trees = helper.make_node(
        "TreeEnsembleRegressor", ["features"], ["raw"], domain="ai.onnx.ml", n_targets=1, post_transform="NONE",
        base_values=[float(np.ravel(model._baseline_prediction)[0])], **nodes, **leaves,
    )  # fmt: skip
    graph = helper.make_graph(
        [trees, helper.make_node("Sigmoid", ["raw"], ["score"])],
        name,
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, model.n_features_in_])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    exported = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="streamproc")
    onnx.checker.check_model(exported)
    return exported
