"""The car-loan model as a Python function that raises or hangs at the sight of certain events."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamproc.io.onnx import OnnxModel
from streamproc.sample import example

INPUTS = ("car_value", "debt_to_income_ratio", "loan_length", "tenure", "repaid_before", "downpayment", "salary")
RAISES = 13_131.0
"""The value of a car at which the model raises."""
HANGS = 13_132.0
"""The value of a car at which the model hangs."""
HANG_SECONDS = 3.0


def score(columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """The scores of the example's own model."""
    values = columns["car_value"]
    if (values == RAISES).any():
        raise ArithmeticError("an event that the model cannot bear")
    if (values == HANGS).any():
        threading.Event().wait(HANG_SECONDS)
    return _model().score(columns, len(values)).values


@cache
def _model() -> OnnxModel:
    return OnnxModel(example("car_loan") / "model.onnx", list(INPUTS), None)
