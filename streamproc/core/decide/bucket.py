"""How much drift may change in one lane: a token bucket that refills with the lane's offsets."""

from __future__ import annotations

from typing import Final, Literal, Self, TypeAlias

import msgspec

from streamproc.core.versioned import read_kept

VERSION: Final = 1
TOKEN: Final = 1_000_000
"""One event. A share in millionths refills it by whole numbers, so nothing is ever rounded."""
BURST: Final = 1_000
"""A full bucket holds what drift may change among so many events."""

Taken: TypeAlias = Literal["changed", "capped", "escalated"]
"""Drift may change an event; it may not; it may not, and that is to be told."""


class Bucket(msgspec.Struct, array_like=True):
    """What is left at an offset, and what happened since it was full.

    ``level`` is in millionths of an event. ``told`` says that it has been empty, and not yet half full again.
    ``since`` is the first offset that drift wanted to change when it was full; from there on ``changed`` events were
    decided otherwise and ``capped`` ones were not.
    """

    version: int
    level: int
    at: int
    told: bool
    since: int
    changed: int
    capped: int

    @classmethod
    def full(cls, share: int, offset: int) -> Self:
        """A bucket that nothing was taken from."""
        return cls(VERSION, most(share), offset, False, offset, 0, 0)

    def take(self, share: int, offset: int) -> Taken:
        """May drift change the event at ``offset``? Of the events that it wants to change each is asked for, in order.

        ``share`` is in millionths. An offset that was passed already is one after a reset: the bucket is full again.
        """
        passed, full = offset - self.at, most(share)
        level = self.level + share * passed
        if level >= full or passed < 0:
            level = full
            self.since, self.changed, self.capped = offset, 0, 0
        if 2 * level >= full:
            self.told = False
        self.at, self.level = offset, level
        if level >= TOKEN:
            self.level = level - TOKEN
            self.changed += 1
            return "changed"
        self.capped += 1
        if self.told:
            return "capped"
        self.told = True
        return "escalated"

    @property
    def events(self) -> int:
        """Events of the lane from ``since`` on, that at ``at`` included."""
        return self.at - self.since + 1


def most(share: int) -> int:
    """What a full bucket holds: never less than one event, or drift could change none at all."""
    return BURST * share if BURST * share > TOKEN else TOKEN


encode = msgspec.msgpack.Encoder().encode


def read(raw: bytes | None, share: int, offset: int) -> Bucket:
    """The bucket of a lane, which is full where there is none yet.

    Raises ValueError where it is of another version of this program.
    """
    if raw is None:
        return Bucket.full(share, offset)
    return read_kept(raw, Bucket, VERSION, "a bucket")
