"""Outcomes that came before their decision: kept by decision or by event key, and queued so that they can leave.

A decision and its outcome come on two topics, which are fetched independently. Those that say a decision's id wait as
long as decisions are kept. One that says an event's key comes to every lane, and is another lane's nearly always; a
later event with the same key is not the one that it is about. So those wait for minutes, by the time of decisions, in a
queue of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from streamproc.core.outcomes.book import Book, Queue
from streamproc.core.outcomes.outcome import Outcome
from streamproc.core.versioned import numbered

ROWS: Final = 256
MOST: Final = 100_000
"""So many at most in either queue; beyond that the oldest leave."""
WAIT: Final = 15 * 60 * 1000
"""So many milliseconds one by key may be older than its decision."""
ID: Final = b"e"
KEY: Final = b"y"

Entry = tuple[int, int, bytes]
"""When it came, in milliseconds, its number in the queue, and its name."""


class _Waiting(msgspec.Struct, array_like=True):
    """``queued`` is the number of its entry, ``number`` that of the outcome in the order of their log."""

    queued: int
    number: int
    stamp: int
    outcome: Outcome


_encode = msgspec.msgpack.Encoder().encode
_decode_queue = msgspec.msgpack.Decoder(list[Entry]).decode
_decode = msgspec.msgpack.Decoder(_Waiting).decode


def by_id(own: bytes) -> bytes:
    """The name of an outcome that says its decision's id."""
    return ID + own


def by_key(key: str) -> bytes:
    """The name of one that says its event's key."""
    return KEY + key.encode()


def park(book: Book, outcomes: Sequence[tuple[bytes, Outcome, int]]) -> int:
    """Keep outcomes, by name and with their time, until their decision comes; a later one replaces an earlier one.

    How many had to leave for them.
    """
    meta, latest = book.meta, 1000 * book.latest
    names = list(dict.fromkeys(name for name, _, _ in outcomes))
    values = zip(names, book.get_many(names), strict=True)
    queued = {name: _decode(value).queued for name, value in values if value is not None}
    new: dict[bytes, list[Entry]] = {ID: [], KEY: []}
    for name, outcome, stamp in outcomes:
        meta.early_ever += 1
        if name not in queued:  # what waits already keeps its place: one name takes one
            queued[name] = meta.early_ever
            new[name[:1]].append((min(stamp, latest), meta.early_ever, name))
        book.put(name, _encode(_Waiting(queued[name], meta.early_ever, min(stamp, latest), outcome)))
    return sum(_append(book, kind, entries) for kind, entries in new.items())


def take(book: Book, names: Sequence[bytes], since: Sequence[int] | None = None) -> list[tuple[int, Outcome] | None]:
    """The outcomes that wait under these names, all of one kind, and wait no more; each with its number in the order of
    their log. Those that came before ``since``, a time for each name, stay."""
    if not names or not (queue := _queue(book, names[0][:1])).waiting:
        return [None] * len(names)
    found, taken = list[tuple[int, Outcome] | None](), set[bytes]()
    for row, (name, raw) in enumerate(zip(names, book.get_many(names), strict=True)):
        one = None if raw is None or name in taken else _decode(raw)
        if one is None or (since is not None and one.stamp < since[row]):
            found.append(None)
            continue
        book.put(name, None)
        queue.waiting -= 1
        taken.add(name)
        found.append((one.number, one.outcome))
    return found


def expire(book: Book, kind: bytes, before: int) -> int:
    """Let go of what came before a moment, in milliseconds. How many they were."""
    queue, left = _queue(book, kind), 0
    while queue.head < queue.tail:
        entries = _entries(book, kind, queue.head)
        if entries and entries[-1][0] >= before:
            break
        left += _drop_oldest(book, kind, before)
    return left


def _append(book: Book, kind: bytes, entries: list[Entry]) -> int:
    """Put entries at the end. How many had to leave for them."""
    if not entries:
        return 0
    queue = _queue(book, kind)
    queue.waiting += len(entries)
    if queue.tail > queue.head:
        queue.tail -= 1
        entries = _entries(book, kind, queue.tail) + entries
    for first in range(0, len(entries), ROWS):
        book.put(_part(kind, queue.tail), _encode(entries[first : first + ROWS]))
        queue.tail += 1
    left = 0
    # What was taken leaves its entry in the queue: that is bounded too.
    while queue.waiting > MOST or (queue.tail - queue.head) * ROWS > 2 * MOST + 2 * ROWS:
        left += _drop_oldest(book, kind)
    return left


def _drop_oldest(book: Book, kind: bytes, before: int | None = None) -> int:
    """Let go of the oldest part of the queue, as far as it still waits; what was replaced since ``before`` goes to the
    end."""
    queue = _queue(book, kind)
    entries = _entries(book, kind, queue.head)
    book.put(_part(kind, queue.head), None)
    queue.head += 1
    left, again = 0, list[Entry]()
    for (_, queued, name), value in zip(entries, book.get_many([name for _, _, name in entries]), strict=True):
        if value is None or (one := _decode(value)).queued != queued:
            continue
        if before is None or one.stamp < before:
            book.put(name, None)
            left += 1
        else:
            book.meta.early_ever += 1
            one.queued = book.meta.early_ever
            book.put(name, _encode(one))
            again.append((one.stamp, one.queued, name))
    queue.waiting -= left + len(again)
    return left + _append(book, kind, again)


def _queue(book: Book, kind: bytes) -> Queue:
    return book.meta.early_by_id if kind == ID else book.meta.early_by_key


def _entries(book: Book, kind: bytes, number: int) -> list[Entry]:
    [raw] = book.get_many([_part(kind, number)])
    return _decode_queue(raw or b"\x90")


def _part(kind: bytes, number: int) -> bytes:
    return numbered(b"q" if kind == ID else b"p", number)
