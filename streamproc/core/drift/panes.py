"""Panes: the mergeable counts of the events of one partition with offsets 64 k to 64 k + 63.

A batch cuts them as it likes; whoever receives them adds the parts up. Sums of counts, and of moments in fixed point,
are exact, so no order and no grouping of the parts changes a bit of the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamproc.core.drift.baseline import EVERYTHING, PANE, Baseline
from streamproc.core.drift.bins import Bins, Codes, Floats, NumericBins, as_text, look_up, numbers

Counts = NDArray[np.int64]
Arrivals: TypeAlias = tuple[tuple[int, int, int, int], ...]
"""What came in each minute (of records' timestamps): minute, records, events, the sum of their ages in milliseconds."""

FIXED = 256.0
"""Moments are of (value - centre) / scale in units of 1/256, within 2^15 scales of the centre: the squares of a pane
sum exactly."""
FARTHEST = 2.0**15
UNSURE = -(1 << 62)
"""Added to the time of a pane without events: that of its records, which may be far from those of events."""
MOMENTS = 4
"""Sum and sum of squares in fixed point, least, greatest."""
CACHED = 16_384
"""So many numbers are worked on together: more would leave the processor's cache, and fewer cost calls."""
NUMBERS = 2**44
"""Partition and number of a pane as one number: there are fewer panes than this."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things stand in a row of counts: the bins of each column, one column after another.

    ``width`` bins in all. ``places`` has the number of each column by its name.
    """

    bins: tuple[Bins, ...]
    places: Mapping[str, int]
    starts: Codes
    width: int
    numeric: tuple[NumericBins, ...]
    centres: Floats
    scales: Floats
    segment_rows: Mapping[str, Mapping[str, int]]
    rows: int

    @classmethod
    def of(cls, baseline: Baseline, bins: tuple[Bins, ...] | None = None) -> Layout:
        """Of all columns of a baseline, or of some."""
        bins = baseline.bins if bins is None else bins
        sizes = np.array([0, *(column.size for column in bins)], np.int64)
        rows = dict[str, dict[str, int]]()
        for number, segment in enumerate(baseline.segments):
            rows.setdefault(segment.column, {})[segment.value] = 1 + number
        numeric = tuple(column for column in bins if isinstance(column, NumericBins))
        centres, scales = (np.array([getattr(one, name) for one in numeric]) for name in ("centre", "scale"))
        starts, width = np.cumsum(sizes)[:-1], int(sizes.sum())
        places = {column.name: place for place, column in enumerate(bins)}
        return cls(bins, places, starts, width, numeric, centres, scales, rows, baseline.rows)

    def inside(self, name: str) -> slice:
        """Where the bins of a column stand in a row of counts."""
        place = self.places[name]
        begin = int(self.starts[place])
        return slice(begin, begin + self.bins[place].size)


@dataclass(frozen=True, slots=True)
class Panes:
    """Parts of panes of one partition, in the order of their numbers.

    ``panes`` and ``times`` (the latest event time, µs since the epoch; ``known_time``), shape (p,), are by pane, and so
    are ``moments``, shape (p, numeric columns, 4). ``pane_of``, ``rows``, shape (r,), say of which pane and row the
    ``counts``, shape (r, width), are. ``next`` is the offset after the last event.
    """

    partition: int
    next: int
    panes: Counts
    times: Counts
    moments: Floats
    pane_of: Counts
    rows: Counts
    counts: Counts


def no_moments(*shape: int) -> Floats:
    """The moments of nothing, of this shape and (4,)."""
    moments = np.zeros((*shape, MOMENTS))
    moments[..., 2:] = np.inf, -np.inf
    return moments


class PanesRecord(msgspec.Struct, frozen=True, array_like=True):
    """The value of a panes record, not yet unpacked: ``panes_by`` the layouts of its baseline does that."""

    version: int
    baseline: str
    shard: int
    partition: int
    next: int
    panes: bytes
    times: bytes
    moments: bytes
    pane_of: bytes
    rows: bytes
    counts: bytes
    arrivals: Arrivals = ()

    def panes_by(self, layouts: Mapping[int, Layout]) -> tuple[int, Panes] | None:
        """Shard and panes; ``None`` where they are of another version."""
        layout = layouts.get(self.shard)
        if self.version != VERSION or layout is None:
            return None
        rows = np.frombuffer(self.rows, "<u2").astype(np.int64)
        panes = np.frombuffer(self.panes, "<i8").astype(np.int64)
        return self.shard, Panes(
            self.partition,
            self.next,
            panes,
            np.frombuffer(self.times, "<i8").astype(np.int64),
            np.frombuffer(self.moments, "<f8").reshape(len(panes), len(layout.numeric), MOMENTS),
            np.frombuffer(self.pane_of, "<u4").astype(np.int64),
            rows,
            np.frombuffer(self.counts, "u1").astype(np.int64).reshape(len(rows), layout.width),
        )


VERSION = 1
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(PanesRecord).decode


def dumps(panes: Panes, baseline: str, shard: int, arrivals: Arrivals = ()) -> bytes:
    """The value of a panes record: msgpack, its arrays little-endian."""
    return _encode(
        PanesRecord(
            VERSION,
            baseline,
            shard,
            panes.partition,
            panes.next,
            panes.panes.astype("<i8").tobytes(),
            panes.times.astype("<i8").tobytes(),
            panes.moments.astype("<f8").tobytes(),
            panes.pane_of.astype("<u4").tobytes(),
            panes.rows.astype("<u2").tobytes(),
            panes.counts.astype("u1").tobytes(),
            arrivals,
        )
    )


def split(panes: Panes, most: int) -> Iterator[Panes]:
    """The same in parts with at most so many counts each, or one pane where that alone has more.

    Only the last part says how far the partition has been read: the panes of the others are whole by the next one.
    """
    width = panes.counts.shape[1]
    begin, first = 0, 0
    ends = np.searchsorted(panes.pane_of, np.arange(1, len(panes.panes) + 1)).tolist()
    for number, end in enumerate(ends):
        following = ends[number + 1] if number + 1 < len(ends) else None
        if following is not None and (following - first) * width <= most:
            continue
        own, rows = slice(begin, number + 1), slice(first, end)
        until = panes.next if following is None else int(panes.panes[number + 1]) * PANE
        by_pane = panes.panes[own], panes.times[own], panes.moments[own]
        yield Panes(panes.partition, until, *by_pane, panes.pane_of[rows] - begin, panes.rows[rows], panes.counts[rows])
        begin, first = number + 1, end


def read(raw: bytes) -> PanesRecord:
    """What stands in a record. Raises ValueError on garbage."""
    try:
        return _decode(raw)
    except msgspec.MsgspecError as error:
        raise ValueError("it is no panes record") from error


def loads(raw: bytes, baseline: str, layouts: Mapping[int, Layout]) -> tuple[int, Panes] | None:
    """Shard and panes of a record; ``None`` where it is of another baseline or version.

    Raises ValueError on garbage.
    """
    record = read(raw)
    return record.panes_by(layouts) if record.baseline == baseline else None


@dataclass(frozen=True, slots=True)
class Counted:
    """What is counted: the records of a batch, which may be those of many lanes, each lane's in offset order.

    ``partitions``, ``offsets``, ``times``, µs since the epoch, and ``arrived``, the timestamps in ms, are by record, as
    are the ``record_columns``. ``events`` are the numbers of the records that became events; ``columns`` are by event.
    """

    partitions: Codes
    offsets: Codes
    times: Codes
    events: Codes
    columns: pl.DataFrame
    record_columns: Mapping[str, pl.Series] = field(default_factory=dict)
    arrived: Codes = field(default_factory=lambda: np.empty(0, np.int64))


def count(layout: Layout, batch: Counted) -> list[Panes]:
    """The parts of panes of a batch, one ``Panes`` a partition."""
    if not len(batch.offsets):
        return []
    keys, of_record = np.unique(batch.partitions * NUMBERS + batch.offsets // PANE, return_inverse=True)
    of_event = of_record[batch.events]
    values = {column.name: numbers(batch.columns[column.name]) for column in layout.numeric}
    pane_of, rows, counts = _tally(layout, _entries(layout, batch, values, of_record, of_event), len(keys))
    times, moments = _times(batch, of_record, of_event, len(keys)), _moments(layout, values, of_event, len(keys))
    partitions, panes = np.divmod(keys, NUMBERS)
    ends = np.flatnonzero(np.diff(batch.partitions, append=-1))
    last = dict(zip(batch.partitions[ends].tolist(), batch.offsets[ends].tolist(), strict=True))
    edges = np.flatnonzero(np.diff(partitions, prepend=-1, append=-1)).tolist()
    cuts = np.searchsorted(pane_of, edges).tolist()
    parts = list[Panes]()
    for place, (begin, end) in enumerate(pairwise(edges)):
        own, its, partition = slice(begin, end), slice(cuts[place], cuts[place + 1]), int(partitions[begin])
        by_pane = panes[own], times[own], moments[own]
        parts.append(Panes(partition, last[partition] + 1, *by_pane, pane_of[its] - begin, rows[its], counts[its]))
    return parts


@dataclass(frozen=True, slots=True)
class _Entries:
    """What falls into bins: pane and row as one number, shape (m,), and for some columns the bin, shape (m,)."""

    keys: Codes
    columns: Sequence[tuple[int, Codes]]
    """The number of a column, and its bins."""


def _entries(
    layout: Layout, batch: Counted, values: Mapping[str, Floats], of_record: Codes, of_event: Codes
) -> Iterator[_Entries]:
    """Everything, and the segments. ``values`` are those of the numeric columns."""
    by_event, by_record = list[tuple[int, Codes]](), list[tuple[int, Codes]]()
    for number, column in enumerate(layout.bins):
        apart = batch.record_columns.get(column.name)
        if apart is not None:
            by_record.append((number, column.codes(apart)))
        elif isinstance(column, NumericBins):
            by_event.append((number, column.codes_of(values[column.name])))
        else:
            by_event.append((number, column.codes(batch.columns[column.name])))
    if by_record:
        yield _Entries(of_record * layout.rows + EVERYTHING, by_record)
    if by_event:
        yield _Entries(of_event * layout.rows + EVERYTHING, by_event)
        for name, places in layout.segment_rows.items():
            rows = look_up(as_text(batch.columns[name]), places, unknown=EVERYTHING, missing=EVERYTHING)
            inside = np.flatnonzero(rows != EVERYTHING)
            keys = (of_event * layout.rows + rows)[inside]
            yield _Entries(keys, [(number, codes[inside]) for number, codes in by_event])


def _tally(layout: Layout, entries: Iterable[_Entries], panes: int) -> tuple[Counts, Counts, Counts]:
    """Pane, row and counts of every row that has anything in it."""
    made = list(entries)
    present = np.zeros(panes * layout.rows, np.bool_)
    for own in made:
        present[own.keys] = True
    chosen = np.flatnonzero(present)
    place_of = np.cumsum(present) - 1
    counts = np.zeros((len(chosen), layout.width), np.int64)
    for own in made:
        places = place_of[own.keys]
        for number, codes in own.columns:  # column by column: arrays that stay in the processor's cache
            size, start = layout.bins[number].size, int(layout.starts[number])
            its = np.bincount(places * size + codes, minlength=len(chosen) * size)
            counts[:, start : start + size] += its.reshape(-1, size)
    pane_of, rows = np.divmod(chosen, layout.rows)
    return pane_of, rows, counts


def _times(batch: Counted, of_record: Codes, of_event: Codes, panes: int) -> Counts:
    """The latest time of an event in each pane, shape (panes,). A dead letter's is not known: ``UNSURE``."""
    times = np.full(panes, np.iinfo(np.int64).min)
    np.maximum.at(times, of_record, UNSURE + batch.times)
    np.maximum.at(times, of_event, batch.times[batch.events])
    return times


def known_time(time: int) -> tuple[int, bool]:
    """The time of a pane, and whether it is that of an event."""
    return (time - UNSURE, False) if time < UNSURE // 2 else (time, True)


def _moments(layout: Layout, values: Mapping[str, Floats], of_event: Codes, panes: int) -> Floats:
    """The moments of the numeric columns of each pane, shape (panes, columns, 4)."""
    moments = no_moments(panes, len(layout.numeric))
    if not len(of_event):
        return moments
    order = None
    if (np.diff(of_event) < 0).any():  # lanes that are not in the order of their partitions
        order = np.argsort(of_event, kind="stable")
        of_event = of_event[order]
    starts = np.flatnonzero(np.diff(of_event, prepend=-1))
    there = of_event[starts]
    together = max(1, CACHED // len(of_event))
    for first in range(0, len(layout.numeric), together):
        some = slice(first, first + together)
        own = np.stack([values[column.name] for column in layout.numeric[some]])
        if order is not None:
            own = own[:, order]
        moments[there, some] = _of_columns(own, layout.centres[some, None], layout.scales[some, None], starts)
    return moments


def _of_columns(values: Floats, centres: Floats, scales: Floats, starts: Codes) -> Floats:
    """The moments of each pane, whose first event ``starts`` gives, shape (panes, columns, 4)."""
    with np.errstate(over="ignore"):  # what is too far is infinite, and clipped
        fixed = values - centres
        fixed /= scales
    np.clip(fixed, -FARTHEST, FARTHEST, out=fixed)
    fixed *= FIXED
    np.rint(fixed, out=fixed)
    missing = np.isnan(values)
    if missing.any():
        fixed[missing] = 0.0
    sums = np.add.reduceat(fixed, starts, axis=1)
    fixed *= fixed
    squares = np.add.reduceat(fixed, starts, axis=1)
    least, greatest = np.fmin.reduceat(values, starts, axis=1), np.fmax.reduceat(values, starts, axis=1)
    if missing.any():
        least[np.isnan(least)], greatest[np.isnan(greatest)] = np.inf, -np.inf
    return np.stack([sums.T, squares.T, least.T, greatest.T], axis=2)
