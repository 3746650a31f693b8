"""A detector's state as the values of a lane's table, one for each thing that changes on its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import numpy as np

from streamproc.core.drift.alarms import Incident, Incidents
from streamproc.core.drift.detector import Detector
from streamproc.core.drift.panes import MOMENTS
from streamproc.core.drift.states import DetectorState, Length, OpenPane, RowState, WindowState

VERSION = 1
CLOCK, INCIDENTS = b"clock", b"incidents"
OPEN, ROW = b"open/", b"row/"


class _Clock(msgspec.Struct, frozen=True, array_like=True):
    version: int
    baseline: str
    panes: int
    clock: int = 0


class _Incidents(msgspec.Struct, frozen=True, array_like=True):
    version: int
    baseline: str
    running: list[Incident]


class _Open(msgspec.Struct, frozen=True, array_like=True):
    version: int
    baseline: str
    number: int
    time: int
    rows: list[int]
    counts: bytes
    moments: bytes


class _Window(msgspec.Struct, frozen=True, array_like=True):
    of_records: bool
    window: int
    events: int
    begin: tuple[int, int, int, int]
    counts: bytes
    cusum: bytes
    level: bytes
    quiet: bytes
    onset: bytes
    since: int = 0
    latest: int = 0


class _Row(msgspec.Struct, frozen=True, array_like=True):
    version: int
    baseline: str
    filling: int
    recent: bytes
    moments: bytes
    windows: list[_Window]


_encode = msgspec.msgpack.Encoder().encode
T = TypeVar("T", _Clock, _Incidents, _Open, _Row)


@dataclass(slots=True)
class Kept:
    """A detector's state, and the incidents that are running."""

    state: DetectorState
    incidents: Incidents


def open_key(partition: int) -> bytes:
    """Where the open pane of a partition stands."""
    return OPEN + b"%d" % partition


def row_key(row: int) -> bytes:
    """Where a row's windows stand."""
    return ROW + b"%d" % row


def keys(detector: Detector, partitions: Iterable[int]) -> list[bytes]:
    """Where everything stands that panes of these partitions may need."""
    return [CLOCK, INCIDENTS, *map(open_key, sorted(partitions)), *map(row_key, detector.tests)]


def baseline_of(clock: bytes | None) -> str | None:
    """The hash of the baseline by which the state was made, from what stands under ``CLOCK``.

    Raises ValueError where it is of another version of this program.
    """
    return None if clock is None else _versioned(_Clock, clock).baseline


def restore(detector: Detector, kept: Kept, values: Mapping[bytes, bytes | None]) -> None:
    """Take over what stands under these keys; what is of another baseline is over.

    Raises ValueError where a value is of another version of this program.
    """
    for key, value in values.items():
        if value is None:
            continue
        if key == CLOCK and (clock := _read(_Clock, value, detector)) is not None:
            kept.state.panes, kept.state.clock = clock.panes, clock.clock
        elif key == INCIDENTS and (incidents := _read(_Incidents, value, detector)) is not None:
            kept.incidents.running = incidents.running
        elif key.startswith(OPEN) and (opened := _read(_Open, value, detector)) is not None:
            kept.state.open[int(key[len(OPEN) :])] = _opened(detector, opened)
        elif key.startswith(ROW) and (row := _read(_Row, value, detector)) is not None:
            kept.state.rows[int(key[len(ROW) :])] = _of_row(detector, row)


def changes(detector: Detector, kept: Kept, partitions: Iterable[int]) -> dict[bytes, bytes | None]:
    """What to write after panes of these partitions were taken."""
    state, baseline = kept.state, detector.baseline.hash
    written: dict[bytes, bytes | None] = {
        CLOCK: _encode(_Clock(VERSION, baseline, state.panes, state.clock)),
        INCIDENTS: _encode(_Incidents(VERSION, baseline, kept.incidents.running)),
    }
    for partition in sorted(partitions):
        held = state.open.get(partition)
        written[open_key(partition)] = None if held is None else _encode_open(held, baseline)
    for row in sorted(state.touched):
        written[row_key(row)] = _encode_row(state.rows[row], baseline)
    state.touched.clear()
    return written


def _read(kind: type[T], raw: bytes, detector: Detector) -> T | None:
    held = _versioned(kind, raw)
    return held if held.baseline == detector.baseline.hash else None


def _versioned(kind: type[T], raw: bytes) -> T:
    held = msgspec.msgpack.decode(raw, type=kind)
    if held.version != VERSION:
        raise ValueError(f"drift state of version {held.version} is met, and this is for version {VERSION}")
    return held


def _encode_open(pane: OpenPane, baseline: str) -> bytes:
    rows = sorted(pane.rows)
    counts = b"".join(pane.rows[row].astype("u1").tobytes() for row in rows)
    return _encode(_Open(VERSION, baseline, pane.number, pane.time, rows, counts, pane.moments.tobytes()))


def _opened(detector: Detector, held: _Open) -> OpenPane:
    layout = detector.layout
    counts = np.frombuffer(held.counts, "u1").astype(np.int64).reshape(len(held.rows), layout.width)
    moments = np.frombuffer(held.moments).reshape(len(layout.numeric), MOMENTS).copy()
    return OpenPane(held.number, held.time, dict(zip(held.rows, counts, strict=True)), moments)


def _encode_row(row: RowState, baseline: str) -> bytes:
    windows = [
        _Window(
            *length,
            its.events,
            its.begin,
            its.counts.astype("<u4").tobytes() if its.counts.any() else b"",
            its.cusum.tobytes(),
            its.level.tobytes(),
            its.quiet.astype("<u2").tobytes(),
            its.onset.tobytes(),
            its.since,
            its.latest,
        )
        for length, its in row.windows.items()
    ]
    recent = row.recent.astype("<u2").tobytes()
    return _encode(_Row(VERSION, baseline, row.filling, recent, row.moments.tobytes(), windows))


def _of_row(detector: Detector, held: _Row) -> RowState:
    width = detector.layout.width
    windows = dict[Length, WindowState]()
    for its in held.windows:
        level = np.frombuffer(its.level, np.int8).copy()
        counts = np.frombuffer(its.counts, "<u4").astype(np.int64) if its.counts else np.zeros(width, np.int64)
        windows[Length(its.of_records, its.window)] = WindowState(
            counts,
            its.events,
            its.begin,
            np.frombuffer(its.cusum).copy(),
            level,
            np.frombuffer(its.quiet, "<u2").astype(np.int64),
            np.frombuffer(its.onset, np.int64).reshape(-1, 4).copy(),
            bool(level.any()),
            its.since,
            its.latest,
        )
    recent = np.frombuffer(held.recent, "<u2").astype(np.int64).reshape(2, width)
    return RowState(windows, recent, np.frombuffer(held.moments).reshape(2, -1, MOMENTS).copy(), held.filling)
