"""Queues in lane state: what falls due when. Entries of one span fall due in the order in which they came.

A lane's state can only be asked for keys. So a queue is chunks of entries under numbered keys, with a record of where
it begins and ends; each span of time has a queue of its own, because a new plan may have another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from streamproc.core.processor import State

CHUNK: Final = 256
LIST: Final = b"queues"
EPOCH = datetime.fromtimestamp(0, UTC)
MICROSECOND = timedelta(microseconds=1)


class _Ends(msgspec.Struct, array_like=True):
    """Where a queue begins (a chunk, and an entry in it) and in which chunk it ends."""

    head: int = 0
    place: int = 0
    tail: int = 0


class Queues:
    """The queues of one lane under one name in a table, read where they are needed."""

    def __init__(self, state: State, table: str, name: str) -> None:
        self._state, self._table, self._name = state, table, name
        raw = self._get(self._key(LIST))
        self._ends: dict[int, _Ends] = {} if raw is None else msgspec.msgpack.decode(raw, type=dict[int, _Ends])
        self._chunks: dict[tuple[int, int], list[tuple[int, str]]] = {}
        self._changed: set[tuple[int, int]] = set()
        self._moved = False

    def push(self, now: datetime, span: timedelta, name: str) -> None:
        """``name`` falls due ``span`` after ``now``."""
        own = span // MICROSECOND
        ends = self._ends.setdefault(own, _Ends())
        chunk = self._chunk(own, ends.tail)
        if len(chunk) == CHUNK:
            ends.tail += 1
            chunk = self._chunk(own, ends.tail)
        chunk.append(((now - EPOCH) // MICROSECOND + own, name))
        self._changed.add((own, ends.tail))
        self._moved = True

    def due(self, now: datetime, most: int) -> Iterator[str]:
        """Take out what is due, ``most`` of it."""
        at, left = (now - EPOCH) // MICROSECOND, most
        for own, ends in list(self._ends.items()):
            while left and (entry := self._first(own, ends)) is not None and entry[0] <= at:
                self._pass(own, ends)
                left -= 1
                yield entry[1]

    def next(self) -> datetime | None:
        """When something falls due next; ``None`` where nothing waits."""
        firsts = [entry[0] for own, ends in self._ends.items() if (entry := self._first(own, ends)) is not None]
        return _moment(min(firsts)) if firsts else None

    def kept(self) -> dict[bytes, bytes | None]:
        """What to change in the table for all of this; an empty chunk leaves it."""
        changes = dict[bytes, bytes | None]()
        for own, number in self._changed:
            chunk = self._chunks[own, number]
            changes[self._chunk_key(own, number)] = msgspec.msgpack.encode(chunk) if chunk else None
        if self._moved:
            changes[self._key(LIST)] = msgspec.msgpack.encode(self._ends) if self._ends else None
        return changes

    def _first(self, own: int, ends: _Ends) -> tuple[int, str] | None:
        chunk = self._chunk(own, ends.head)
        return chunk[ends.place] if ends.place < len(chunk) else None

    def _pass(self, own: int, ends: _Ends) -> None:
        ends.place += 1
        self._moved = True
        if ends.place < len(self._chunk(own, ends.head)):
            return
        self._chunks[own, ends.head] = []
        self._changed.add((own, ends.head))
        if ends.head == ends.tail:
            del self._ends[own]
        else:
            ends.head, ends.place = ends.head + 1, 0

    def _chunk(self, own: int, number: int) -> list[tuple[int, str]]:
        if (own, number) not in self._chunks:
            raw = self._get(self._chunk_key(own, number))
            self._chunks[own, number] = [] if raw is None else msgspec.msgpack.decode(raw, type=list[tuple[int, str]])
        return self._chunks[own, number]

    def _get(self, key: bytes) -> bytes | None:
        [raw] = self._state.get_many(self._table, [key])
        return raw

    def _key(self, name: bytes) -> bytes:
        return self._name.encode() + b"/" + name

    def _chunk_key(self, own: int, number: int) -> bytes:
        return self._key(b"%d/%d" % (own, number))


def _moment(microseconds: int) -> datetime:
    try:
        return EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)
