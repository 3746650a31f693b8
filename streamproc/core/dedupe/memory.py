"""What a lane remembers of ids, and which events repeat one.

All of it is in the lane's table, in chunks. What is held in memory beside that is an index over them; a chained hash of
all that was remembered says whether the two still agree: they do not after an aborted batch, or where the lane was
elsewhere meanwhile.

An event repeats an id if its time is at most ``span`` after that of the last event that was remembered with it. Ids are
remembered for ``AHEAD`` longer than that by the lane's clock, since one may be so far ahead; and of a lane no more
than ``most``, since a clock may stand still. Neither depends on how events fall into batches.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamproc.core.dedupe.chunk import DIGEST_BYTES, GROWS, ROWS, Chunk, Numbers, dumps, loads
from streamproc.core.dedupe.clock import AHEAD, NEVER, advance
from streamproc.core.index import Hashes, Index, hashes_of
from streamproc.core.processor import State
from streamproc.core.state import Tables
from streamproc.core.versioned import numbered, read_kept

TABLE: Final = "dedupe"
META: Final = b"meta"
VERSION: Final = 1
TOGETHER: Final = 64
"""So many chunks are put into the index at once when a lane is opened."""
ROW_BITS: Final = 12
_ROW: Final = (1 << ROW_BITS) - 1

Place: TypeAlias = tuple[int, int]
"""Offset and record timestamp of an event."""
_LET_GO: Final = Tables([TABLE])
"""Between batches no lane's state is held: it may leave."""


class Row(NamedTuple):
    """An id that was seen: its digest, time and place, and how many ids the lane had remembered before."""

    digest: bytes
    time: int
    place: Place
    number: int


class Meta(msgspec.Struct, array_like=True):
    """Where the lane stands: chunks ``head`` to ``tail``, the last of them with ``rows``; its clock, the offset after
    the last event, and how many ids it ever remembered. ``digest`` is of all that was remembered."""

    version: int = VERSION
    digest: bytes = b""
    head: int = 0
    tail: int = 0
    rows: int = 0
    clock: int = NEVER
    next_offset: int = 0
    count: int = 0


_encode = msgspec.msgpack.Encoder().encode


class Memory:
    """The memory of one lane. ``begin`` before a batch, and ``end`` gives the changes of its table.

    ``span`` is how far back what was seen counts, in milliseconds, and ``most`` so many ids are remembered.
    """

    def __init__(self, span: int, most: int) -> None:
        self._span, self._most = span, most
        self._raw: bytes | None = None
        self._state: State = _LET_GO
        self.left = 0
        """So many ids the last batch let go of, before their time, because there were too many."""
        self._forget()

    def _forget(self) -> None:
        self.meta = Meta()
        self._index = Index()
        self._changes: dict[bytes, bytes | None] = {}
        self._last: Chunk | None = None  # while it grows
        self._until, self._beyond = NEVER, 0  # of the first chunk: its newest time, and the number after its last row

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

    def end(self, clock: int, offset: int) -> dict[bytes, bytes | None]:
        """The changes of the table, after a batch that took the clock and the offset so far. What is forgotten is let
        go of once all of its chunk is."""
        meta, self.left = self.meta, 0
        meta.clock, meta.next_offset = clock, offset
        while meta.head < meta.tail:
            is_old = self._until < clock - self._span - AHEAD
            if not is_old and self._beyond > meta.count - self._most:
                break
            self.left += 0 if is_old else len(self._chunk(meta.head))
            self._put(meta.head, None)
            meta.head += 1
            self._index.forget(meta.head << ROW_BITS)
            self._look_at_first()
        changes, self._changes = self._changes, {}
        self._raw = changes[META] = _encode(meta)
        self._state = _LET_GO
        return changes

    def take(self, rows: Chunk, clocks: Numbers) -> dict[int, Place]:
        """The rows that repeat an id, with where it was seen first. The others are remembered, but for those so late
        that they are forgotten. ``clocks``, shape (n,), is the lane's clock at each row."""
        hashes, kept_since = hashes_of(rows.digests, DIGEST_BYTES), clocks - self._span - AHEAD
        order = np.argsort(hashes)
        found, kept = self._index.find(hashes, order), rows.times >= kept_since
        doubtful = np.flatnonzero((found >= 0) | _repeated(hashes, order))
        repeats = dict[int, Place]()
        if len(doubtful):
            since = np.maximum(rows.times - self._span, kept_since)
            repeats = self._repeats(rows, hashes, doubtful, found, since, kept)
            kept[list(repeats)] = False
        if kept.any():
            self._append(rows.only(kept))
        return repeats

    def _repeats(
        self, rows: Chunk, hashes: Hashes, doubtful: Numbers, found: Numbers, since: Numbers, kept: NDArray[np.bool_]
    ) -> dict[int, Place]:
        """The doubtful rows that repeat an id that was seen ``since``; of the others ``kept`` are remembered."""
        repeats, seen, fewer = dict[int, Place](), dict[bytes, Row](), 0  # by digest the last one
        numbers = self.meta.count + np.cumsum(kept) - kept  # of each row, but for the repeats before it
        columns = (doubtful, self._read(found[doubtful]), since[doubtful], numbers[doubtful], kept[doubtful])
        for row, newest, oldest, number, is_kept in zip(*columns, strict=True):
            own = rows.digest(row)
            if own not in seen and (earlier := self._with(own, newest, hashes[row])) is not None:
                seen[own] = earlier
            first = seen.get(own)
            if first is not None and first.time >= oldest and first.number >= number - fewer - self._most:
                repeats[int(row)] = first.place
                fewer += int(is_kept)
            elif is_kept:
                place = int(rows.offsets[row]), int(rows.stamps[row])
                seen[own] = Row(own, int(rows.times[row]), place, int(number) - fewer)
        return repeats

    def _with(self, digest: bytes, newest: Row | None, hash_: np.uint64) -> Row | None:
        """The last row with a digest, where the newest one with its hash is given: that may be of another digest."""
        if newest is None or newest.digest == digest:
            return newest
        for position in self._index.positions(int(hash_)):
            [row] = self._read(np.array([position]))
            if row is not None and row.digest == digest:
                return row
        return None

    def _read(self, positions: Numbers) -> list[Row | None]:
        """The rows at some positions; ``None`` where a position is none."""
        read = list[Row | None]([None] * len(positions))
        numbers = positions >> ROW_BITS  # -1 stays -1
        for number in np.unique(numbers[numbers >= 0]).tolist():
            chunk, places = self._chunk(number), np.flatnonzero(numbers == number)
            at = positions[places] & _ROW
            columns = (chunk.times[at].tolist(), chunk.offsets[at].tolist(), chunk.stamps[at].tolist())
            for place, row, time, offset, stamp in zip(places.tolist(), at.tolist(), *columns, strict=True):
                read[place] = Row(chunk.digest(row), time, (offset, stamp), chunk.first + row)
        return read

    def _append(self, rows: Chunk) -> None:
        meta, begin = self.meta, 0
        meta.digest = blake2b(meta.digest + rows.digests + rows.offsets.tobytes(), digest_size=16).digest()
        rows.first, meta.count = meta.count, meta.count + len(rows)
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
            self._until, self._beyond = _bounds(chunk)
        hashes, positions = _indexed(number, chunk)
        self._index.add(hashes[indexed:], positions[indexed:])

    def _put(self, number: int, value: bytes | None) -> None:
        self._changes[numbered(b"c", number)] = value

    def _chunk(self, number: int) -> Chunk:
        key = numbered(b"c", number)
        raw = self._changes[key] if key in self._changes else self._state.get_many(TABLE, [key])[0]
        assert raw is not None, "a chunk of seen ids is not in the lane's state"
        return loads(raw)

    def _look_at_first(self) -> None:
        meta = self.meta
        self._until, self._beyond = _bounds(self._chunk(meta.head)) if meta.head < meta.tail else (NEVER, 0)

    def _restore(self) -> None:
        """Make the index anew, a few chunks at a time: more of them would be in memory twice meanwhile."""
        self._index, self._last = Index(), None
        for first in range(self.meta.head, self.meta.tail, TOGETHER):
            numbers = range(first, min(first + TOGETHER, self.meta.tail))
            hashes, positions = zip(*(_indexed(number, self._chunk(number)) for number in numbers), strict=True)
            self._index.add(np.concatenate(hashes), np.concatenate(positions))
        self._look_at_first()

    def _go_back(self, offset: int) -> None:
        """Forget what was seen at an offset and after it. The clock becomes that of what is left."""
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
        meta.clock = NEVER
        for number in range(meta.head, meta.tail):
            chunk = self._chunk(number)
            meta.clock, meta.count = int(advance(chunk.times, meta.clock)[-1]), chunk.first + len(chunk)
        meta.digest = blake2b(meta.digest + b"%d" % offset, digest_size=16).digest()
        self._restore()


def _indexed(number: int, chunk: Chunk) -> tuple[Hashes, Numbers]:
    """By what the rows of a chunk are found, and where; shape (n,) each."""
    return hashes_of(chunk.digests, DIGEST_BYTES), np.arange(len(chunk)) + (number << ROW_BITS)


def _bounds(chunk: Chunk) -> tuple[int, int]:
    """The newest time of a chunk, and the number after that of its last row."""
    return int(chunk.times.max()), chunk.first + len(chunk)


def _repeated(hashes: Hashes, order: Numbers) -> NDArray[np.bool_]:
    """Whether each hash is there more than once, where ``order`` sorts them; shape (n,) each."""
    same = np.zeros(len(hashes) + 1, np.bool_)
    same[1:-1] = hashes[order[1:]] == hashes[order[:-1]]
    repeated = np.empty(len(hashes), np.bool_)
    repeated[order] = same[1:] | same[:-1]
    return repeated
