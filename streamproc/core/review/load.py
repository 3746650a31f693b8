"""How much waits for people in one lane, and what of it can be let go of first."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Final, Self

import msgspec

from streamproc.core.review.case import Case

VERSION: Final = 1
LEAST = -1e308
"""The priority of a case that has none."""


class Load(msgspec.Struct, array_like=True):
    """``waiting`` are open cases. ``ranked`` are those that may be shed, with their priorities, the least first; they
    are kept only where a capacity is stated."""

    version: int = VERSION
    waiting: int = 0
    ranked: list[tuple[float, str]] = []

    @classmethod
    def read(cls, raw: bytes | None) -> Self:
        """Raises ValueError where it is of another version of this program."""
        if raw is None:
            return cls()
        version = msgspec.msgpack.decode(raw)[0]
        if version != VERSION:
            raise ValueError(f"a load of version {version} is met, and this is for version {VERSION}")
        return msgspec.msgpack.decode(raw, type=cls)

    def opened(self, case: Case, *, ranks: bool) -> None:
        """One more waits. Samples are never shed: what is left of them would be a sample of something else."""
        self.waiting += 1
        if ranks and case.kind == "review":
            insort(self.ranked, _rank(case))

    def closed(self, case: Case) -> None:
        """One less does."""
        self.waiting -= 1
        rank = _rank(case)
        place = bisect_left(self.ranked, rank)
        if place < len(self.ranked) and self.ranked[place] == rank:
            del self.ranked[place]


def _rank(case: Case) -> tuple[float, str]:
    return (LEAST if case.priority is None else case.priority, case.item)


encode = msgspec.msgpack.Encoder().encode
