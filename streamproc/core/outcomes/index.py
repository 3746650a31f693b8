"""Finding rows by a 64-bit hash: sorted arrays that are merged as they grow, 16 bytes a row."""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Hashes: TypeAlias = NDArray[np.uint64]
Positions: TypeAlias = NDArray[np.int64]
NOT_FOUND: Final = -1
FAN: Final = 8
"""So many arrays of about a size become one: each row is sorted again once for every factor of 8."""


class Index:
    """The newest position of each hash. Positions only grow; those before ``first`` are forgotten."""

    def __init__(self) -> None:
        self._levels: list[tuple[Hashes, Positions]] = []
        self.first = 0

    def add(self, hashes: Hashes, positions: Positions) -> None:
        """Add rows, shape (n,) each; their positions are ascending, and greater than all before."""
        if len(hashes):
            self._levels.append(_sorted(hashes, positions))
            self._merge()

    def find(self, hashes: Hashes) -> Positions:
        """The newest position of each hash, shape (n,); -1 where there is none."""
        found = np.full(len(hashes), NOT_FOUND, np.int64)
        for own, positions in self._levels:  # oldest first: what is newer takes over
            at = np.searchsorted(own, hashes, side="right") - 1
            there = at >= 0
            there[there] = own[at[there]] == hashes[there]
            found[there] = positions[at[there]]
        found[found < self.first] = NOT_FOUND
        return found

    def forget(self, first: int) -> None:
        """Forget the positions before one."""
        self.first = first
        self._levels = [level for level in self._levels if int(level[1].max()) >= first]

    def __len__(self) -> int:
        return sum(len(own) for own, _ in self._levels)

    def _merge(self) -> None:
        levels = self._levels
        while len(levels) >= FAN and len(levels[-FAN][0]) <= FAN * len(levels[-1][0]):
            run, self._levels = levels[-FAN:], levels[:-FAN]
            hashes, positions = (np.concatenate(columns) for columns in zip(*run, strict=True))
            kept = positions >= self.first
            self._levels.append(_sorted(hashes[kept], positions[kept]))
            levels = self._levels


def _sorted(hashes: Hashes, positions: Positions) -> tuple[Hashes, Positions]:
    """By hash, and rows of one hash by their age."""
    order = np.argsort(hashes, kind="stable")  # what is older stands before what is newer already
    return hashes[order], positions[order]
