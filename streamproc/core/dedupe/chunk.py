"""Ids that a lane has seen: chunks of rows, in the order of their offsets. A chunk is one value of the lane's table.

A row takes 12 bytes for the digest of the id, and mostly 4 to 6 for when and where it was seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamproc.core.versioned import read_kept

VERSION: Final = 1
DIGEST_BYTES: Final = 12
ROWS: Final = 4_096
"""So many rows of a chunk at most."""
GROWS: Final = 128
"""A chunk of fewer rows is written again with the next ones: where little comes, a batch is a row or two."""

Numbers = NDArray[np.int64]


class _Value(msgspec.Struct, array_like=True):
    version: int
    digests: bytes
    offset: int
    offsets: bytes
    time: int
    times: bytes
    stamps: bytes
    first: int = 0


_encode = msgspec.msgpack.Encoder().encode


def _none() -> Numbers:
    return np.zeros(0, np.int64)


@dataclass(slots=True)
class Chunk:
    """Rows of seen ids. Their digests, of 12 bytes each; and of shape (n,) their offsets, ascending, the times by which
    they are forgotten, and their record timestamps, both in milliseconds since the epoch. ``first`` is how many ids the
    lane had remembered before."""

    digests: bytes = b""
    offsets: Numbers = field(default_factory=_none)
    times: Numbers = field(default_factory=_none)
    stamps: Numbers = field(default_factory=_none)
    first: int = 0

    def __len__(self) -> int:
        return len(self.offsets)

    def digest(self, row: int) -> bytes:
        return self.digests[DIGEST_BYTES * row : DIGEST_BYTES * (row + 1)]

    def part(self, begin: int, end: int) -> Chunk:
        """The rows from ``begin`` up to ``end``."""
        rows = slice(begin, end)
        digests = self.digests[DIGEST_BYTES * begin : DIGEST_BYTES * end]
        return Chunk(digests, self.offsets[rows], self.times[rows], self.stamps[rows], self.first + begin)

    def only(self, rows: NDArray[np.bool_]) -> Chunk:
        """Some rows; itself where that is all of them."""
        if rows.all():
            return self
        digests = np.frombuffer(self.digests, f"V{DIGEST_BYTES}")[rows].tobytes()
        return Chunk(digests, self.offsets[rows], self.times[rows], self.stamps[rows])

    def joined(self, more: Chunk) -> Chunk:
        """These rows and further ones."""
        return Chunk(
            self.digests + more.digests,
            np.concatenate([self.offsets, more.offsets]),
            np.concatenate([self.times, more.times]),
            np.concatenate([self.stamps, more.stamps]),
            self.first,
        )


def dumps(chunk: Chunk) -> bytes:
    """The value of a chunk that has rows."""
    offset, time = int(chunk.offsets[0]), int(chunk.times.min())
    later = chunk.stamps - chunk.times
    stamps = _narrow(later) if later.any() else b""
    offsets, times = _narrow(chunk.offsets - offset), _narrow(chunk.times - time)
    return _encode(_Value(VERSION, chunk.digests, offset, offsets, time, times, stamps, chunk.first))


def loads(raw: bytes) -> Chunk:
    """The chunk of a value. Raises ValueError where it is of another version."""
    value = read_kept(raw, _Value, VERSION, "a chunk of seen ids")
    rows = len(value.digests) // DIGEST_BYTES
    times = value.time + _wide(value.times, rows)
    stamps = times + _wide(value.stamps, rows) if value.stamps else times
    return Chunk(value.digests, value.offset + _wide(value.offsets, rows), times, stamps, value.first)


def _narrow(numbers: Numbers) -> bytes:
    """Numbers that are not negative, in as few bytes each as the largest one takes."""
    return numbers.astype(np.min_scalar_type(int(numbers.max())).newbyteorder("<")).tobytes()


def _wide(raw: bytes, rows: int) -> Numbers:
    return np.frombuffer(raw, f"<u{len(raw) // rows}").astype(np.int64)
