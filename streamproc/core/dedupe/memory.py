"""What a lane remembers of ids, and which events repeat one.

All of it is in the lane's table, in chunks. What is held in memory beside that is an index over them; a chained hash of
all that was remembered says whether the two still agree: they do not after an aborted batch, or where the lane was
elsewhere meanwhile.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamproc.core.dedupe.chunk import DIGEST_BYTES, GROWS, ROWS, Chunk, Numbers, dumps, loads
from streamproc.core.index import Hashes, Index, hashes_of
from streamproc.core.processor import State
from streamproc.core.versioned import numbered, read_kept

TABLE: Final = "dedupe"
META: Final = b"meta"
VERSION: Final = 1
NEVER: Final = -(1 << 62)
"""The clock of a lane that has seen nothing."""
ROW_BITS: Final = 12
_ROW: Final = (1 << ROW_BITS) - 1

Place: TypeAlias = tuple[int, int]
"""Offset and record timestamp of an event."""


class Meta(msgspec.Struct, array_like=True):
    """Where the lane stands: chunks ``head`` to ``tail``, the last of them with ``rows``; the greatest time so far, and
    the offset after the last event. ``digest`` is of all that was remembered."""

    version: int = VERSION
    digest: bytes = b""
    head: int = 0
    tail: int = 0
    rows: int = 0
    clock: int = NEVER
    next_offset: int = 0


_encode = msgspec.msgpack.Encoder().encode


class Memory:
    """The memory of one lane. ``begin`` before a batch, and ``end`` gives the changes of its table."""

    def __init__(self) -> None:
        self._raw: bytes | None = None
        self._forget()

    def _forget(self) -> None:
        self.meta = Meta()
        self._index = Index()
        self._changes: dict[bytes, bytes | None] = {}
        self._last: Chunk | None = None  # while it grows
        self._until = NEVER  # the newest time in the first chunk

    def begin(self, state: State, offset: int) -> None:
        """Agree with the state, before a batch that begins at an offset.

        One that was passed already is one after a reset: what was seen from there on has not been seen.
        """
        self._state = state
        [raw] = state.get_many(TABLE, [META])
        if raw is None or raw != self._raw:
            self._forget()
            if raw is not None:
                self.meta = read_kept(raw, Meta, VERSION, "the memory of seen ids")
                self._restore()
        self._raw = None  # until it ends well
        if offset < self.meta.next_offset:
            self._go_back(offset)

    def end(self, clock: int, offset: int, before: int) -> dict[bytes, bytes | None]:
        """The changes of the table, after a batch that took the clock and the offset so far. Ids that were seen
        ``before`` a time are let go of, once all of their chunk are."""
        meta = self.meta
        meta.clock, meta.next_offset = clock, offset
        while meta.head < meta.tail and self._until < before:
            self._put(meta.head, None)
            meta.head += 1
            self._index.forget(meta.head << ROW_BITS)
            self._look_at_first()
        changes, self._changes = self._changes, {}
        self._raw = changes[META] = _encode(meta)
        return changes

    def take(self, rows: Chunk, clocks: Numbers, span: int) -> dict[int, Place]:
        """The rows that repeat an id, with where it was seen first. The others are remembered.

        ``clocks``, shape (n,), is the lane's clock at each row; ``span`` is how far back what was seen counts.
        """
        hashes, since = hashes_of(rows.digests, DIGEST_BYTES), clocks - span
        found = self._index.find(hashes)
        doubtful = np.flatnonzero((found >= 0) | _repeated(hashes))
        repeats = self._repeats(rows, doubtful, found, since.tolist()) if len(doubtful) else {}
        kept = rows.times >= since
        kept[list(repeats)] = False
        if kept.any():
            self._append(rows.only(kept))
        return repeats

    def _repeats(self, rows: Chunk, doubtful: Numbers, found: Numbers, since: list[int]) -> dict[int, Place]:
        repeats = dict[int, Place]()
        seen = dict[bytes, tuple[int, int, int]]()  # time, offset and timestamp of what counts, by digest
        earlier = self._read(found[doubtful])
        times, offsets, stamps = rows.times.tolist(), rows.offsets.tolist(), rows.stamps.tolist()
        for row, kept in zip(doubtful.tolist(), earlier, strict=True):
            own = rows.digest(row)
            if own not in seen and kept is not None and kept[0] == own:
                seen[own] = kept[1:]
            if own in seen and seen[own][0] >= since[row]:
                repeats[row] = seen[own][1:]
            else:
                seen[own] = times[row], offsets[row], stamps[row]
        return repeats

    def _read(self, positions: Numbers) -> list[tuple[bytes, int, int, int] | None]:
        """Digest, time, offset and timestamp of the rows at some positions; ``None`` where a position is none."""
        read = list[tuple[bytes, int, int, int] | None]([None] * len(positions))
        numbers = positions >> ROW_BITS  # -1 stays -1
        for number in np.unique(numbers[numbers >= 0]).tolist():
            chunk, places = self._chunk(number), np.flatnonzero(numbers == number)
            at = positions[places] & _ROW
            columns = (chunk.times[at].tolist(), chunk.offsets[at].tolist(), chunk.stamps[at].tolist())
            for place, row, *own in zip(places.tolist(), at.tolist(), *columns, strict=True):
                read[place] = (chunk.digest(row), *own)
        return read

    def _append(self, rows: Chunk) -> None:
        meta, begin = self.meta, 0
        meta.digest = blake2b(meta.digest + rows.digests + rows.offsets.tobytes(), digest_size=16).digest()
        if meta.tail > meta.head and meta.rows < GROWS:
            last = self._last or self._chunk(meta.tail - 1)
            begin = min(len(rows), ROWS - len(last))
            self._write(meta.tail - 1, last.joined(rows.part(0, begin)), len(last))
        for first in range(begin, len(rows), ROWS):
            meta.tail += 1
            self._write(meta.tail - 1, rows.part(first, min(first + ROWS, len(rows))), 0)

    def _write(self, number: int, chunk: Chunk, indexed: int) -> None:
        self._put(number, dumps(chunk))
        self.meta.rows = len(chunk)
        self._last = chunk if len(chunk) < GROWS else None
        if number == self.meta.head:
            self._until = int(chunk.times.max())
        self._add([(number, chunk)], indexed)

    def _add(self, chunks: list[tuple[int, Chunk]], indexed: int = 0) -> None:
        if chunks:
            positions = [np.arange(indexed, len(chunk)) + (number << ROW_BITS) for number, chunk in chunks]
            hashes = [hashes_of(chunk.digests, DIGEST_BYTES)[indexed:] for _, chunk in chunks]
            self._index.add(np.concatenate(hashes), np.concatenate(positions))

    def _put(self, number: int, value: bytes | None) -> None:
        self._changes[numbered(b"c", number)] = value

    def _chunk(self, number: int) -> Chunk:
        key = numbered(b"c", number)
        raw = self._changes[key] if key in self._changes else self._state.get_many(TABLE, [key])[0]
        assert raw is not None, "a chunk of seen ids is not in the lane's state"
        return loads(raw)

    def _look_at_first(self) -> None:
        meta = self.meta
        self._until = int(self._chunk(meta.head).times.max()) if meta.head < meta.tail else NEVER

    def _restore(self) -> None:
        """Make the index anew."""
        self._index, self._last = Index(), None
        self._add([(number, self._chunk(number)) for number in range(self.meta.head, self.meta.tail)])
        self._look_at_first()

    def _go_back(self, offset: int) -> None:
        """Forget what was seen at an offset and after it. The clock becomes the greatest time of what is left."""
        meta = self.meta
        while meta.tail > meta.head:
            last = self._chunk(meta.tail - 1)
            left = int(np.searchsorted(last.offsets, offset))
            if left:
                self._put(meta.tail - 1, dumps(last.part(0, left)))
                meta.rows = left
                break
            meta.tail -= 1
            self._put(meta.tail, None)
            meta.rows = ROWS
        times = [int(self._chunk(number).times.max()) for number in range(meta.head, meta.tail)]
        meta.clock = max(times, default=NEVER)
        meta.digest = blake2b(meta.digest + b"%d" % offset, digest_size=16).digest()
        self._restore()


def _repeated(hashes: Hashes) -> NDArray[np.bool_]:
    """Whether each hash is there more than once; shape (n,)."""
    order = np.argsort(hashes)
    same = np.zeros(len(hashes) + 1, np.bool_)
    same[1:-1] = hashes[order[1:]] == hashes[order[:-1]]
    repeated = np.empty(len(hashes), np.bool_)
    repeated[order] = same[1:] | same[:-1]
    return repeated
