"""Models behind HTTP, by the Open Inference Protocol v2: KServe, Triton, MLServer and Seldon speak it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
import weakref
from collections.abc import Mapping, Sequence
from datetime import timedelta
from math import inf
from typing import Any

import aiohttp
import numpy as np
import orjson
from numpy.typing import NDArray

from streamproc.errors import UserError
from streamproc.io.connections import Connections, body_of
from streamproc.io.model import DEFAULT_READING, Reading, Rejected, Scores, Unavailable
from streamproc.io.variables import filled

HASH_BYTES = 16
LARGEST = 64 << 20
"""Bytes of an answer."""
OF_THE_BATCH = frozenset({400, 413, 422, 500})
"""Statuses that may be about what was asked. With others there is no use in asking for a part of it."""
TYPES = {"f": "FP64", "i": "INT64", "u": "UINT64", "b": "BOOL"}
PATIENCE = 0.5
"""A second attempt is made where so large a part of the time is left."""


class HttpModel:
    """One request a batch, on connections that stay open. A late answer is dropped with its connection.

    ``url`` is that of ``…/infer``. Each input column is a tensor of its name and shape (n,), or all of them are one of
    shape (n, columns) where ``tensor`` names it. The score is the output itself, or a column of class probabilities;
    ``confidence`` is the output that holds the model's own, where it has one.
    """

    def __init__(
        self,
        url: str,
        inputs: Sequence[str],
        timeout: timedelta,
        *,
        tensor: str | None = None,
        output: str | None = None,
        headers: Mapping[str, str] | None = None,
        reading: Reading = DEFAULT_READING,
        confidence: str | None = None,
    ) -> None:
        if not re.fullmatch(r"https?://[^\s/?#]+/\S+", url):
            raise UserError(f"`{url}` is no address of a model", "write http://HOST:PORT/v2/models/NAME/infer")
        self._url, self._inputs, self._tensor, self._output = url, tuple(inputs), tensor, output
        self._reading, self._confidence = reading, confidence
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self._seconds = timeout.total_seconds()
        said = orjson.dumps([url, list(inputs), tensor, output])
        self.version = hashlib.blake2b(said, digest_size=HASH_BYTES).hexdigest()
        self._connections = Connections()
        self.close = weakref.finalize(self, self._connections.close)
        """Closes the connections and ends their thread; nobody has to call it."""

    def score(self, columns: Mapping[str, NDArray[Any]], rows: int, deadline: float = inf) -> Scores:
        """One score per row, NaN where an input is missing. Raises Unavailable where the server is, Rejected where it
        would not take the batch, ValueError where its answer cannot be used."""
        return self._connections.run(self._score(columns, rows, deadline))

    async def _score(self, columns: Mapping[str, NDArray[Any]], rows: int, deadline: float) -> Scores:
        until = asyncio.get_running_loop().time() + min(self._seconds, deadline - time.monotonic())
        whole = np.ones(rows, np.bool_)
        for name in self._inputs:
            whole &= _known(columns[name])
        if not whole.any():
            return Scores(np.full(rows, np.nan), asked=False)
        wanted = [{"name": name} for name in (self._output, self._confidence) if name is not None]
        body = orjson.dumps(
            {"inputs": self._tensors(columns, whole), **({"outputs": wanted} if self._output else {})},
            option=orjson.OPT_SERIALIZE_NUMPY,
        )
        got = self._scores(await self._ask(body, until), int(whole.sum()))
        if whole.all():
            return got
        columns_of = {name: _spread(column, whole) for name, column in got.columns.items()}
        return Scores(_spread(got.values, whole), columns_of, got.version)

    def _tensors(self, columns: Mapping[str, NDArray[Any]], whole: NDArray[np.bool_]) -> list[dict[str, Any]]:
        count = int(whole.sum())
        if self._tensor is not None:
            matrix = np.stack([columns[name][whole].astype(np.float64) for name in self._inputs], axis=1)
            return [
                {"name": self._tensor, "shape": [count, len(self._inputs)], "datatype": "FP64", "data": matrix.ravel()}
            ]
        return [_column(name, columns[name][whole]) for name in self._inputs]

    async def _ask(self, body: bytes, deadline: float) -> bytes:
        """The server's answer, within the time. A connection that breaks is tried once more, where time is left."""
        loop = asyncio.get_running_loop()
        session = self._connections.session()
        for again in (False, True):
            try:
                async with asyncio.timeout_at(deadline):
                    async with session.post(
                        self._url, data=body, headers=self._headers, allow_redirects=False
                    ) as response:
                        return await _read(response)
            except TimeoutError:
                raise
            except aiohttp.ClientError as error:
                if again or deadline - loop.time() < PATIENCE * self._seconds:
                    raise Unavailable(type(error).__name__) from error
                await asyncio.sleep(self._seconds / 20)
        raise AssertionError("a second attempt ends")

    def _scores(self, raw: bytes, rows: int) -> Scores:
        try:
            response = _decoded(raw)
            outputs = {one["name"]: one for one in response["outputs"]}
            others = [name for name in outputs if name != self._confidence]
            given = _matrix(outputs[self._output or others[-1]], rows)
            trust = None if self._confidence is None else _matrix(outputs[self._confidence], rows)
            version = response.get("model_version")
        except (AttributeError, KeyError, IndexError, TypeError) as error:
            raise ValueError("the answer is no inference response") from error
        return self._reading.scores(given, trust, version)


def _known(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which values are there, and finite."""
    known = np.ones(len(values), np.bool_)
    match values.dtype.kind:
        case "f":
            known &= np.isfinite(values)
        case "M":
            known &= ~np.isnat(values)
        case "O":
            known &= [value is not None for value in values.tolist()]
    return known


def _column(name: str, values: NDArray[Any]) -> dict[str, Any]:
    if values.dtype.kind == "O":  # what had missing values among them
        values = np.array(values.tolist())
    kind = TYPES.get(values.dtype.kind)
    data: Any = values if kind else values.astype(str).tolist()
    return {"name": name, "shape": [len(values)], "datatype": kind or "BYTES", "data": data}


def _matrix(output: Mapping[str, Any], rows: int) -> NDArray[np.float64]:
    """An output of shape (rows, …) as a matrix, NaN for what is no number."""
    values = [value if type(value) in (int, float) else np.nan for value in output["data"]]
    shape = [int(size) for size in output["shape"]]
    if not shape or shape[0] != rows or int(np.prod(shape)) != len(values):
        raise ValueError("the answer has another number of scores")
    return np.array(values, np.float64).reshape(rows, -1)


def _spread(values: NDArray[np.float64], rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values of some rows among all of them."""
    everywhere = np.full(len(rows), np.nan)
    everywhere[rows] = values
    return everywhere


def _decoded(raw: bytes) -> Any:
    """JSON, also as Python writes it: with NaN and Infinity."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return json.loads(raw)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    if response.status != 200:
        raise (Rejected if response.status in OF_THE_BATCH else Unavailable)(f"status {response.status}")
    return await body_of(response, LARGEST)


def with_environment(headers: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Headers whose values name variables as ``${NAME}``. Raises UserError where one is not set."""
    return {name: filled(text, environ, "`model.headers`") for name, text in headers.items()}
