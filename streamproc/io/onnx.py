"""ONNX models with onnxruntime."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamproc.errors import EnvironmentFault, UserError
from streamproc.io.model import DEFAULT_READING, Reading, Scores

HASH_BYTES = 16
TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64}
BLOCK = 64
"""Rows are padded to a multiple of this: matrix kernels for one row and for many add up in different orders."""

BEYOND = 2.0**63
"""No int64 is as large."""


def session_of(raw: bytes, name: str) -> Any:
    """A session on the bytes of a model, with one thread of its own. Raises UserError where they are none, and
    EnvironmentFault without onnxruntime."""
    try:
        import onnxruntime
    except ImportError as error:
        raise EnvironmentFault("onnxruntime is not installed", "pip install 'streamproc[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base
        raise UserError(
            f"{name} is not a model that onnxruntime can load: {type(error).__name__}",
            "export it again, and check it with onnx.checker",
        ) from error


class OnnxModel:
    """One session on one file. It takes a matrix of all inputs, or one column for each.

    One intra-op thread: with two, most scores depended on the batch that a row was in.
    """

    def __init__(
        self,
        path: Path,
        inputs: Sequence[str],
        output: str | None = None,
        *,
        reading: Reading = DEFAULT_READING,
        confidence: str | None = None,
    ) -> None:
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"cannot read the model {path.name}: {error.strerror}",
                "the path counts from the pipeline file",
            ) from error
        self._session = session_of(raw, path.name)
        self.version = hashlib.blake2b(raw, digest_size=HASH_BYTES).hexdigest()
        self._inputs = tuple(inputs)
        self._nodes = self._session.get_inputs()
        self._reading = reading
        self._outputs = [self._choose(output, path.name)]
        if confidence is not None:
            self._outputs.append(self._choose(confidence, path.name))
        for node in self._nodes:
            if node.type not in TYPES:
                raise UserError(
                    f"{path.name}: input {node.name!r} is {node.type}",
                    "streamproc gives numbers: float, double or int64",
                )

    @property
    def width(self) -> int | None:
        """How many columns the model takes, where it says so."""
        if len(self._nodes) > 1:
            return len(self._nodes)
        shape = self._nodes[0].shape
        return shape[1] if len(shape) == 2 and isinstance(shape[1], int) else None

    def _choose(self, wanted: str | None, file: str) -> str:
        outputs = {node.name: node for node in self._session.get_outputs()}
        if wanted is not None and wanted not in outputs:
            raise UserError(f"{file} has no output {wanted!r}", f"it has {', '.join(outputs)}")
        name = wanted or list(outputs)[-1]
        if not outputs[name].type.startswith("tensor("):
            raise UserError(
                f"{file}: output {name!r} is {outputs[name].type}, not a tensor",
                "export it with zipmap=False",
            )
        return name

    def score(self, columns: Mapping[str, NDArray[Any]], rows: int, deadline: float = inf) -> Scores:
        """The output itself, or a column of class probabilities; NaN where an int64 input has no such number. A run
        cannot be stopped."""
        padded = -(-rows // BLOCK) * BLOCK
        known = np.ones(rows, np.bool_)
        if len(self._nodes) == 1:
            matrix = np.zeros((padded, len(self._inputs)), TYPES[self._nodes[0].type])
            for place, name in enumerate(self._inputs):
                known &= _fill(matrix[:rows, place], columns[name])
            feed: dict[str, NDArray[Any]] = {self._nodes[0].name: matrix}
        else:
            feed = {}
            for name, node in zip(self._inputs, self._nodes, strict=True):
                column = np.zeros(padded, TYPES[node.type])
                known &= _fill(column[:rows], columns[name])
                feed[node.name] = column.reshape(padded, 1) if len(node.shape) == 2 else column
        given, *more = (np.asarray(one, np.float64)[:rows] for one in self._session.run(self._outputs, feed))
        if not known.all():
            given = given.copy()
            given[~known] = np.nan
        return self._reading.scores(given, more[0] if more else None)


def _fill(space: NDArray[Any], values: NDArray[Any]) -> NDArray[np.bool_]:
    """Write values where the model reads them. Which ones could be.

    What is missing is NaN to a model of floats, and its own affair. Cast to int64 it would be some number.
    """
    known = np.ones(len(values), np.bool_)
    if space.dtype.kind != "i" or values.dtype.kind in "ib":
        space[:] = values
        return known
    known = np.abs(values.astype(np.float64)) < BEYOND
    space[known] = values[known]
    return known
