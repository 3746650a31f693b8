"""Finding rows by a 64-bit hash: sorted arrays that are merged as they grow, 12 bytes a row.

Large ones are in parts by the first bits of the hash, and are merged part by part: while that goes on, one part is
there twice, and not all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Hashes: TypeAlias = NDArray[np.uint64]
Positions: TypeAlias = NDArray[np.int64]
Places: TypeAlias = NDArray[np.uint32] | NDArray[np.int64]
NOT_FOUND: Final = -1
FAN: Final = 4
"""So many arrays of about a size become one: each row is sorted again once for every factor of 4."""
SWEPT: Final = 8
"""What is forgotten may take an eighth of the memory of what is not."""
PART: Final = 1 << 18
"""About so many rows of a part at most. Merging one takes some 10 MB for a moment."""
HASH_BITS: Final = 64


class _Part(NamedTuple):
    """Rows by hash, and rows of one hash by their age. ``places`` are positions, less the level's base."""

    hashes: Hashes
    places: Places

    @classmethod
    def of(cls, hashes: Hashes, positions: Positions, base: int, newest: int) -> _Part:
        order = np.argsort(hashes, kind="stable")  # what is older stands before what is newer already
        places = positions - base
        return cls(hashes[order], (places if newest - base >> 32 else places.astype(np.uint32))[order])

    def split(self, numbers: range, bits: int) -> list[_Part]:
        """The parts of these numbers, of those that the first ``bits`` of the hash make."""
        starts = np.array([number << HASH_BITS - bits for number in numbers[1:]], np.uint64)
        edges = [0, *self.hashes.searchsorted(starts).tolist(), len(self.hashes)]
        rows = [slice(begin, end) for begin, end in pairwise(edges)]
        return [_Part(self.hashes[own].copy(), self.places[own].copy()) for own in rows]


_EMPTY: Final = _Part(np.zeros(0, np.uint64), np.zeros(0, np.uint32))


@dataclass(slots=True)
class _Level:
    """Rows in ``2 ** bits`` parts, by the first bits of their hash. Positions are from ``base`` up to ``newest``."""

    parts: list[_Part]
    bits: int
    base: int
    newest: int

    def __len__(self) -> int:
        return sum(len(part.hashes) for part in self.parts)

    @classmethod
    def merged(cls, run: Sequence[_Level], first: int) -> _Level:
        """Levels as one, without what is before ``first``. It uses them up, so that nothing is there twice for long."""
        bits = max(_bits_for(sum(map(len, run))), *(level.bits for level in run))
        base, newest = max(run[0].base, first), run[-1].newest
        for level in run:
            level._split(bits)
        parts = [_merged([level._taken(part) for level in run], first, base, newest) for part in range(1 << bits)]
        return cls(parts, bits, base, newest)

    def _split(self, bits: int) -> None:
        finer, self.bits = bits - self.bits, bits
        if finer:
            parts, numbers = list[_Part](), range(1 << bits)
            for own in range(len(self.parts)):
                parts += self._taken(own)[0].split(numbers[own << finer : own + 1 << finer], bits)
            self.parts = parts

    def _taken(self, number: int) -> tuple[_Part, int]:
        """A part with the base, which is not here any more."""
        part, self.parts[number] = self.parts[number], _EMPTY
        return part, self.base

    def find(self, wanted: Hashes, newest: Positions) -> None:
        """Put into ``newest`` the positions of ascending hashes that are here; shape (n,) each."""
        if not self.bits:
            self._find_in(self.parts[0], wanted, newest)
            return
        numbers = wanted >> np.uint64(HASH_BITS - self.bits)
        edges = [0, *(np.flatnonzero(numbers[1:] != numbers[:-1]) + 1).tolist(), len(wanted)]
        for begin, end in pairwise(edges):
            self._find_in(self.parts[int(numbers[begin])], wanted[begin:end], newest[begin:end])

    def _find_in(self, part: _Part, wanted: Hashes, newest: Positions) -> None:
        if not len(part.hashes):
            return
        at = part.hashes.searchsorted(wanted, side="right") - 1  # -1 is the last one, which is greater
        there = part.hashes[at] == wanted
        if there.any():
            newest[there] = part.places[at[there]].astype(np.int64) + self.base

    def of(self, hash_: int) -> list[int]:
        """The positions of one hash, ascending."""
        part = self.parts[hash_ >> HASH_BITS - self.bits]
        first, last = (part.hashes.searchsorted(np.uint64(hash_), side) for side in ("left", "right"))
        return [place + self.base for place in part.places[first:last].tolist()]

    def drop(self, first: int) -> None:
        """Let go of what is before a position."""
        for number, part in enumerate(self.parts):
            kept = part.places >= max(0, first - self.base)
            if not kept.all():
                self.parts[number] = _Part(part.hashes[kept], part.places[kept])


class Index:
    """The positions of each hash, above all the newest. Positions only grow; those before ``first`` are forgotten."""

    def __init__(self) -> None:
        self._levels: list[_Level] = []
        self._swept = 0
        self.first = 0

    def add(self, hashes: Hashes, positions: Positions) -> None:
        """Add rows, shape (n,) each; their positions are ascending, and greater than all before."""
        for begin in range(0, len(hashes), PART):
            rows = slice(begin, begin + PART)
            base, newest = int(positions[begin]), int(positions[rows][-1])
            self._levels.append(_Level([_Part.of(hashes[rows], positions[rows], base, newest)], 0, base, newest))
            self._merge()

    def find(self, hashes: Hashes, order: Positions | None = None) -> Positions:
        """The newest position of each hash, shape (n,); -1 where there is none. ``order``, if known, sorts them."""
        if order is None:
            order = np.argsort(hashes)  # neighbours are found near each other: twice as fast
        wanted, newest = hashes[order], np.full(len(hashes), NOT_FOUND, np.int64)
        if len(hashes):
            for level in self._levels:  # oldest first: what is newer takes over
                level.find(wanted, newest)
        newest[newest < self.first] = NOT_FOUND
        found = np.empty_like(newest)
        found[order] = newest
        return found

    def positions(self, hash_: int) -> Iterator[int]:
        """All positions of one hash, newest first: what differs may have the same one."""
        for level in reversed(self._levels):
            for position in reversed(level.of(hash_)):
                if position < self.first:
                    return
                yield position

    def forget(self, first: int) -> None:
        """Forget the positions before one."""
        self.first = first
        self._levels = [level for level in self._levels if level.newest >= first]
        if self._levels and SWEPT * (first - self._swept) > self._levels[-1].newest - first:
            for level in self._levels:
                level.drop(first)
            self._swept = first

    def __len__(self) -> int:
        return sum(map(len, self._levels))

    def _merge(self) -> None:
        levels = self._levels
        while len(levels) >= FAN and len(levels[-FAN]) <= FAN * len(levels[-1]):
            run = levels[-FAN:]
            del levels[-FAN:]
            levels.append(_Level.merged(run, self.first))


def _bits_for(rows: int) -> int:
    return max(0, (rows - 1) // PART).bit_length()


def _merged(own: Sequence[tuple[_Part, int]], first: int, base: int, newest: int) -> _Part:
    """The rows of one range of hashes, from parts with their bases."""
    hashes = np.concatenate([part.hashes for part, _ in own])
    positions = np.concatenate([part.places.astype(np.int64) + before for part, before in own])
    kept = positions >= first
    if not kept.all():
        hashes, positions = hashes[kept], positions[kept]
    return _Part.of(hashes, positions, base, newest)


def hashes_of(digests: bytes, size: int) -> Hashes:
    """The first 8 bytes of each of many digests of ``size`` bytes."""
    rows = np.frombuffer(digests, np.uint8).reshape(-1, size)
    return np.ascontiguousarray(rows[:, :8]).view(np.uint64).reshape(-1)
