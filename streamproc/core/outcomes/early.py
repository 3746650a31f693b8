"""Outcomes that came before their decision: kept by decision or by event key, and queued so that they can leave.

A decision and its outcome come on two topics, which are fetched independently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from streamproc.core.outcomes.book import Book, numbered
from streamproc.core.outcomes.outcome import Outcome

ROWS: Final = 256
MOST: Final = 100_000
"""So many at most; beyond that the oldest leave."""

Entry = tuple[int, bytes]
_encode = msgspec.msgpack.Encoder().encode
_decode_queue = msgspec.msgpack.Decoder(list[Entry]).decode
_decode_value = msgspec.msgpack.Decoder(tuple[int, int, Outcome]).decode


def by_id(own: bytes) -> bytes:
    """The name of an outcome that says its decision's id."""
    return b"e" + own


def by_key(key: str) -> bytes:
    """The name of one that says its event's key."""
    return b"y" + key.encode()


def park(book: Book, outcomes: Sequence[tuple[bytes, Outcome, int]]) -> int:
    """Keep outcomes, by name and with their time, until their decision comes; a later one replaces an earlier one.

    How many had to leave for them.
    """
    meta, queue = book.meta, list[Entry]()
    before = book.get_many([name for name, _, _ in outcomes])
    meta.early += len({name for (name, _, _), value in zip(outcomes, before, strict=True) if value is None})
    if meta.early_tail > meta.early_head:
        [raw] = book.get_many([numbered(b"q", meta.early_tail - 1)])
        queue = _decode_queue(raw or b"\x90")
        meta.early_tail -= 1
    for name, outcome, stamp in outcomes:
        meta.early_ever += 1
        book.put(name, _encode((stamp, meta.early_ever, outcome)))
        queue.append((stamp, name))
    for first in range(0, len(queue), ROWS):
        book.put(numbered(b"q", meta.early_tail), _encode(queue[first : first + ROWS]))
        meta.early_tail += 1
    left = 0
    while meta.early > MOST:
        left += _drop_oldest(book)
    return left


def take(book: Book, names: Sequence[bytes]) -> list[tuple[int, Outcome] | None]:
    """The outcomes that wait under these names, and wait no more; each with its number in the order of their log."""
    if not book.meta.early:
        return [None] * len(names)
    found, taken = list[tuple[int, Outcome] | None](), set[bytes]()
    for name, raw in zip(names, book.get_many(names), strict=True):
        if raw is None or name in taken:
            found.append(None)
            continue
        book.put(name, None)
        book.meta.early -= 1
        taken.add(name)
        _, number, outcome = _decode_value(raw)
        found.append((number, outcome))
    return found


def expire(book: Book, before: int) -> int:
    """Let go of what came before a moment, in milliseconds. How many they were."""
    left = 0
    while book.meta.early_head < book.meta.early_tail:
        [raw] = book.get_many([numbered(b"q", book.meta.early_head)])
        queue = _decode_queue(raw or b"\x90")
        if queue and queue[-1][0] >= before:
            break
        left += _drop_oldest(book)
    return left


def _drop_oldest(book: Book) -> int:
    """Let go of the oldest part of the queue, as far as it still waits."""
    name = numbered(b"q", book.meta.early_head)
    [raw] = book.get_many([name])
    queue = _decode_queue(raw or b"\x90")
    book.put(name, None)
    book.meta.early_head += 1
    left = 0
    for (stamp, own), value in zip(queue, book.get_many([own for _, own in queue]), strict=True):
        if value is not None and _decode_value(value)[0] == stamp:
            book.put(own, None)
            left += 1
    book.meta.early -= left
    return left
