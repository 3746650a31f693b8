"""What is kept of a key: for each bucket of time the statistics that the windows need, and no others.

Windows with buckets of one length share a *level*, whose *entries* are the buckets in which anything happened. What is
aggregated is a *series*: the values of an expression where a condition holds. All of a key is one value of the lane's
table, in words of 8 bytes::

    layout and flags | newest time | numbers of entries, 2 bytes each | floors, where anything was cut off
    | entries, by level | distinct values
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal, Self, TypeAlias

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from streamproc.core.windows.policy import Aggregate, WindowFeature

Statistic: TypeAlias = Literal[
    "n",
    "sum",
    "centre",
    "deviations",
    "min",
    "max",
    "last_time",
    "last",
    "first_time",
    "first",
    "shifted",
    "squares",
]
"""``centre`` is the mean, ``deviations`` the sum of squared distances from it. The last two are sums about a first
value, which earlier versions kept: they are read, and no window needs them."""
NEEDED: Final[dict[Aggregate, tuple[Statistic, ...]]] = {
    "count": ("n",),
    "rate": ("n",),
    "sum": ("n", "sum"),
    "mean": ("n", "sum"),
    "min": ("n", "min"),
    "max": ("n", "max"),
    "std": ("n", "centre", "deviations"),
    "zscore": ("n", "centre", "deviations"),
    "last": ("n", "last_time", "last"),
    "first": ("n", "first_time", "first"),
    "time_since_last": ("n", "last_time"),
}
EVER: Final = 0
"""The unit of the level whose one bucket is all of time."""
MOST_NARROW: Final = 1 << 32
"""A bucket is kept in 4 bytes where none is so many before the newest of its key."""
WORD: Final = 8
HEAD: Final = 2
"""Words in front that every layout has: layout and flags, newest time."""
ID_BYTES: Final = 4
"""Every value begins with its layout's number."""


class Series(msgspec.Struct, frozen=True, array_like=True):
    """What is aggregated, as SQL: the values of ``of``, or the events themselves, where ``where`` is true."""

    of: str | None
    where: str | None

    @classmethod
    def of_feature(cls, feature: WindowFeature) -> Self:
        """What a feature aggregates."""
        of, where = feature.of, feature.where
        return cls(None if of is None else of.sql, None if where is None else where.sql)


class Column(msgspec.Struct, frozen=True, array_like=True):
    """One statistic of one series in an entry."""

    series: int
    statistic: Statistic

    @property
    def dtype(self) -> str:
        """As it is kept."""
        times = self.statistic in ("last_time", "first_time")
        return "<u4" if self.statistic == "n" else "<i8" if times else "<f8"


class Level(msgspec.Struct, frozen=True, array_like=True, dict=True):
    """Entries with buckets of ``unit`` microseconds; windows reach back ``steps`` of them.

    An entry's bucket is kept as its distance from the newest one of the key, in 4 bytes where it is ``narrow``.
    """

    unit: int
    steps: int
    narrow: bool
    columns: tuple[Column, ...]

    @cached_property
    def dtype(self) -> Any:
        """An entry as it is kept, of whole words."""
        fields = [("bucket", "<u4" if self.narrow else "<i8")]
        narrow = [one for one in self.columns if one.statistic == "n"]
        wide = [one for one in self.columns if one.statistic != "n"]
        ordered = [*narrow, *wide] if self.narrow else [*wide, *narrow]
        fields += [(str(self.columns.index(one)), one.dtype) for one in ordered]
        names, formats = zip(*fields, strict=True)
        sizes = [np.dtype(one).itemsize for one in formats]
        offsets, at = [], 0
        for size in sizes:
            at = -(-at // size) * size
            offsets.append(at)
            at += size
        whole = -(-at // WORD) * WORD
        return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": whole})

    @property
    def words(self) -> int:
        """Words of an entry."""
        return int(self.dtype.itemsize) // WORD


class Distinct(msgspec.Struct, frozen=True, array_like=True):
    """The distinct values of a series by bucket: at most the ``most`` newest."""

    unit: int
    steps: int
    series: int
    most: int


class Layout(msgspec.Struct, frozen=True, array_like=True, dict=True):
    """What is kept of each key of one ``by``."""

    by: str
    series: tuple[Series, ...]
    levels: tuple[Level, ...]
    distincts: tuple[Distinct, ...]

    @classmethod
    def of(cls, by: str, features: Sequence[WindowFeature], lateness: int) -> Self:
        """The layout for the features of one ``by``; ``lateness`` is in microseconds."""
        series = tuple(dict.fromkeys(map(Series.of_feature, features)))
        levels: dict[int, _Wanted] = {}
        distincts: dict[tuple[int, int, int], int] = {}
        for feature in features:
            number, unit, steps = series.index(Series.of_feature(feature)), unit_of(feature), steps_of(feature)
            if feature.aggregate == "distinct":
                key = unit, number, feature.most
                distincts[key] = max(distincts.get(key, 0), steps)
                continue
            wanted = levels.setdefault(unit, _Wanted())
            wanted.steps = max(wanted.steps, steps)
            wanted.columns.update(dict.fromkeys(Column(number, one) for one in NEEDED[feature.aggregate]))
        return cls(
            by,
            series,
            tuple(
                Level(unit, one.steps, _is_narrow(unit, one.steps, lateness), tuple(one.columns))
                for unit, one in sorted(levels.items())
            ),
            tuple(Distinct(unit, steps, number, most) for (unit, number, most), steps in sorted(distincts.items())),
        )

    @cached_property
    def id(self) -> int:
        """A number of 32 bits for this layout."""
        raw = orjson.dumps(msgspec.to_builtins(self))
        return int.from_bytes(hashlib.blake2b(raw, digest_size=ID_BYTES).digest(), "little")

    @cached_property
    def shifts(self) -> int:
        """Words of first values, one for each series with ``squares``: only layouts of earlier versions have them."""
        columns = (column for level in self.levels for column in level.columns)
        return len({column.series for column in columns if column.statistic == "squares"})

    @property
    def lists(self) -> int:
        """How many lists of entries a key has."""
        return len(self.levels) + len(self.distincts)

    @property
    def counts_words(self) -> int:
        """Words of the numbers of entries, 2 bytes each."""
        return -(-2 * self.lists // WORD)


@dataclass(slots=True)
class _Wanted:
    steps: int = 0
    columns: dict[Column, None] = field(default_factory=dict)


def _is_narrow(unit: int, steps: int, lateness: int) -> bool:
    return unit == EVER or steps + lateness // unit + 2 < MOST_NARROW


def buckets_of(unit: int, times: NDArray[np.int64]) -> NDArray[np.int64]:
    """The bucket of each time in microseconds."""
    return np.zeros(len(times), np.int64) if unit == EVER else times // unit


def unit_of(feature: WindowFeature) -> int:
    """The length of a feature's buckets in microseconds."""
    return EVER if feature.window is None else feature.unit


def steps_of(feature: WindowFeature) -> int:
    """How many buckets a feature's window has, with the one in which the event is."""
    return 1 if feature.window is None else -(-feature.window // feature.unit)
