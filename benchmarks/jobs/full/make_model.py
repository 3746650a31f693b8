"""Writes the full job's model: a logistic function of the ten features, with weights that are set here.

Run it with ``uv run python -m benchmarks.jobs.full.make_model``. The weights are nobody's findings: they spread the
scores so that every rule on the score is met by some events.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OUT = Path(__file__).parent / "model.onnx"
OPSET, IR_VERSION = 17, 8
BIAS = -3.0
WEIGHTS = {
    "ratio": 2.0,
    "left_over": -0.5,
    "abroad": 1.0,
    "online": 0.5,
    "risky": 1.25,
    "young": 1.5,
    "retries": 2.0,
    "basket": 0.25,
    "jump": 0.0625,
    "night": 0.75,
}


def model() -> onnx.ModelProto:
    """Features of shape (n, 10) to scores of shape (n, 1), both float32."""
    weights = np.array([list(WEIGHTS.values())], dtype=np.float32).T
    nodes = [
        helper.make_node("Gemm", ["features", "weights", "bias"], ["raw"]),
        helper.make_node("Sigmoid", ["raw"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "logistic",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(WEIGHTS)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.array([BIAS], np.float32), "bias")],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="streamproc")
    onnx.checker.check_model(made)
    return made


if __name__ == "__main__":
    OUT.write_bytes(model().SerializeToString())
    print(f"{OUT.name}: {OUT.stat().st_size} bytes")
