"""Texts by what they mean, as vectors of length 1, with the answers that they had.

A text has no vector as long as there is no other whose words could agree: making one takes time.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from itertools import islice
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamproc.core.llm.lexical import Measure, Wording

Vector = NDArray[np.float32]
"""Of shape (dimensions,) and length 1."""
Thing = TypeVar("Thing")
MOST_ROWS: Final = 20_000
"""Of all partitions together."""
FIRST_ROWS: Final = 4
MOST_LOOKED_AT: Final = 8
"""Of the texts that are like one, the likest are looked at word by word."""


@dataclass(frozen=True, slots=True)
class _Text(Generic[Thing]):
    key: bytes
    wording: Wording
    prompt: str
    thing: Thing


class _Partition(Generic[Thing]):
    """Texts in a ring: the oldest goes where there is no room. There is room for ``len(vectors)``."""

    def __init__(self, most: int, dimensions: int) -> None:
        self._most = most
        self.texts = list[_Text[Thing]]()
        self.vectors = np.zeros((min(FIRST_ROWS, most), dimensions), np.float32)
        self._untils = np.zeros(len(self.vectors))
        self._rows = dict[bytes, int]()
        self._measured = Counter[Measure]()
        self._bare = dict[Measure, dict[bytes, str]]()
        """By their keys those that have no vector: that is 0 then, and like none."""
        self._oldest = 0

    def add(self, text: _Text[Thing], vector: Vector | str, until: float) -> None:
        row = self._rows.get(text.key)
        if row is None and len(self.texts) < self._most:
            row = len(self.texts)
            self.texts.append(text)
            if row == len(self.vectors):
                self._room(np.arange(row), min(2 * row, self._most))
        elif row is None:
            row = self._oldest
            self._oldest = (row + 1) % self._most
            self._leaves(self.texts[row])
        else:
            self._leaves(self.texts[row])
        self.texts[row], self._untils[row], self._rows[text.key] = text, until, row
        self._measured[text.wording.measure] += 1
        if isinstance(vector, str):
            self._bare.setdefault(text.wording.measure, {})[text.key] = vector
            self.vectors[row] = 0.0
        else:
            self.vectors[row] = vector

    def has(self, measure: Measure) -> bool:
        return measure in self._measured

    def without(self, measure: Measure, most: int) -> list[tuple[bytes, str]]:
        """The keys and texts of the first that have no vector."""
        return list(islice(self._bare.get(measure, {}).items(), most))

    def put_off(self, key: bytes) -> None:
        """Let a text that has no vector be the last of those."""
        row = self._rows.get(key)
        bare = {} if row is None else self._bare.get(self.texts[row].wording.measure, {})
        if key in bare:
            bare[key] = bare.pop(key)

    def give(self, key: bytes, vector: Vector | None) -> None:
        """A text has its vector, or will never have one."""
        row = self._rows.get(key)
        if row is not None and self._is_bare_no_more(self.texts[row]) and vector is not None:
            self.vectors[row] = vector

    def _is_bare_no_more(self, text: _Text[Thing]) -> bool:
        """Let go of what a vector would be made of; whether there was something."""
        bare = self._bare.get(text.wording.measure, {})
        was = bare.pop(text.key, None) is not None
        if was and not bare:
            del self._bare[text.wording.measure]
        return was

    def _leaves(self, text: _Text[Thing]) -> None:
        del self._rows[text.key]
        self._is_bare_no_more(text)
        measure = text.wording.measure
        self._measured[measure] -= 1
        if not self._measured[measure]:
            del self._measured[measure]

    def expire(self, now: float) -> None:
        """Let go of texts whose time is over, and of the room that they had."""
        count = len(self.texts)
        live = self._untils[:count] > now
        if live.all():
            return
        for row in np.flatnonzero(~live).tolist():
            self._leaves(self.texts[row])
        order = np.roll(np.arange(count), -self._oldest)
        kept = order[live[order]]
        self.texts = [self.texts[row] for row in kept.tolist()]
        self._rows = {text.key: row for row, text in enumerate(self.texts)}
        self._oldest = 0
        self._room(kept, max(len(kept), min(FIRST_ROWS, self._most)))

    def _room(self, kept: NDArray[np.intp], count: int) -> None:
        """Have room for so many, with these rows as the first ones."""
        vectors, untils = np.zeros((count, self.vectors.shape[1]), np.float32), np.zeros(count)
        vectors[: len(kept)], untils[: len(kept)] = self.vectors[kept], self._untils[kept]
        self.vectors, self._untils = vectors, untils

    def nearest(self, vector: Vector, wording: Wording, threshold: float) -> Thing | None:
        likeness = self.vectors[: len(self.texts)] @ vector
        rows = np.flatnonzero(likeness >= threshold)
        for row in rows[np.argsort(-likeness[rows], kind="stable")][:MOST_LOOKED_AT].tolist():
            text: _Text[Thing] = self.texts[row]
            if text.wording.agrees(wording):
                return text.thing
        return None


class Nearby(Generic[Thing]):
    """At most ``most`` texts a partition, each for its time. Where all are too many, the partition leaves that nobody
    has asked for the longest. Times are seconds of one clock."""

    def __init__(self, most: int, threshold: float, dimensions: int, most_rows: int = MOST_ROWS) -> None:
        self._most, self._threshold, self._dimensions, self._most_rows = most, threshold, dimensions, most_rows
        self._partitions = OrderedDict[bytes, _Partition[Thing]]()
        self.rows = 0
        """Rows that there is room for, used or not: what the memory goes by."""

    def has(self, partition: bytes, wording: Wording) -> bool:
        """Whether there is anything that a text of such words can be compared with; perhaps its time is over."""
        there = self._partitions.get(partition)
        return there is not None and there.has(wording.measure)

    def without(self, partition: bytes, wording: Wording, most: int) -> list[tuple[bytes, str]]:
        """Of these the keys and texts of the first ``most`` that have no vector yet."""
        there = self._partitions.get(partition)
        return [] if there is None else there.without(wording.measure, most)

    def put_off(self, partition: bytes, key: bytes) -> None:
        """Try others before a text whose vector was not made."""
        there = self._partitions.get(partition)
        if there is not None:
            there.put_off(key)

    def give(self, partition: bytes, key: bytes, vector: Vector | None) -> None:
        """Give a text its vector, where it is still held; ``None``: it has none."""
        there = self._partitions.get(partition)
        if there is not None:
            there.give(key, vector)

    def nearest(self, partition: bytes, vector: Vector, wording: Wording, now: float) -> Thing | None:
        """What was answered to the likest text whose words agree; ``None`` where there is none. What is over in that
        partition is let go."""
        there = self._partitions.get(partition)
        if there is None:
            return None
        before = len(there.vectors)
        there.expire(now)
        self.rows += len(there.vectors) - before
        if not there.texts:
            self._drop(partition)
            return None
        self._partitions.move_to_end(partition)
        return there.nearest(vector, wording, self._threshold)

    def add(
        self, partition: bytes, key: bytes, prompt: str, vector: Vector | str, wording: Wording, thing: Thing,
        until: float,
    ) -> None:  # fmt: skip
        """Hold a text until then: by its vector, or as it is, for a vector to be given. One with the same key is held
        no longer."""
        there = self._partitions.get(partition)
        if there is None:
            there = self._partitions[partition] = _Partition(self._most, self._dimensions)
            self.rows += len(there.vectors)
        self._partitions.move_to_end(partition)
        before = len(there.vectors)
        there.add(_Text(key, wording, prompt, thing), vector, until)
        self.rows += len(there.vectors) - before
        while self.rows > self._most_rows and len(self._partitions) > 1:
            self._drop(next(iter(self._partitions)))

    def forget(self, prompt: str) -> None:
        """Let go of what was held of a prompt: a partition has one prompt."""
        for name in [name for name, one in self._partitions.items() if one.texts[0].prompt == prompt]:
            self._drop(name)

    def _drop(self, name: bytes) -> None:
        self.rows -= len(self._partitions.pop(name).vectors)
