"""Windows: aggregates of the earlier events with the same key, from the lane's state."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamproc.core.decide.encode import hashes
from streamproc.core.decide.frame import Context, Frame, Stage
from streamproc.core.plan import EVENT_TIME, Plan
from streamproc.core.processor import Answer, Ask
from streamproc.core.sensitive import Masker
from streamproc.core.state import Tables
from streamproc.core.windows.advance import Result
from streamproc.core.windows.by import By, KeyedRows
from streamproc.core.windows.lane import EVERY, TABLE, LaneMemory, key_prefix
from streamproc.core.windows.layout import Series
from streamproc.core.windows.policy import WindowFeature
from streamproc.core.windows.rows import SeriesRows
from streamproc.core.windows.scan import Ints, Segments

MICROSECOND = timedelta(microseconds=1)
HASH_BYTES = 8


def windows_stage(plan: Plan, features: Sequence[WindowFeature], masker: Masker | None = None) -> Stage:
    """Adds the columns of the features. A masker is needed where a ``by`` is sensitive."""
    columns = tuple(name for feature in features for name in feature.columns)
    reads = frozenset().union(*(feature.reads for feature in features))
    windows = _Windows(plan, features, masker)

    def run(frame: Frame, context: Context) -> Generator[list[Ask], list[Answer], None]:
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is null
            windows.run(frame, context)
        return
        yield []

    return Stage("windows", reads, columns, run)


class _Windows:
    """All windows of a plan."""

    def __init__(self, plan: Plan, features: Sequence[WindowFeature], masker: Masker | None) -> None:
        policy = plan.windows
        self._maskers = dict.fromkeys({one.by for one in features} & plan.sensitive, masker)
        lateness, self._ttl = policy.lateness // MICROSECOND, policy.ttl // MICROSECOND
        self._most, self._topic = policy.max_keys, plan.events.topic
        self._features = list(features)
        self._bys = {
            by: By.of(by, [one for one in features if one.by == by], lateness, self._ttl)
            for by in dict.fromkeys(feature.by for feature in features)
        }
        self._series = {by: _SeriesOf(one) for by, one in self._bys.items()}
        self._in_time = {by for by in self._bys if any(one.window is not None for one in self._bys[by].features)}

    def run(self, frame: Frame, context: Context) -> None:
        """Add the columns, and what changes of the lanes' memories."""
        count = len(frame)
        memories = [LaneMemory(state) for state in context.states or [Tables((TABLE,)) for _ in frame.records.ends]]
        lanes = np.searchsorted(frame.records.ends, frame.rows, side="right")
        times = frame.columns[EVENT_TIME].to_physical().to_numpy() if count else np.zeros(0, np.int64)
        clocks = _clocks(memories, lanes, times)
        keys = {by: _Keys.of(frame.columns[by], self._maskers.get(by)) for by in self._bys}
        series = {by: one.rows(frame.columns) for by, one in self._series.items()}
        made = {feature.name: _Made(feature, count) for feature in self._features}
        frame.late = np.zeros(count, np.bool_)
        for rows in self._rounds(memories, lanes):
            for by, one in self._bys.items():
                own = rows[keys[by].there[rows]]
                if not len(own):
                    continue
                named = keys[by].at(own)
                parts = [part.where(own) for part in series[by]]
                results, late = one.run(memories, KeyedRows(lanes[own], named, times[own], clocks[own], parts))
                for feature, result in zip(one.features, results, strict=True):
                    made[feature.name].put(own, result)
                if by in self._in_time:
                    frame.late[own[late]] = True
            self._after(frame, memories, lanes, rows, clocks)
        frame.add(*(column for feature in self._features for column in made[feature.name].columns(feature)))
        for lane, memory in enumerate(memories):
            if context.states and (lanes == lane).any():
                memory.sweep(self._ttl)
                frame.change(lane, TABLE, memory.changes())
        frame.count("late", self._topic, int(frame.late.sum()))

    def _rounds(self, memories: Sequence[LaneMemory], lanes: Ints) -> Iterator[Ints]:
        """The rows, in one go where no lane can come to have too many keys by them, and else up to the next look."""
        counts = np.bincount(lanes, minlength=len(memories)).tolist()
        full = [
            memory.could_exceed(self._most, len(self._bys) * own) for memory, own in zip(memories, counts, strict=True)
        ]
        begins = (np.cumsum(counts) - counts).tolist()
        left = list(counts)
        while any(left):
            parts = []
            for lane, memory in enumerate(memories):
                step = min(left[lane], EVERY - memory.meta.events % EVERY) if full[lane] else left[lane]
                parts.append(np.arange(begins[lane], begins[lane] + step))
                begins[lane] += step
                left[lane] -= step
            yield np.concatenate(parts)

    def _after(self, frame: Frame, memories: Sequence[LaneMemory], lanes: Ints, rows: Ints, clocks: Ints) -> None:
        """Note how far the lanes are, and look whether there are too many keys where it is time to."""
        for lane, memory in enumerate(memories):
            own = rows[lanes[rows] == lane]
            if not len(own):
                continue
            meta = memory.meta
            meta.events += len(own)
            meta.clock = int(clocks[own[-1]])
            if meta.events % EVERY == 0:
                frame.count("window_keys_left", self._topic, memory.leave(self._most, self._ttl))


class _Made:
    """The columns of a feature while they are filled."""

    def __init__(self, feature: WindowFeature, count: int) -> None:
        whole = feature.columns[feature.name].is_integer()
        self._values = np.zeros(count, np.int64 if whole else np.float64)
        self._there = np.zeros(count, np.bool_)
        self._capped = np.zeros(count, np.bool_)

    def put(self, rows: Ints, result: Result) -> None:
        self._values[rows], self._there[rows] = result.values, ~result.missing
        if result.capped is not None:
            self._capped[rows] = result.capped

    def columns(self, feature: WindowFeature) -> list[pl.Series]:
        """As they are added to the frame; null where nothing is known."""
        own = _with_nulls(feature.name, self._values, self._there & np.isfinite(self._values))
        if feature.aggregate != "distinct":
            return [own]
        return [own, _with_nulls(feature.capped, self._capped, self._there)]


def _with_nulls(name: str, values: NDArray[Any], there: NDArray[np.bool_]) -> pl.Series:
    if values.dtype == np.float64:
        return pl.Series(name, np.where(there, values, np.nan), nan_to_null=True)
    return pl.Series(name, values) if there.all() else pl.Series(name, values).set(pl.Series(~there), None)


def _clocks(memories: Sequence[LaneMemory], lanes: Ints, times: Ints) -> Ints:
    """The newest time that each row's lane has seen, with the row."""
    segments = Segments.of(lanes)
    begin = np.array([memories[lane].meta.clock for lane in lanes[segments.starts].tolist()], np.int64)
    return segments.running(np.maximum, times, begin)


@dataclass(frozen=True, slots=True)
class _Keys:
    """The values by which is grouped, as they stand in the lane's table, and where there are any."""

    names: list[bytes]
    there: NDArray[np.bool_]

    @classmethod
    def of(cls, column: pl.Series, masker: Masker | None) -> Self:
        if column.dtype.is_float():
            column = column.set((column == 0).fill_null(value=False), 0.0)  # -0.0 is 0.0
        if masker is not None:
            column = hashes(column, masker).alias(column.name)
        named = pl.concat_str(pl.lit(key_prefix(column.name)), pl.col(column.name).cast(pl.String).fill_null(""))
        names = column.to_frame().select(named.cast(pl.Binary)).to_series().to_list()
        return cls(names, column.is_not_null().to_numpy())

    def at(self, rows: Ints) -> list[bytes]:
        """Those of rows."""
        return self.names if len(rows) == len(self.names) else list(map(self.names.__getitem__, rows.tolist()))


class _SeriesOf:
    """The series of some features, each once, from a frame: all of them are selected in one pass."""

    def __init__(self, by: By) -> None:
        self._wanted: list[pl.Expr] = []
        self._parts: list[tuple[WindowFeature, bool]] = []  # a feature of each, and whether distinct values count
        for number, series in enumerate(by.layout.series):
            same = [feature for feature in by.features if Series.of_feature(feature) == series]
            self._parts.append((same[0], any(feature.aggregate == "distinct" for feature in same)))
            if (of := same[0].of) is not None:
                self._wanted.append(of.expr.alias(f"of{number}"))
            if (where := same[0].where) is not None:
                self._wanted.append(where.expr.fill_null(value=False).alias(f"where{number}"))

    def rows(self, columns: pl.DataFrame) -> list[SeriesRows]:
        """Each series, for the rows of a frame."""
        found = columns.select_seq(self._wanted)
        return [self._of(found, number, len(columns)) for number in range(len(self._parts))]

    def _of(self, found: pl.DataFrame, number: int, count: int) -> SeriesRows:
        feature, distinct = self._parts[number]
        counts, numbers, hashes = np.ones(count, np.bool_), np.zeros(count), None
        if feature.where is not None:
            counts &= found[f"where{number}"].to_numpy()
        if feature.of is not None:
            values = found[f"of{number}"]
            counts &= values.is_not_null().to_numpy()
            if values.dtype.is_numeric() or values.dtype == pl.Boolean:
                numbers = values.cast(pl.Float64).fill_null(0.0).to_numpy()
            hashes = _hashes(values) if distinct else None
        return SeriesRows(counts, numbers, hashes)


def _hashes(column: pl.Series) -> NDArray[np.uint64]:
    """64 bits for each value; equal values have equal ones, on every machine and for ever."""
    if column.dtype == pl.String:
        known = {text: text_hash(text) for text in column.unique().to_list()}
        return np.array(list(map(known.__getitem__, column.to_list())), np.uint64)
    if column.dtype.is_float():
        return np.ascontiguousarray(column.fill_null(0.0).to_numpy() + 0.0).view(np.uint64)  # -0.0 is 0.0
    return np.ascontiguousarray(column.to_physical().cast(pl.Int64).fill_null(0).to_numpy()).view(np.uint64)


def text_hash(text: str | None) -> int:
    """64 bits for a text; null is no value, and what stands there does not count."""
    return int.from_bytes(hashlib.blake2b((text or "").encode(), digest_size=HASH_BYTES).digest(), "little")
