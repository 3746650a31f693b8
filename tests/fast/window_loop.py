"""Windows as a plain loop over all history: what the vectorised ones are held to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamproc.core.decide.windows import text_hash
from streamproc.core.windows.level import MOST_ENTRIES
from streamproc.core.windows.policy import WindowFeature

Row = dict[str, Any]
"""``key``, ``time`` in microseconds, and what ``of`` and ``where`` read."""
Reads = Callable[[Row], tuple[Any, bool]]
"""The value of a feature's ``of`` (``None`` for null) and whether its ``where`` is true."""


@dataclass
class History:
    """All that one key had since it was last forgotten: rows in the order in which they came."""

    newest: int | None = None
    rows: list[Row] = field(default_factory=list)


def split(items: list[Any], most: int) -> tuple[list[Any], list[Any]]:
    """All but the last ``most`` items, and those."""
    return items[:-most], items[-most:]


class PlainWindows:
    """Features of one ``by``, row after row."""

    def __init__(self, features: Sequence[WindowFeature], reads: Sequence[Reads], *, lateness: int, ttl: int) -> None:
        self._features, self._reads, self._lateness, self._ttl = features, reads, lateness, ttl
        self._clock: int | None = None
        self._keys: dict[Any, History] = {}

    def add(self, row: Row) -> tuple[list[Any], bool]:
        """The features of a row, ``(value, capped)`` for distinct ones, and whether it is late."""
        time = row["time"]
        self._clock = time if self._clock is None else max(self._clock, time)
        if row["key"] is None:
            return [None if one.aggregate != "distinct" else (None, None) for one in self._features], False
        history = self._keys.setdefault(row["key"], History())
        if history.newest is not None and history.newest < self._clock - self._ttl:
            history = self._keys[row["key"]] = History()
        late = history.newest is not None and time < history.newest - self._lateness
        history.newest = time if history.newest is None else max(history.newest, time)
        earlier = list(history.rows)
        history.rows.append(row)
        return [
            self._value(feature, reads, [*earlier, row] if feature.include_self else earlier, row, late)
            for feature, reads in zip(self._features, self._reads, strict=True)
        ], late

    def _value(self, feature: WindowFeature, reads: Reads, rows: list[Row], row: Row, late: bool) -> Any:
        distinct = feature.aggregate == "distinct"
        window = feature.window
        counted = [(one["time"], reads(one)[0]) for one in rows if reads(one)[1] and reads(one)[0] is not None]
        capped = False
        if window is not None:
            steps, now = -(-window // feature.unit), row["time"] // feature.unit
            if distinct:
                pairs = {(time // feature.unit, text_hash(value), value) for time, value in counted}
                left_out, kept = split(sorted(pairs), feature.most)
                capped = bool(left_out) and left_out[-1][0] > now - steps
                counted = [(bucket * feature.unit, value) for bucket, _, value in kept]
            elif len(rows) > MOST_ENTRIES:
                counts_at_all = [one for one in rows if any(read(one)[1] for read in self._reads)]
                buckets = {one["time"] // feature.unit for one in counts_at_all}
                if len([one for one in buckets if one > now - steps]) > MOST_ENTRIES:
                    return None
            counted = [(time, value) for time, value in counted if now - steps < time // feature.unit <= now]
            if late:
                return (None, None) if distinct else None
        values = [value for _, value in counted]
        match feature.aggregate:
            case "count":
                return len(values)
            case "rate":
                assert window is not None
                return len(values) / (window / 1e6)
            case "sum":
                return math.fsum(values)
            case "distinct":
                return len(set(values)), capped
        own, counts = reads(row)
        if feature.aggregate == "zscore":
            if len(values) < 2 or not counts or own is None or statistics.stdev(values) == 0:
                return None
            return (own - statistics.fmean(values)) / statistics.stdev(values)
        if not values or (feature.aggregate == "std" and len(values) < 2):
            return None
        match feature.aggregate:
            case "mean":
                return statistics.fmean(values)
            case "min":
                return min(values)
            case "max":
                return max(values)
            case "std":
                return statistics.stdev(values)
            case "last":
                newest = max(time for time, _ in counted)
                return [value for time, value in counted if time == newest][-1]
            case "first":
                oldest = min(time for time, _ in counted)
                return next(value for time, value in counted if time == oldest)
            case _:
                return max(0, row["time"] - max(time for time, _ in counted)) / 1e6
