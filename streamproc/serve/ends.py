"""How long ago an offset was the end of a partition: any age, in bounded memory. Pure, time is given in seconds."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

SAMPLES: Final = 600
"""Enough for ten years, at one a second."""
SHARE: Final = 1 / 16


class Ends:
    """The ends of a partition over time.

    Of more than ``SAMPLES``, neighbours become one that counts from the earlier: an age is then too large by 1/16 of
    itself at most.
    """

    def __init__(self) -> None:
        self._samples: list[tuple[float, int]] = []
        self.first = 0
        """The end that was seen first: what stands before it was there already."""

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, now: float, end: int) -> None:
        """The end is that now."""
        if not self._samples:
            self.first = end
        elif self._samples[-1][1] == end:
            return
        self._samples.append((now, end))
        if len(self._samples) > SAMPLES:
            self._thin(now)

    def forget(self, position: int) -> None:
        """Nobody asks for what stands before a position any more."""
        passed = 0
        while passed < len(self._samples) - 1 and self._samples[passed][1] <= position:
            passed += 1
        del self._samples[:passed]

    def age(self, now: float, position: int) -> float:
        """Since when the record at a position has been there, at least; 0 where none is."""
        return next((now - since for since, end in self._samples if end > position), 0.0)

    def _thin(self, now: float) -> None:
        kept, last = list[tuple[float, int]](), self._samples[-1]
        for (at, end), (until, _) in pairwise(self._samples):
            if kept and until - kept[-1][0] <= (now - until) * SHARE:
                kept[-1] = kept[-1][0], end
            else:
                kept.append((at, end))
        self._samples = [*kept, last]
