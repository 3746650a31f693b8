"""What a lane remembers about outcomes: kept decisions, what became of them, outcomes that came too early, windows.

All of it is in the lane's table. What is held in memory beside that is an index and what was read or written last; a
chained hash of all that the lane was given says whether the two still agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Final, TypeVar

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from streamproc.core.index import NOT_FOUND, Hashes, Index, Positions
from streamproc.core.outcomes import kept, known
from streamproc.core.outcomes.kept import ROW_BITS, Chunk
from streamproc.core.outcomes.known import Known
from streamproc.core.outcomes.measures import Counts, Group, Window, packed, unpacked
from streamproc.core.processor import State
from streamproc.core.versioned import numbered

TABLE: Final = "outcomes"
META: Final = b"meta"
WINDOWS: Final = b"windows"
VERSION: Final = 1
MOST_CHUNKS: Final = 32
MOST_WINDOWS: Final = 64
"""So many of each are kept decoded from batch to batch."""
SKEW: Final = 3600
"""A record's time counts as at most so many seconds after now."""
FAR: Final = (1 << 32) - 1
"""The last moment that kept decisions can have, in seconds."""


class Queue(msgspec.Struct, array_like=True):
    """Parts ``head`` to ``tail`` of a queue of early outcomes, of which ``waiting`` still wait."""

    head: int = 0
    tail: int = 0
    waiting: int = 0


class Meta(msgspec.Struct, array_like=True):
    """Where the lane stands.

    Chunks ``head`` to ``tail`` hold ``count`` decisions, the last of them ``rows``. Early outcomes are numbered up to
    ``early_ever``. ``dirty`` are windows whose record is not written yet,
    ``horizon`` is the end of those that are over, ``newest`` the time of the newest decision, in milliseconds.
    ``next_offset`` is the offset after the last event whose decision was counted.
    """

    version: int = VERSION
    lane: int = 0
    digest: bytes = b""
    head: int = 0
    tail: int = 0
    rows: int = 0
    count: int = 0
    early_by_id: Queue = msgspec.field(default_factory=Queue)
    early_by_key: Queue = msgspec.field(default_factory=Queue)
    early_ever: int = 0
    horizon: int = 0
    newest: int = 0
    next_offset: int = 0
    dirty: list[int] = msgspec.field(default_factory=list)


Wanted = TypeVar("Wanted")
_encode = msgspec.msgpack.Encoder().encode
_decode_meta = msgspec.msgpack.Decoder(Meta).decode
_decode_windows = msgspec.msgpack.Decoder(list[int]).decode


class OpenWindow:
    """A window with its groups by number, and what of it has changed."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.order = list(window.groups)
        self.numbers = {group: number for number, group in enumerate(self.order)}
        self.grown = False
        self.touched: set[int] = set()
        self.own_touched = False

    @property
    def changed(self) -> bool:
        return bool(self.touched) or self.own_touched or self.grown

    def number(self, group: Group) -> int:
        """The number of the group that such decisions are counted in."""
        group = self.window.place(group)
        if group not in self.numbers:
            self.numbers[group] = len(self.order)
            self.order.append(group)
            self.grown = True
        return self.numbers[group]

    def counts(self, number: int) -> Counts:
        """The counts of a group, to be changed."""
        self.touched.add(number)
        return self.window.groups[self.order[number]]

    def own(self) -> Counts:
        """The counts of the window as a whole, to be changed."""
        self.own_touched = True
        return self.window.own


class Book:
    """The memory of one lane. ``begin`` before a batch or tick, and ``end`` gives the changes of its table.

    Without ``one_lane`` its decisions are of events of several partitions.
    """

    def __init__(self, seconds: int, *, one_lane: bool = True) -> None:
        self._seconds, self.one_lane, self.latest = seconds, one_lane, FAR
        self._raw: bytes | None = None
        self._forget()

    def _forget(self) -> None:
        self.meta = Meta()
        self._windows = list[int]()
        self._ids, self._keys = Index(), Index()
        self._chunks: dict[int, Chunk] = {}
        self._first: dict[int, int] = {}  # of each chunk that is kept, the first window
        self._open: dict[int, OpenWindow] = {}
        self._changes: dict[bytes, bytes | None] = {}
        self._listed = True

    def begin(self, state: State, lane: int, step: bytes, now: float = FAR) -> None:
        """Agree with the state. ``step`` names what comes now; what is from long after ``now`` was stamped by a clock
        that is wrong, and one such record must not move the others' windows."""
        self._state, self.latest = state, min(FAR, int(now) + SKEW)
        [raw] = state.get_many(TABLE, [META])
        if raw is None or raw != self._raw:
            self._forget()
            if raw is not None:
                self._restore(raw)
        self._raw = None  # until it ends well
        self._changes = {}
        self.meta.lane = lane
        self.meta.digest = blake2b(self.meta.digest + step, digest_size=16).digest()

    def end(self) -> dict[bytes, bytes | None]:
        """The changes of the table."""
        for start, opened in self._open.items():
            self._write(start, opened)
        if not self._listed:
            self._changes[WINDOWS] = _encode(self._windows)
            self._listed = True
        changes, self._changes = self._changes, {}
        self._raw = changes[META] = _encode(self.meta)
        while len(self._chunks) > MOST_CHUNKS:
            self._chunks.pop(next(iter(self._chunks)))
        for start in list(self._open)[:-MOST_WINDOWS]:
            del self._open[start]
        return changes

    # -- values

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of the table, with the changes so far."""
        values = self._state.get_many(TABLE, keys)
        if not self._changes:
            return values
        changes = self._changes
        return [changes.get(key, value) for key, value in zip(keys, values, strict=True)]

    def put(self, key: bytes, value: bytes | None) -> None:
        """Change the table."""
        self._changes[key] = value

    # -- windows

    def windows(self, seconds: NDArray[np.int64]) -> NDArray[np.int64]:
        """The starts of the windows that moments are counted in, shape (n,): where theirs is over, the first that is
        not; where it is to come, that of now."""
        starts: NDArray[np.int64] = np.minimum(seconds, self.latest) // self._seconds * self._seconds
        return np.maximum(starts, self.meta.horizon)

    def opened(self, start: int) -> OpenWindow:
        """A window that is not over."""
        assert start >= self.meta.horizon
        if start in self._open:
            opened = self._open.pop(start)
        elif start in self._windows:
            opened = OpenWindow(self._read_window(start))
        else:
            opened = OpenWindow(Window(start, self._seconds))
            self._windows.append(start)
            self._listed = False
        self._open[start] = opened  # behind those that were used before
        return opened

    def listed(self) -> list[int]:
        """The starts of all windows that are not over."""
        return sorted(self._windows)

    def _read_window(self, start: int) -> Window:
        dims, own = self.get_many([numbered(b"d", start), numbered(b"w", start)])
        order = [Group(*row) for row in orjson.loads(dims or b"[]")]
        counts = self.get_many([numbered(b"g", start, number) for number in range(len(order))])
        said = orjson.loads(own or b"{}")
        marks = {name: (first, last) for name, (first, last) in said.get("marks", {}).items()}
        groups = {group: unpacked(orjson.loads(raw or b"{}")) for group, raw in zip(order, counts, strict=True)}
        return Window(start, said.get("seconds", self._seconds), groups, unpacked(said.get("own", {})), marks)

    def _write(self, start: int, opened: OpenWindow) -> None:
        if not opened.changed:
            return
        window = opened.window
        if opened.grown:
            rows = [tuple(group) if group.prompt is not None else group[:-1] for group in opened.order]
            self.put(numbered(b"d", start), orjson.dumps(rows))
        for number in opened.touched:
            self.put(numbered(b"g", start, number), orjson.dumps(packed(window.groups[opened.order[number]])))
        if opened.own_touched:
            told = {"seconds": window.seconds, "own": packed(window.own), "marks": window.marks}
            self.put(numbered(b"w", start), orjson.dumps(told))
        if start not in self.meta.dirty:
            self.meta.dirty.append(start)
        opened.grown, opened.own_touched, opened.touched = False, False, set()

    # -- decisions

    def append(self, rows: Chunk) -> None:
        """Keep decisions."""
        meta, begin = self.meta, 0
        meta.count += len(rows)
        if meta.tail > meta.head and meta.rows < kept.GROWS:
            last = self.chunk(meta.tail - 1)
            begin = min(len(rows), kept.ROWS - len(last))
            self._put_chunk(meta.tail - 1, last.joined(rows.part(0, begin)), len(last))
        for first in range(begin, len(rows), kept.ROWS):
            meta.tail += 1
            self._put_chunk(meta.tail - 1, rows.part(first, min(first + kept.ROWS, len(rows))), 0)

    def _put_chunk(self, number: int, chunk: Chunk, indexed: int) -> None:
        self._chunks[number] = chunk
        self._first[number] = int(chunk.windows.min())
        self.put(numbered(b"c", number), kept.dumps(chunk))
        self.meta.rows = len(chunk)
        self._index([(number, chunk)], indexed)

    def _index(self, chunks: Sequence[tuple[int, Chunk]], indexed: int = 0) -> None:
        positions = [np.arange(indexed, len(chunk)) + (number << ROW_BITS) for number, chunk in chunks]
        hashes = [kept.id_hashes(chunk.ids)[indexed:] for _, chunk in chunks]
        if not hashes:
            return
        self._ids.add(np.concatenate(hashes), np.concatenate(positions))
        for (_, chunk), places in zip(chunks, positions, strict=True):
            rows, of_keys = kept.key_hashes(chunk.keys[indexed:])
            self._keys.add(of_keys, places[rows])

    def chunk(self, number: int) -> Chunk:
        """A chunk of kept decisions."""
        if number in self._chunks:
            return self._chunks[number]
        [raw] = self.get_many([numbered(b"c", number)])
        assert raw is not None, "a chunk of kept decisions is not in the lane's state"
        chunk = self._chunks[number] = kept.loads(raw)
        return chunk

    def find(self, ids: Sequence[bytes]) -> list[int]:
        """The position of each decision; -1 where it is not kept."""
        hashes = kept.id_hashes(b"".join(ids))

        def there(at: int, own: bytes) -> bool:
            return self.chunk(at >> ROW_BITS).id(at & _ROW) == own

        return _settled(self._ids, hashes, ids, there)

    def kept_already(self, ids: bytes) -> Positions:
        """The rows of many ids, 12 bytes each, that may be kept: nearly always none."""
        return np.flatnonzero(self._ids.find(kept.id_hashes(ids)) >= 0)

    def find_keys(self, keys: Sequence[str]) -> list[int]:
        """The position of the newest decision with each event's key; -1 where there is none."""

        def there(at: int, key: str) -> bool:
            return self.chunk(at >> ROW_BITS).keys[at & _ROW] == key

        return _settled(self._keys, kept.key_hashes(keys)[1], keys, there)

    def row(self, position: int) -> tuple[Chunk, int]:
        """The chunk at a position, and the row in it."""
        return self.chunk(position >> ROW_BITS), position & _ROW

    def drop_oldest(self) -> int:
        """Let go of the oldest chunk, and of what is known of its decisions. How many they were."""
        meta = self.meta
        chunk = self.chunk(meta.head)
        names = [b"k" + chunk.id(row) for row in range(len(chunk))]
        for name, value in zip(names, self.get_many(names), strict=True):
            if value is not None:
                self.put(name, None)
        self.put(numbered(b"c", meta.head), None)
        self._chunks.pop(meta.head)
        self._first.pop(meta.head)
        meta.head += 1
        meta.count -= len(chunk)
        for index in (self._ids, self._keys):
            index.forget(meta.head << ROW_BITS)
        return len(chunk)

    def oldest(self) -> Chunk | None:
        """The chunk that leaves first."""
        return self.chunk(self.meta.head) if self.meta.head < self.meta.tail else None

    def close_windows(self, before: int) -> None:
        """Let go of the windows that begin before a moment, whose records are written, and of which no decision is
        kept; nothing is counted in them any more.

        Decisions do not stand in the order of their time: clocks differ.
        """
        if before <= self.meta.horizon:
            return
        unwritten = [start for start, opened in self._open.items() if opened.changed]
        before = min([before, *self.meta.dirty, *unwritten, *self._first.values()])
        gone = [start for start in self._windows if start < before]
        for start in gone:
            opened = self.opened(start)
            keys = [numbered(b"g", start, number) for number in range(len(opened.order))]
            for key in (numbered(b"d", start), numbered(b"w", start), *keys):
                self.put(key, None)
            del self._open[start]
            self._windows.remove(start)
            self._listed = False
        self.meta.horizon = max(self.meta.horizon, before)

    # -- what became of them

    def known(self, ids: Sequence[bytes]) -> list[Known | None]:
        """What is known of decisions beyond the decision itself."""
        return [None if raw is None else known.loads(raw) for raw in self.get_many([b"k" + own for own in ids])]

    def know(self, own: bytes, now: Known) -> None:
        """Remember what is known of a decision."""
        self.put(b"k" + own, known.dumps(now))

    def _restore(self, raw: bytes) -> None:
        meta = self.meta = _decode_meta(raw)
        if meta.version != VERSION:
            raise ValueError(f"the lane's state has version {meta.version}, and this program reads {VERSION}")
        [listed] = self._state.get_many(TABLE, [WINDOWS])
        self._windows = _decode_windows(listed) if listed is not None else []
        numbers = range(meta.head, meta.tail)
        raws = self._state.get_many(TABLE, [numbered(b"c", number) for number in numbers])
        chunks = [(number, kept.loads(one or b"")) for number, one in zip(numbers, raws, strict=True)]
        self._first = {number: int(chunk.windows.min()) for number, chunk in chunks}
        self._index(chunks)
        for index in (self._ids, self._keys):
            index.forget(meta.head << ROW_BITS)


_ROW: Final = (1 << ROW_BITS) - 1


def _settled(index: Index, hashes: Hashes, wanted: Sequence[Wanted], there: Callable[[int, Wanted], bool]) -> list[int]:
    """The newest position at which each of what is wanted is ``there``; else -1. Others may have its hash."""
    found: list[int] = index.find(hashes).tolist()
    for row, (at, own) in enumerate(zip(found, wanted, strict=True)):
        if at >= 0 and not there(at, own):
            found[row] = next((older for older in index.positions(int(hashes[row])) if there(older, own)), NOT_FOUND)
    return found


def standing(state: State) -> Meta | None:
    """Where a lane stands; ``None`` where it has never worked."""
    [raw] = state.get_many(TABLE, [META])
    return None if raw is None else _decode_meta(raw)


def chained(parts: Iterable[object]) -> bytes:
    """What a batch or tick is, for the chained hash."""
    return orjson.dumps([str(part) for part in parts])
