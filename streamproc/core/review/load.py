"""How much waits for people in one lane, and what of it can be let go of first."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Final, Self

import msgspec

from streamproc.core.review.case import Case
from streamproc.core.versioned import read_kept

VERSION: Final = 1
MOST_RANKED: Final = 2_000
"""So many of the least urgent cases are known by their rank: a lane's state is written with every batch."""
LEAST = -1e308
"""The priority of a case that has none."""


class Load(msgspec.Struct, array_like=True):
    """``waiting`` are open cases, ``samples`` those of them that are never shed: what is left of a sample would be a
    sample of something else. ``ranked`` are others, the least urgent ones, with their priorities, the least first."""

    version: int = VERSION
    waiting: int = 0
    samples: int = 0
    ranked: list[tuple[float, str]] = []

    @classmethod
    def read(cls, raw: bytes | None) -> Self:
        """Raises ValueError where it is of another version of this program."""
        return cls() if raw is None else read_kept(raw, cls, VERSION, "a load")

    def opened(self, case: Case) -> None:
        """One more waits."""
        self.waiting += 1
        if case.kind != "review":
            self.samples += 1
            return
        insort(self.ranked, _rank(case))
        del self.ranked[MOST_RANKED:]

    def too_many(self, most: int) -> bool:
        """Whether more waits than the ``most`` that people can answer. Samples may take half of that, not more."""
        return self.waiting - self.samples > max(most - self.samples, most // 2)

    def closed(self, case: Case) -> None:
        """One less does."""
        self.waiting -= 1
        self.samples -= case.kind != "review"
        rank = _rank(case)
        place = bisect_left(self.ranked, rank)
        if place < len(self.ranked) and self.ranked[place] == rank:
            del self.ranked[place]


def _rank(case: Case) -> tuple[float, str]:
    return (LEAST if case.priority is None else case.priority, case.item)


encode = msgspec.msgpack.Encoder().encode
