"""What is normal, and how far from it is an alarm: everything that the detector needs, as values with a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import orjson

from streamproc.core.drift.bins import Bins, CategoricalBins, NumericBins
from streamproc.core.drift.budget import Thresholds
from streamproc.core.drift.season import Season

VERSION = 1
PANE = 64
DIGITS = 9
EVERYTHING = 0
"""The row of counts of all events; the others are of one segment each."""

BASELINES: Final = "baselines"
"""The source of look-ups of baselines, in their JSON, by their hash."""

Family: TypeAlias = Literal["linear", "shape", "rare"]


@dataclass(frozen=True, slots=True)
class Segment:
    """The events in which ``column`` has ``value``."""

    column: str
    value: str

    def __str__(self) -> str:
        return f"{self.column} = {self.value}"


@dataclass(frozen=True, slots=True)
class Linear:
    """A two-sided CUSUM of a window's mean score: L = sum of count x weight / events, z = L / sd.

    ``weights`` are per bin of the column, with mean zero in the reference; ``sd`` is of the mean of ``size`` events.
    ``allowance`` is the CUSUM's k, with the dead band for the reference's own error. ``up`` and ``down`` are theta: the
    threshold is h / theta on a side whose scores are skewed. ``of_all`` counts all events, not those with a value.
    """

    weights: tuple[float, ...]
    size: int
    sd: float
    allowance: float
    up: float
    down: float
    of_all: bool = False

    family: Family = field(default="linear", init=False)


@dataclass(frozen=True, slots=True)
class Shape:
    """A one-sided CUSUM of a chi-squared distance over merged bins, made normal by Wilson and Hilferty.

    ``starts`` are the first bins of the merged ones, ``shares`` the reference's. ``shrink`` divides the distance.
    Windows with less than half of ``size`` events with a value are not judged.
    """

    starts: tuple[int, ...]
    shares: tuple[float, ...]
    size: int
    shrink: float
    df: float
    mean: float
    sd: float
    allowance: float
    up: float

    family: Family = field(default="shape", init=False)


@dataclass(frozen=True, slots=True)
class Rare:
    """A one-sided CUSUM of the log likelihood ratio of p1 to p0 for the share of ``places``, over ``dispersion``.

    ``of_all`` counts among all events instead of those with a value.
    """

    places: tuple[int, ...]
    p0: float
    p1: float
    dispersion: float
    of_all: bool

    family: Family = field(default="rare", init=False)


Fit: TypeAlias = Linear | Shape | Rare
FITS: Mapping[str, type[Linear] | type[Shape] | type[Rare]] = {"linear": Linear, "shape": Shape, "rare": Rare}


@dataclass(frozen=True, slots=True)
class Monitor:
    """One statistic of one column in one row, watched in windows of so many events; or off, for a reason.

    ``tau`` is how much slower than independent events it moves. ``delays`` are the events expected from a small, a
    medium and a large shift to its alarm; null where that cannot be said. ``note`` is what people should know of it.
    """

    column: str
    row: int
    test: str
    window: int = 0
    tau: float = 1.0
    fit: Fit | None = None
    off: str = ""
    delays: tuple[float | None, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Baseline:
    """``totals`` are the reference's counts per row and bin of each column, for people.

    ``record_columns`` count every record, whatever became of it, and the others events. ``source`` says what it was
    made from. ``season`` is a declared one, ``max_age`` (µs) ends windows that are not full, ``accuracies`` are by bin
    of the score how many predictions came true.
    """

    bins: tuple[Bins, ...]
    segments: tuple[Segment, ...]
    monitors: tuple[Monitor, ...]
    thresholds: Thresholds
    totals: Mapping[str, Sequence[Sequence[int]]]
    record_columns: tuple[str, ...] = ()
    unwatched: Mapping[str, str] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    season: Season | None = None
    max_age: int | None = None
    accuracies: tuple[float, ...] = ()
    hash: str = ""

    @property
    def rows(self) -> int:
        """Rows of counts: one for everything, one for each segment."""
        return 1 + len(self.segments)

    def row_name(self, row: int) -> str:
        """The segment of a row in words; empty for everything."""
        return "" if row == EVERYTHING else str(self.segments[row - 1])

    def dumps(self) -> bytes:
        """As JSON, with its hash."""
        content = _content(self)
        return orjson.dumps({**content, "hash": content_hash(content)}, option=orjson.OPT_SORT_KEYS)


def without(baseline: Baseline, reasons: Mapping[str, str]) -> Baseline:
    """The baseline without some columns, and why each of them is not watched. Thresholds stay as they are: with fewer
    monitors there are fewer false alarms."""
    gone = {column.name for column in baseline.bins if column.name in reasons}
    if not gone:
        return baseline
    season = baseline.season
    return hashed(
        replace(
            baseline,
            bins=tuple(column for column in baseline.bins if column.name not in gone),
            monitors=tuple(monitor for monitor in baseline.monitors if monitor.column not in gone),
            totals={name: rows for name, rows in baseline.totals.items() if name not in gone},
            unwatched={**baseline.unwatched, **{name: reasons[name] for name in sorted(gone)}},
            season=season and replace(season, waves={n: w for n, w in season.waves.items() if n not in gone}),
        )
    )


NO_BASELINE = Baseline((), (), (), Thresholds(2.0, 0.0, 0.0, 0.0), {})
"""Watches nothing."""


def content_hash(content: Mapping[str, Any]) -> str:
    raw = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def hashed(baseline: Baseline) -> Baseline:
    """The baseline with the hash of its content."""
    return loads(baseline.dumps())


def loads(raw: bytes) -> Baseline:
    """The baseline of ``dumps``. Raises ValueError where it is none, or was changed by hand."""
    try:
        content = orjson.loads(raw)
        stated = content.pop("hash")
        if content["version"] != VERSION:
            raise ValueError(f"it has version {content['version']}, and this is for version {VERSION}")
        if content_hash(content) != stated:
            raise ValueError("its hash does not fit its content")
        return Baseline(
            bins=tuple(_bins(column) for column in content["columns"]),
            segments=tuple(Segment(**segment) for segment in content["segments"]),
            monitors=tuple(_monitor(monitor) for monitor in content["monitors"]),
            thresholds=Thresholds(**content["thresholds"]),
            totals=content["totals"],
            record_columns=tuple(content["record_columns"]),
            unwatched=content["unwatched"],
            source=content["source"],
            max_age=content.get("max_age"),
            season=None if "season" not in content else Season(**content["season"]),
            accuracies=tuple(content.get("accuracies", ())),
            hash=stated,
        )
    except (KeyError, TypeError, AttributeError, orjson.JSONDecodeError) as error:
        raise ValueError("it is not a baseline") from error


def _content(baseline: Baseline) -> dict[str, Any]:
    return {
        "version": VERSION,
        "columns": [_column(column) for column in baseline.bins],
        "segments": [{"column": segment.column, "value": segment.value} for segment in baseline.segments],
        "monitors": [_rounded(_fields(monitor)) for monitor in baseline.monitors],
        "thresholds": _fields(baseline.thresholds),
        "totals": {name: [list(row) for row in rows] for name, rows in baseline.totals.items()},
        "record_columns": list(baseline.record_columns),
        "unwatched": dict(baseline.unwatched),
        "source": dict(baseline.source),
        # What a baseline does not have is not in it: those that were made before it existed keep their hash.
        **({} if baseline.max_age is None else {"max_age": baseline.max_age}),
        **({} if baseline.season is None else {"season": _fields(baseline.season)}),
        **({"accuracies": _rounded(list(baseline.accuracies))} if baseline.accuracies else {}),
    }


def _rounded(value: Any) -> Any:
    """Without the last digits, which the same figures may have otherwise on another machine: the hash must not."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def _fields(item: Any) -> dict[str, Any]:
    """A frozen dataclass as JSON has it."""
    return {
        name: _fields(value)
        if isinstance(value, Linear | Shape | Rare)
        else list(value)
        if isinstance(value, tuple)
        else value
        for name in item.__slots__
        for value in [getattr(item, name)]
    }


def _column(column: Bins) -> dict[str, Any]:
    if isinstance(column, NumericBins):
        figures = {name: getattr(column, name) for name in ("centre", "scale", "mean", "spread")}
        return {"name": column.name, "kind": "numeric", "edges": column.edges.tolist(), **figures}
    listed = {"categories": list(column.categories), "others": list(column.others)}
    return {"name": column.name, "kind": "categorical", **listed}


def _bins(content: dict[str, Any]) -> Bins:
    if content["kind"] == "numeric":
        figures = (content[name] for name in ("centre", "scale", "mean", "spread"))
        return NumericBins(content["name"], np.array(content["edges"]), *figures)
    return CategoricalBins(content["name"], tuple(content["categories"]), tuple(content["others"]))


def _monitor(content: dict[str, Any]) -> Monitor:
    fit = content.pop("fit")
    made = None if fit is None else FITS[fit.pop("family")](**{name: _tupled(value) for name, value in fit.items()})
    return Monitor(fit=made, **{name: _tupled(value) for name, value in content.items()})


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
