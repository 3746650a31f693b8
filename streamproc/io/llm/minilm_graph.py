"""all-MiniLM-L6-v2 as a graph for ONNX Runtime, made of its weights.

Matrices are multiplied in numbers of 8 bits, which takes half the time: each column of the weights, and each token's
numbers, have a scale of their own, so a text's vector follows from that text alone. The values that tokens have of one
another stay as they are: most of what is lost is lost there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

WIDTH: Final = 384
HEADS: Final = 12
LAYERS: Final = 6
EPSILON: Final = 1e-12
OPSET: Final = 20
IR_VERSION: Final = 10
WHOLE: Final = ".attention.self.value"
"""Ends the names of the matrices that are not in numbers of 8 bits."""
TOP: Final = 127
ZERO: Final = 128
"""Stands for 0 in unsigned numbers."""
FLOAT, UINT8, INT32, INT64 = 1, 2, 6, 7
"""Types of ONNX (TensorProto.DataType)."""
Small: TypeAlias = type[np.int8] | type[np.uint8]


class Graph:
    """The model as ONNX: BERT, then the mean over all tokens, at length 1. In: ``ids``, int64 of shape (tokens,).

    ``small`` is what weights are in; ``None``: in 32 bits as they come. Signed and unsigned ones give the same.
    """

    def __init__(self, weights: Mapping[str, NDArray[np.float32]], most_tokens: int, small: Small | None) -> None:
        self._weights, self._most_tokens, self._small = weights, most_tokens, small
        self._nodes = list[Any]()
        self._constants = list[Any]()
        self._scaled = dict[str, tuple[str, str]]()

    def made(self) -> bytes:
        from onnx import helper

        vector = self._op("LpNormalization", self._op("ReduceMean", self._bert(), self._ints(0), keepdims=0), axis=-1)
        ids = helper.make_tensor_value_info("ids", INT64, ["tokens"])
        return _model(self._nodes, ids, helper.make_tensor_value_info(vector, FLOAT, [WIDTH]), self._constants)

    def _bert(self) -> str:
        words = self._weights["embeddings.word_embeddings.weight"]
        places = self._weights["embeddings.position_embeddings.weight"][: self._most_tokens]
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
        scale = self._number((WIDTH // HEADS) ** -0.5)
        shares = self._op("Softmax", self._op("Mul", self._op("MatMul", query, key), scale), axis=-1)
        heard = self._op("Transpose", self._op("MatMul", shares, value), perm=[1, 0, 2])
        return self._op("Reshape", heard, self._ints(0, WIDTH))

    def _dense(self, state: str, name: str) -> str:
        weight = np.ascontiguousarray(self._weights[name + ".weight"].T)
        if self._small is None or name.endswith(WHOLE):
            product = self._op("MatMul", state, self._constant(weight))
        else:
            product = self._small_product(state, weight, self._small)
        return self._op("Add", product, self._constant(self._weights[name + ".bias"]))

    def _small_product(self, state: str, weight: NDArray[np.float32], kind: Small) -> str:
        """A product in numbers of 8 bits, added up in 32."""
        scale = np.maximum(np.abs(weight).max(0), np.finfo(np.float32).tiny) / TOP
        zero = ZERO if kind is np.uint8 else 0
        small = self._constant((np.rint(weight / scale) + zero).astype(kind))
        left, scales = self._small_state(state)
        zeros = self._constant(np.array(ZERO, np.uint8)), self._constant(np.array(zero, kind))
        product = self._op("Cast", self._op("MatMulInteger", left, small, *zeros), to=FLOAT)
        return self._op("Mul", self._op("Mul", product, scales), self._constant(scale.astype(np.float32)))

    def _small_state(self, state: str) -> tuple[str, str]:
        """Numbers from 1 to 255 around 128, and the scale of each row."""
        if state not in self._scaled:
            top = self._op("ReduceMax", self._op("Abs", state), self._ints(-1), keepdims=1)
            scales = self._op("Max", self._op("Mul", top, self._number(1 / TOP)), self._number(1e-9))
            whole = self._op("Add", self._op("Round", self._op("Div", state, scales)), self._number(ZERO))
            self._scaled[state] = self._op("Cast", whole, to=UINT8), scales
        return self._scaled[state]

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

    def _number(self, value: float) -> str:
        return self._constant(np.array(value, np.float32))

    def _constant(self, values: NDArray[Any]) -> str:
        from onnx import numpy_helper

        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(values, name))
        return name


def product(weight: NDArray[np.int8]) -> bytes:
    """A graph that multiplies ``ids``, unsigned numbers of 8 bits, with such a matrix, and nothing else."""
    from onnx import helper, numpy_helper

    nodes = [helper.make_node("MatMulInteger", ["ids", "weight"], ["product"])]
    ids = helper.make_tensor_value_info("ids", UINT8, ["rows", len(weight)])
    result = helper.make_tensor_value_info("product", INT32, ["rows", weight.shape[1]])
    return _model(nodes, ids, result, [numpy_helper.from_array(weight, "weight")])


def _model(nodes: list[Any], ids: Any, result: Any, constants: list[Any]) -> bytes:
    from onnx import helper

    graph = helper.make_graph(nodes, "minilm", [ids], [result], constants)
    opsets = [helper.make_opsetid("", OPSET)]
    raw: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()
    return raw
