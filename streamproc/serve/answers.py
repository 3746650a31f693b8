"""What a door knows of answers: decisions that were made lately, and who waits for one. All of it is bounded."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import orjson

from streamproc.core.records import DeadLetter

BEGINS: Final = b'{"id":"'
"""How every decision record begins."""
_ID: Final = re.compile(re.escape(BEGINS) + rb'([!#-\[\]-~]{1,200})"')
_DIGEST: Final = re.compile(rb"[0-9a-f]{32}")
ENTRY_BYTES: Final = 800
"""What an entry takes beside the decision itself, in the dictionaries."""


class Decided(NamedTuple):
    """A decision as it stands in its topic. ``stamp`` is its record's timestamp, in milliseconds."""

    id: str
    value: bytes
    stamp: int


Answer: TypeAlias = Decided | DeadLetter
Waiter: TypeAlias = "asyncio.Future[Answer | None]"
"""Nothing is said where the door ends first."""


@dataclass(slots=True)
class _Entry:
    first: Decided
    newest: Decided
    digest: str | None


class Answers:
    """Decisions of late by their ids and by the digests of their events, ``most`` bytes of them."""

    def __init__(self, most: int) -> None:
        self._most, self._bytes = most, 0
        self._entries: dict[str, _Entry] = {}
        self._in_order = deque[str]()
        self._by_event: dict[str, str] = {}
        self._waiting: dict[str, set[Waiter]] = {}
        self._ended = False
        self.listeners: set[Callable[[Decided, bytes | None], None]] = set()
        self.on_refused: Callable[[DeadLetter, str], None] | None = None

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    @property
    def size(self) -> int:
        """What is kept, in bytes, about."""
        return self._bytes

    def decided(self, value: bytes, stamp: int, digest: str | None, key: bytes | None) -> None:
        """Take a record of the decisions topic. A later one with the same id is a revision, and so is one that says
        so: it answers no event."""
        id_ = id_of(value)
        if id_ is None:
            return
        one = Decided(id_, value, stamp)
        digest = None if _is_revision(value) else digest
        entry = self._entries.get(id_)
        if entry is None:
            self._entries[id_] = entry = _Entry(one, one, digest)
            self._in_order.append(id_)
            self._bytes += len(value) + ENTRY_BYTES
            if digest is not None:
                self._by_event.setdefault(digest, id_)
        else:
            if entry.newest is not entry.first:
                self._bytes -= len(entry.newest.value)
            entry.newest = one
            self._bytes += len(value)
        while self._bytes > self._most:
            self._forget(self._in_order.popleft())
        if digest in self._waiting:
            self._tell(digest, entry.first)
        if self.listeners:
            for listener in tuple(self.listeners):
                listener(one, key)

    def refused(self, letter: DeadLetter, digest: str) -> None:
        """Take a dead letter."""
        if self.on_refused is not None:
            self.on_refused(letter, digest)
        self._tell(digest, letter)

    def by_event(self, digest: str, oldest: int = 0) -> Decided | None:
        """The first decision of an event, unless it was made before ``oldest`` (ms)."""
        entry = self._entries.get(self._by_event.get(digest, ""))
        return None if entry is None or entry.first.stamp < oldest else entry.first

    def by_id(self, decision: str) -> Decided | None:
        """The decision with this id as it was made first."""
        entry = self._entries.get(decision)
        return None if entry is None else entry.first

    def newest(self, decision: str) -> Decided | None:
        """The decision with this id as it holds now."""
        entry = self._entries.get(decision)
        return None if entry is None else entry.newest

    @contextmanager
    def wait_for(self, digest: str) -> Iterator[Waiter]:
        """What will be said of the event next, or never."""
        waiter: Waiter = asyncio.get_running_loop().create_future()
        if self._ended:
            waiter.set_result(None)
        self._waiting.setdefault(digest, set()).add(waiter)
        try:
            yield waiter
        finally:
            waiters = self._waiting[digest]
            waiters.discard(waiter)
            if not waiters:
                del self._waiting[digest]

    def end(self) -> None:
        """Whoever waits, now or later, waits no longer."""
        self._ended = True
        for digest in self._waiting:
            self._tell(digest, None)

    def _tell(self, digest: str | None, answer: Answer | None) -> None:
        for waiter in self._waiting.get(digest or "", ()):
            if not waiter.done():
                waiter.set_result(answer)

    def _forget(self, decision: str) -> None:
        entry = self._entries.pop(decision)
        self._bytes -= len(entry.first.value) + ENTRY_BYTES
        if entry.newest is not entry.first:
            self._bytes -= len(entry.newest.value)
        if entry.digest is not None and self._by_event.get(entry.digest) == decision:
            del self._by_event[entry.digest]


def id_of(value: bytes) -> str | None:
    """The id of a decision's bytes, which begin with it; ``None`` for what is no decision. Anything may stand there."""
    found = _ID.match(value)
    return None if found is None else found[1].decode()


def digest_of(header: bytes | None) -> str | None:
    """The digest of an event as it stands in a header, ``None`` for what is none: a producer may have written it."""
    return None if header is None or _DIGEST.fullmatch(header) is None else header.decode()


def _is_revision(value: bytes) -> bool:
    if b'"revision":' not in value:  # as in nearly all of them
        return False
    try:
        return "revision" in orjson.loads(value)
    except orjson.JSONDecodeError:
        return False
