"""Frames between a worker and the process of a model: a JSON header, and the bytes of arrays behind it.

Nothing in a frame can run code: a header is JSON, an array is bytes of a plain type. Sizes are bounded on both sides.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

LARGEST = 256 << 20
"""Bytes of a header, and of what is behind it."""
_SIZES = struct.Struct("!II")
PLAIN = "biufMm"
"""Kinds of arrays that travel as their bytes; all others do as JSON."""


class Closed(Exception):
    """The other side is gone, or speaks something else."""


def send(own: socket.socket, header: Mapping[str, Any], body: Sequence[Any] = (), deadline: float = inf) -> None:
    """Send one frame. Raises TimeoutError at ``deadline`` (of ``time.monotonic``), Closed where nobody listens,
    ValueError for one that is too large."""
    raw = orjson.dumps(header)
    size = sum(memoryview(part).nbytes for part in body)
    if len(raw) > LARGEST or size > LARGEST:
        raise ValueError("the batch is too large for the process of a model")
    _limit(own, deadline)
    try:
        own.sendall(_SIZES.pack(len(raw), size) + raw)
        for part in body:
            _limit(own, deadline)
            own.sendall(part)
    except TimeoutError:
        raise
    except OSError as error:
        raise Closed(str(error)) from error


def receive(own: socket.socket, deadline: float = inf) -> tuple[dict[str, Any], memoryview]:
    """The next frame. Raises TimeoutError at ``deadline``, Closed where there is none."""
    header_size, body_size = _SIZES.unpack(_exactly(own, _SIZES.size, deadline))
    if header_size > LARGEST or body_size > LARGEST:
        raise Closed("a frame that is too large")
    try:
        header = orjson.loads(_exactly(own, header_size, deadline))
    except orjson.JSONDecodeError as error:
        raise Closed("a frame without a header") from error
    if not isinstance(header, dict):
        raise Closed("a frame without a header")
    return header, _exactly(own, body_size, deadline)


def pack(columns: Mapping[str, NDArray[Any]]) -> tuple[list[dict[str, Any]], list[Any]]:
    """Columns as what a header says of them, and their bytes."""
    said, body = list[dict[str, Any]](), list[Any]()
    for name, column in columns.items():
        if column.dtype.kind in PLAIN:
            whole = np.ascontiguousarray(column)
            said.append({"name": name, "type": whole.dtype.str, "shape": whole.shape, "size": whole.nbytes})
            body.append(whole.reshape(-1).view(np.uint8).data)
        else:
            raw = orjson.dumps(column.tolist(), default=str)
            said.append({"name": name, "type": "json", "size": len(raw)})
            body.append(raw)
    return said, body


def unpack(said: Sequence[Mapping[str, Any]], body: memoryview) -> dict[str, NDArray[Any]]:
    """The columns of a frame. Raises ValueError where its header does not describe them."""
    columns, begin = dict[str, NDArray[Any]](), 0
    for one in said:
        part = body[begin : begin + one["size"]]
        begin += one["size"]
        if one["type"] == "json":
            things = orjson.loads(part)
            column = np.empty(len(things), object)
            column[:] = things
        else:
            kind = np.dtype(one["type"])
            if kind.kind not in PLAIN:
                raise ValueError("a type that does not travel")
            column = np.frombuffer(part, kind).reshape(one["shape"])
        columns[one["name"]] = column
    return columns


def _exactly(own: socket.socket, size: int, deadline: float) -> memoryview:
    buffer = bytearray(size)
    view, have = memoryview(buffer), 0
    while have < size:
        _limit(own, deadline)
        try:
            got = own.recv_into(view[have:])
        except TimeoutError:
            raise
        except OSError as error:
            raise Closed(str(error)) from error
        if not got:
            raise Closed("the other side is gone")
        have += got
    return view


def _limit(own: socket.socket, deadline: float) -> None:
    if deadline == inf:
        own.settimeout(None)
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    own.settimeout(left)
