"""How many requests may be made in a time: buckets of tokens, as the one number that says when each is full again.

It is the generic cell rate algorithm (ITU-T I.371): a request conforms where it comes not much before the time at which
the bucket would be full (``full``, the theoretical arrival time), and moves that by one interval. Whoever comes first
has the earlier place, and waits for it; who would have to wait too long takes none. Times are integers, in µs.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

MILLION: Final = 1_000_000
MOST_KEYS: Final = 100_000
"""So many keys are known at most; the one that was used least recently is forgotten first."""
FLOOR: Final = MILLION // 64
"""A server that limits makes the rate no lower than this share of it, in millionths."""
RECOVERS: Final = MILLION // 20
"""So much of the rate comes back in a second."""
DEAF: Final = MILLION
"""Within so many µs all refusals of a server are one."""

Granted: TypeAlias = Literal["no", "yes", "again"]
"""Not in time; yes; the place of the key is taken, and that among all is to be asked for when it has come."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in each ``period`` µs, and as many at once after a pause.

    Of any stretch of time, as many requests may be made as come in it, and a bucket full of them.
    """

    requests: int
    period: int

    @property
    def interval(self) -> int:
        """µs from one request to the next, rounded up: the rate is never more than was said."""
        return -(-self.period // self.requests)

    @property
    def tolerance(self) -> int:
        """So much earlier than evenly spaced may a request be."""
        return self.interval * (self.requests - 1)


@dataclass(frozen=True, slots=True)
class LimitsPlan:
    """The rate of all requests, and that of each value of the column ``by``."""

    all: Rate | None = None
    by: str | None = None
    each: Rate | None = None

    @property
    def is_limited(self) -> bool:
        return self.all is not None or self.each is not None


@dataclass(frozen=True, slots=True)
class Bucket:
    """A rate as it is now: µs between requests, and how much earlier one may be."""

    interval: int
    tolerance: int

    def wait(self, full: int, now: int) -> int:
        return max(0, full - self.tolerance - now)

    def taken(self, full: int, at: int) -> int:
        """When it is full again after a request at a time."""
        return max(full, at) + self.interval


@dataclass(frozen=True, slots=True)
class Turn:
    """Whether there is one, and after how many µs."""

    granted: Granted
    wait: int


class Pace:
    """How much of the rate a server bears: half of it after each refusal, and a little more every second."""

    def __init__(self) -> None:
        self._low, self._since, self._deaf_until = MILLION, 0, 0

    def limited(self, now: int, after: int = 0) -> None:
        """A server refused, and wants to be left alone for ``after`` µs."""
        if now >= self._deaf_until:
            self._low = max(FLOOR, self.share(now) // 2)
            self._since = now + after
            self._deaf_until = now + max(after, DEAF)

    def share(self, now: int) -> int:
        """In millionths."""
        return min(MILLION, self._low + max(0, now - self._since) * RECOVERS // MILLION)

    def bucket(self, rate: Rate, now: int) -> Bucket:
        """A rate at this pace. What is slower may also come less far ahead of its time."""
        return Bucket(-(-rate.interval * MILLION // self.share(now)), rate.tolerance)


class Buckets:
    """The buckets of one process: one for all requests, and one for each key."""

    def __init__(self, most_keys: int = MOST_KEYS) -> None:
        self._all, self._most_keys = 0, most_keys
        self._keys = OrderedDict[str, int]()

    def __len__(self) -> int:
        return len(self._keys)

    def take(self, all_: Bucket | None, key: str, each: Bucket | None, now: int, most: int) -> Turn:
        """A turn within ``most`` µs. Where the key has to wait longer than all, only its place is taken: one who waits
        for their own sake keeps nobody else waiting."""
        wait = 0 if all_ is None else all_.wait(self._all, now)
        full = self._keys.get(key, 0)
        own = 0 if each is None else each.wait(full, now)
        longest = max(wait, own)
        if longest > most:
            return Turn("no", longest)
        if each is not None:
            self._keys[key] = each.taken(full, now + longest)
            self._keys.move_to_end(key)
            if len(self._keys) > self._most_keys:
                self._keys.popitem(last=False)
        if all_ is None:
            return Turn("yes", own)
        if own > wait:
            return Turn("again", own)
        self._all = all_.taken(self._all, now + wait)
        return Turn("yes", wait)
