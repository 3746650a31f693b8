"""Panes: the mergeable counts of the events of one partition with offsets 64 k to 64 k + 63.

A batch cuts them as it likes; whoever receives them adds the parts up. Sums of counts, and of moments in fixed point,
are exact, so no order and no grouping of the parts changes a bit of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamproc.core.drift.baseline import EVERYTHING, PANE, Baseline
from streamproc.core.drift.bins import Bins, Codes, Floats, NumericBins, as_text, numbers

Counts = NDArray[np.int64]

FIXED = 256.0
"""Moments are of (value - centre) / scale in units of 1/256, within 2^15 scales of the centre: their squares sum
exactly.
"""
FARTHEST = 2.0**15
MOMENTS = 4
"""Sum and sum of squares in fixed point, least, greatest."""
NUMBERS = 2**44
"""Partition and number of a pane as one number: there are fewer panes than this."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things stand in a row of counts: the bins of each column, one column after another.

    ``width`` bins in all.
    """

    bins: tuple[Bins, ...]
    starts: Codes
    width: int
    numeric: tuple[NumericBins, ...]
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
        return cls(bins, np.cumsum(sizes)[:-1], int(sizes.sum()), numeric, rows, baseline.rows)


@dataclass(frozen=True, slots=True)
class Panes:
    """Parts of panes of one partition, in the order of their numbers.

    ``panes`` and ``times`` (the latest event time, µs since the epoch), shape (p,), are by pane; ``moments``, shape
    (p, numeric columns, 4), too. ``pane_of``, ``rows``, shape (r,), say of which pane and row the ``counts``, shape
    (r, width), are. ``next`` is the offset after the last event.
    """

    partition: int
    next: int
    panes: Counts
    times: Counts
    moments: Floats
    pane_of: Counts
    rows: Counts
    counts: Counts


class _Record(msgspec.Struct, frozen=True, array_like=True):
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


VERSION = 1
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Record).decode


def dumps(panes: Panes, baseline: str, shard: int) -> bytes:
    """The value of a panes record: msgpack, its arrays little-endian."""
    return _encode(
        _Record(
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
        )
    )


def loads(raw: bytes, baseline: str, layouts: Mapping[int, Layout]) -> tuple[int, Panes] | None:
    """Shard and panes of a record; ``None`` where it is of another baseline or version.

    Raises ValueError on garbage.
    """
    try:
        record = _decode(raw)
    except msgspec.MsgspecError as error:
        raise ValueError("it is no panes record") from error
    layout = layouts.get(record.shard)
    if record.version != VERSION or record.baseline != baseline or layout is None:
        return None
    rows = np.frombuffer(record.rows, "<u2").astype(np.int64)
    panes = np.frombuffer(record.panes, "<i8").astype(np.int64)
    return record.shard, Panes(
        record.partition,
        record.next,
        panes,
        np.frombuffer(record.times, "<i8").astype(np.int64),
        np.frombuffer(record.moments, "<f8").reshape(len(panes), len(layout.numeric), MOMENTS),
        np.frombuffer(record.pane_of, "<u4").astype(np.int64),
        rows,
        np.frombuffer(record.counts, "u1").astype(np.int64).reshape(len(rows), layout.width),
    )


@dataclass(frozen=True, slots=True)
class Counted:
    """What is counted: the records of a batch, which may be those of many lanes, each lane's in offset order.

    ``partitions`` and ``offsets`` are by record, and so are the ``record_columns``. ``events`` are the numbers of the
    records that became events; ``times``, µs since the epoch, and ``columns`` are by event.
    """

    partitions: Codes
    offsets: Codes
    events: Codes
    times: Codes
    columns: pl.DataFrame
    record_columns: Mapping[str, pl.Series] = field(default_factory=dict)


def count(layout: Layout, batch: Counted) -> list[Panes]:
    """The parts of panes of a batch, one ``Panes`` a partition."""
    keys, of_record = np.unique(batch.partitions * NUMBERS + batch.offsets // PANE, return_inverse=True)
    of_event = of_record[batch.events]
    pane_of, rows, counts = _tally(layout, _entries(layout, batch, of_record, of_event), len(keys))
    times, moments = _moments(layout, batch, of_event, len(keys))
    partitions, panes = np.divmod(keys, NUMBERS)
    last = dict(zip(batch.partitions.tolist(), batch.offsets.tolist(), strict=True))
    parts = list[Panes]()
    for partition in np.unique(partitions).tolist():
        own = slice(*np.searchsorted(partitions, [partition, partition + 1]).tolist())
        its = slice(*np.searchsorted(pane_of, [own.start, own.stop]).tolist())
        by_pane = panes[own], times[own], moments[own]
        parts.append(Panes(partition, last[partition] + 1, *by_pane, pane_of[its] - own.start, rows[its], counts[its]))
    return parts


def _entries(layout: Layout, batch: Counted, of_record: Codes, of_event: Codes) -> Iterator[tuple[Codes, Codes]]:
    """What falls into bins: pane and row as one number, shape (m,), and places in the row, shape (columns, m)."""
    codes, record_codes = list[Codes](), list[Codes]()
    for column, start in zip(layout.bins, layout.starts.tolist(), strict=True):
        apart = batch.record_columns.get(column.name)
        if apart is None:
            codes.append(column.codes(batch.columns[column.name]) + start)
        else:
            record_codes.append(column.codes(apart) + start)
    if record_codes:
        yield of_record * layout.rows + EVERYTHING, np.stack(record_codes)
    if codes:
        of_events = np.stack(codes)
        yield of_event * layout.rows + EVERYTHING, of_events
        for name, places in layout.segment_rows.items():
            rows = segment_rows(batch.columns[name], places)
            inside = rows != EVERYTHING
            yield (of_event * layout.rows + rows)[inside], of_events[:, inside]


def segment_rows(column: pl.Series, places: Mapping[str, int]) -> Codes:
    """The row of each value's segment; ``EVERYTHING`` where it has none. Shape (n,)."""
    texts = as_text(column)
    if len(texts) > 4 * len(places):
        return texts.replace_strict(places, default=EVERYTHING, return_dtype=pl.Int64).fill_null(EVERYTHING).to_numpy()
    return np.fromiter((places.get(text, EVERYTHING) for text in texts), np.int64, len(texts))


def _tally(layout: Layout, entries: Iterator[tuple[Codes, Codes]], panes: int) -> tuple[Counts, Counts, Counts]:
    """Pane, row and counts of every row that has anything in it."""
    made = list(entries)
    present = np.zeros(panes * layout.rows, np.bool_)
    for keys, _ in made:
        present[keys] = True
    chosen = np.flatnonzero(present)
    place_of = np.cumsum(present) - 1
    counts = np.zeros(len(chosen) * layout.width, np.int64)
    for keys, codes in made:
        counts += np.bincount((codes + place_of[keys] * layout.width).ravel(), minlength=len(counts))
    pane_of, rows = np.divmod(chosen, layout.rows)
    return pane_of, rows, counts.reshape(len(chosen), layout.width)


def _moments(layout: Layout, batch: Counted, of_event: Codes, panes: int) -> tuple[Counts, Floats]:
    """The latest time, shape (panes,), and the moments of numeric columns, shape (panes, columns, 4), of each pane."""
    times = np.zeros(panes, np.int64)
    moments = np.zeros((panes, len(layout.numeric), MOMENTS))
    moments[:, :, 2:] = np.inf, -np.inf
    if not len(of_event):
        return times, moments
    order = np.argsort(of_event, kind="stable")
    ordered = of_event[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    there = ordered[starts]
    times[there] = np.maximum.reduceat(batch.times[order], starts)
    for place, column in enumerate(layout.numeric):
        values = numbers(batch.columns[column.name])[order]
        missing = np.isnan(values)
        fixed = np.round(np.clip((values - column.centre) / column.scale, -FARTHEST, FARTHEST) * FIXED)
        fixed[missing] = 0.0
        moments[there, place, 0] = np.add.reduceat(fixed, starts)
        moments[there, place, 1] = np.add.reduceat(fixed * fixed, starts)
        moments[there, place, 2] = np.fmin.reduceat(np.where(missing, np.inf, values), starts)
        moments[there, place, 3] = np.fmax.reduceat(np.where(missing, -np.inf, values), starts)
    return times, moments
