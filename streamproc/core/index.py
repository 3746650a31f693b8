"""Finding rows by a 64-bit hash: sorted arrays that are merged as they grow, 16 bytes a row."""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Hashes: TypeAlias = NDArray[np.uint64]
Positions: TypeAlias = NDArray[np.int64]
NOT_FOUND: Final = -1
FAN: Final = 8
"""So many arrays of about a size become one: each row is sorted again once for every factor of 8."""
SWEPT: Final = 8
"""What is forgotten may take an eighth of the memory of what is not."""


class _Level(NamedTuple):
    """Rows by hash, and rows of one hash by their age."""

    hashes: Hashes
    positions: Positions
    newest: int

    @classmethod
    def of(cls, hashes: Hashes, positions: Positions, newest: int) -> _Level:
        order = np.argsort(hashes, kind="stable")  # what is older stands before what is newer already
        return cls(hashes[order], positions[order], newest)

    def since(self, first: int) -> _Level:
        kept = self.positions >= first
        return self if kept.all() else _Level(self.hashes[kept], self.positions[kept], self.newest)


class Index:
    """The newest position of each hash. Positions only grow; those before ``first`` are forgotten."""

    def __init__(self) -> None:
        self._levels: list[_Level] = []
        self._swept = 0
        self.first = 0

    def add(self, hashes: Hashes, positions: Positions) -> None:
        """Add rows, shape (n,) each; their positions are ascending, and greater than all before."""
        if len(hashes):
            self._levels.append(_Level.of(hashes, positions, int(positions[-1])))
            self._merge()

    def find(self, hashes: Hashes) -> Positions:
        """The newest position of each hash, shape (n,); -1 where there is none."""
        order = np.argsort(hashes)  # neighbours are found near each other: twice as fast
        wanted, newest = hashes[order], np.full(len(hashes), NOT_FOUND, np.int64)
        for own, positions, _ in self._levels:  # oldest first: what is newer takes over
            at = own.searchsorted(wanted, side="right") - 1  # -1 is the last one, which is greater
            there = own[at] == wanted
            if there.any():
                newest[there] = positions[at[there]]
        newest[newest < self.first] = NOT_FOUND
        found = np.empty_like(newest)
        found[order] = newest
        return found

    def forget(self, first: int) -> None:
        """Forget the positions before one."""
        self.first = first
        self._levels = [level for level in self._levels if level.newest >= first]
        if self._levels and SWEPT * (first - self._swept) > self._levels[-1].newest - first:
            self._levels = [level.since(first) for level in self._levels]
            self._swept = first

    def __len__(self) -> int:
        return sum(len(level.hashes) for level in self._levels)

    def _merge(self) -> None:
        levels = self._levels
        while len(levels) >= FAN and len(levels[-FAN].hashes) <= FAN * len(levels[-1].hashes):
            run, self._levels = levels[-FAN:], levels[:-FAN]
            hashes = np.concatenate([level.hashes for level in run])
            positions = np.concatenate([level.positions for level in run])
            self._levels.append(_Level.of(hashes, positions, run[-1].newest).since(self.first))
            levels = self._levels


def hashes_of(digests: bytes, size: int) -> Hashes:
    """The first 8 bytes of each of many digests of ``size`` bytes."""
    rows = np.frombuffer(digests, np.uint8).reshape(-1, size)
    return np.ascontiguousarray(rows[:, :8]).view(np.uint64).reshape(-1)
