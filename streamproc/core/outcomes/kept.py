"""The decisions that a lane keeps until what came true is known: chunks of rows, in the order in which they came.

A chunk is one value of the lane's table. A row takes 40 bytes, its key, and what cost expressions read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamproc.core.index import hashes_of

VERSION: Final = 1
ROWS: Final = 4_096
"""So many rows of a chunk at most."""
GROWS: Final = 64
"""A chunk of fewer rows is written again with the next ones: where little comes, a batch is a row or two."""
ID_BYTES: Final = 12
ROW_BITS: Final = 16

Ids: TypeAlias = NDArray[np.void]


class _Value(msgspec.Struct, array_like=True):
    version: int
    ids: bytes
    stamps: bytes
    windows: bytes
    groups: bytes
    keys: list[str | None]
    columns: dict[str, list[Any]]
    explored: dict[int, tuple[str, float]]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Value).decode


@dataclass(slots=True)
class Chunk:
    """Rows of kept decisions: the 12 bytes of their ids, when they were made (in milliseconds), the start of the window
    and the number of the group in it that they are counted in, the events' keys, and the columns that costs read.

    ``explored`` has the row of an experiment: what it was instead of, and its chance.
    """

    ids: bytes = b""
    stamps: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    windows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    groups: NDArray[np.uint16] = field(default_factory=lambda: np.zeros(0, np.uint16))
    keys: list[str | None] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(default_factory=dict)
    explored: dict[int, tuple[str, float]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def id(self, row: int) -> bytes:
        return self.ids[ID_BYTES * row : ID_BYTES * (row + 1)]

    def part(self, begin: int, end: int) -> Chunk:
        """The rows from ``begin`` up to ``end``."""
        rows = slice(begin, end)
        return Chunk(
            self.ids[ID_BYTES * begin : ID_BYTES * end],
            self.stamps[rows],
            self.windows[rows],
            self.groups[rows],
            self.keys[rows],
            {name: values[rows] for name, values in self.columns.items()},
            {row - begin: told for row, told in self.explored.items() if begin <= row < end},
        )

    def only(self, rows: Sequence[int]) -> Chunk:
        """Some rows, in ascending order."""
        numbers = np.array(rows, np.int64)
        return Chunk(
            b"".join(map(self.id, rows)),
            self.stamps[numbers],
            self.windows[numbers],
            self.groups[numbers],
            [self.keys[row] for row in rows],
            {name: [values[row] for row in rows] for name, values in self.columns.items()},
            {place: self.explored[row] for place, row in enumerate(rows) if row in self.explored},
        )

    def joined(self, more: Chunk) -> Chunk:
        """These rows and further ones."""
        names = dict.fromkeys([*self.columns, *more.columns])
        return Chunk(
            self.ids + more.ids,
            np.concatenate([self.stamps, more.stamps]),
            np.concatenate([self.windows, more.windows]),
            np.concatenate([self.groups, more.groups]),
            self.keys + more.keys,
            {name: _column(self, name) + _column(more, name) for name in names},
            self.explored | {row + len(self): told for row, told in more.explored.items()},
        )


def _column(chunk: Chunk, name: str) -> list[Any]:
    return chunk.columns.get(name) or [None] * len(chunk)


def dumps(chunk: Chunk) -> bytes:
    """The value of a chunk."""
    stamps, windows = chunk.stamps.astype("<i8").tobytes(), chunk.windows.astype("<u4").tobytes()
    groups = chunk.groups.astype("<u2").tobytes()
    return _encode(_Value(VERSION, chunk.ids, stamps, windows, groups, chunk.keys, chunk.columns, chunk.explored))


def loads(raw: bytes) -> Chunk:
    """The chunk of a value. Raises ValueError where it is of a later version."""
    value = _decode(raw)
    if value.version != VERSION:
        raise ValueError(f"kept decisions have version {value.version}, and this program reads {VERSION}")
    return Chunk(
        value.ids,
        np.frombuffer(value.stamps, "<i8"),
        np.frombuffer(value.windows, "<u4").astype(np.int64),
        np.frombuffer(value.groups, "<u2"),
        value.keys,
        value.columns,
        value.explored,
    )


def id_hashes(ids: bytes) -> NDArray[np.uint64]:
    """The first 8 bytes of each id."""
    return hashes_of(ids, ID_BYTES)


def key_hashes(keys: Sequence[str | None]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """The rows that have a key, and its hash, which is another in every process: it is for memory alone."""
    rows = [row for row, key in enumerate(keys) if key is not None]
    hashes = [hash(keys[row]) for row in rows]
    return np.array(rows, np.int64), np.array(hashes, np.int64).view(np.uint64)
