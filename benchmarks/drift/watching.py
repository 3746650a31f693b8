"""Feeding a detector without a pipeline around it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import numpy as np
import polars as pl

from streamproc.core.drift.baseline import Baseline
from streamproc.core.drift.calibrate import Reference, calibrate
from streamproc.core.drift.detector import Change, Detector
from streamproc.core.drift.panes import Counted, count
from streamproc.core.drift.states import DetectorState


def learned(frame: pl.DataFrame, events_per_alarm: float, season: int | None = None) -> Baseline:
    """The baseline of all columns of a frame. Its events are a microsecond apart, as those of a ``Watcher`` are;
    ``season`` is in events.
    """
    period = None if season is None else timedelta(microseconds=season)
    return calibrate(
        Reference(frame, tuple(frame.columns), times=np.arange(len(frame)), season=period), events_per_alarm
    )


class Watcher:
    """A detector, and how far it has come. ``clock`` is the time of the first event, in µs."""

    def __init__(self, baseline: Baseline, *, clock: int = 0) -> None:
        self.detector, self._state, self._at, self._clock = Detector(baseline), DetectorState(), 0, clock

    def feed(self, frame: pl.DataFrame) -> Iterator[Change]:
        """The changes that the next events bring."""
        n = len(frame)
        offsets = np.arange(self._at, self._at + n)
        self._at += n
        batch = Counted(np.zeros(n, np.int64), offsets, offsets + self._clock, np.arange(n), frame)
        for part in count(self.detector.layout, batch):
            yield from self.detector.take(self._state, part)


def as_frame(block: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> pl.DataFrame:
    """An array of shape (rows, columns), named f0, f1 and so on."""
    return pl.DataFrame({f"f{number}": block[:, number] for number in range(block.shape[1])})
