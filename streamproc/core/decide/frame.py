"""What the stages of the decide processor work on: one frame per batch, and the shape of a stage."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, compress
from typing import Final, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamproc.core.decide.verdict import Verdicts
from streamproc.core.processor import Answer, Ask, Changes, Headers, Output, Records, Seen, State
from streamproc.core.records import DeadLetter

MODE: Final = "mode"
"""The name in ``Seen`` of what people let automation do."""

Numbers: TypeAlias = NDArray[np.int64]
Rows: TypeAlias = Numbers
"""Ascending numbers of rows, or of the source records that the records of an output come from, one each."""
StageRun: TypeAlias = "Callable[[Frame, Context], Generator[list[Ask], list[Answer], None]]"


@dataclass(frozen=True, slots=True)
class Context:
    """What is the same for every event of a batch. ``states`` are those of its lanes, in their order."""

    now: datetime
    seen: Seen
    states: Sequence[State] = ()


@dataclass(frozen=True, slots=True)
class LanesRecords:
    """The records of one topic of several lanes, one lane after another; ``ends[i]`` is where those of lane i end.

    ``partitions``, ``offsets`` and ``timestamps`` (milliseconds since the epoch) are int64 arrays of shape (n,).
    """

    topic: str
    ends: NDArray[np.int64]
    partitions: NDArray[np.int64]
    keys: list[bytes | None]
    values: list[bytes | None]
    headers: list[Headers]
    offsets: NDArray[np.int64]
    timestamps: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def of(cls, parts: Sequence[Records]) -> LanesRecords:
        """The records of one lane per part, all of one topic."""
        counts = np.array([len(part) for part in parts], np.int64)
        return cls(
            topic=parts[0].topic,
            ends=np.cumsum(counts),
            partitions=np.repeat(np.array([part.partition for part in parts], np.int64), counts),
            keys=list(chain.from_iterable(part.keys for part in parts)),
            values=list(chain.from_iterable(part.values for part in parts)),
            headers=list(chain.from_iterable(part.headers for part in parts)),
            offsets=np.concatenate([part.offsets for part in parts]),
            timestamps=np.concatenate([part.timestamps for part in parts]),
        )

    def places(self, rows: Rows) -> tuple[Numbers, Numbers, Numbers]:
        """Partitions, offsets and timestamps of some records."""
        return self.partitions[rows], self.offsets[rows], self.timestamps[rows]


@dataclass(slots=True)
class Frame:
    """The events of a batch that are still in the game, and those that left it. The batch may be that of many lanes.

    Row ``i`` of ``columns`` and ``ids`` is record ``rows[i]`` of ``records``. A stage adds columns, never
    rows; ``refuse`` takes rows out.
    """

    records: LanesRecords
    columns: pl.DataFrame = field(default_factory=pl.DataFrame)
    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    ids: list[str] = field(default_factory=list)
    refused: dict[int, DeadLetter] = field(default_factory=dict)
    """Dead letters by record number."""
    unscored: list[str | None] = field(default_factory=list)
    """Per row why it has no usable score, or ``None``."""
    is_unscored: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))
    """Per row whether there is such a reason."""
    scorers: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    """Per row whose score it is: 0 nobody's, 1 the first model's, 2 and more those of its stand-ins."""
    causes: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    """Per row the number in ``CAUSES`` of why the first model gave no usable score."""
    model_version: str | None = None
    model_versions: Sequence[str | None] | None = None
    """Per row, where they differ within the batch."""
    shadows: list[pl.Series] = field(default_factory=list)
    """What each shadow model said: a struct per row."""
    lookups: dict[str, str] = field(default_factory=dict)
    """What look-ups were answered from: the version of each source, and its health where that is worth a word."""
    verdicts: Verdicts | None = None
    stale: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))
    late: NDArray[np.bool_] | None = None
    """Per row whether its time was too old for its windows to be known; ``None`` where there are no windows."""
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    changes: dict[int, Changes] = field(default_factory=dict)
    """What stages change in the tables of lanes, by the lane's place in the batch."""
    outputs: list[tuple[Output, NDArray[np.int64]]] = field(default_factory=list)
    """What stages send, with the ascending numbers of the source records that it comes from."""

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, *columns: pl.Series) -> None:
        if columns:
            self.columns = self.columns.hstack(list(columns))

    def refuse(self, rows: dict[int, DeadLetter]) -> None:
        """Turn rows (by row number) into dead letters."""
        if not rows:
            return
        for row, letter in rows.items():
            self.refused[int(self.rows[row])] = letter
        keep = np.ones(len(self), np.bool_)
        keep[list(rows)] = False
        self.columns = self.columns.filter(pl.Series(keep))
        self.rows = self.rows[keep]
        self.ids = list(compress(self.ids, keep.tolist()))  # none of either before the contract stage has them
        self.stale = self.stale[keep[: len(self.stale)]]

    def change(self, lane: int, table: str, entries: Mapping[bytes, bytes | None]) -> None:
        """Change a table of the lane at a place in the batch."""
        self.changes[lane] = {**self.changes.get(lane, {}), table: entries}

    def count(self, name: str, label: str, increment: int = 1) -> None:
        if increment:
            self.counts[name, label] = self.counts.get((name, label), 0) + increment


@dataclass(frozen=True, slots=True)
class Stage:
    """One step: the columns that it needs, the columns that it adds, and a generator that may ask."""

    name: str
    reads: frozenset[str]
    writes: tuple[str, ...]
    run: StageRun
