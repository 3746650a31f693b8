"""Measures: integer counts of one window of decision time, which merge by adding, in whatever order.

A name has parts with ``/`` between them: ``came/own/approve/repaid`` counts approvals by the pipeline itself of which
`repaid` came true. Money is in millionths.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

Counts: TypeAlias = dict[str, int]
Marks: TypeAlias = dict[str, tuple[int, int]]
MILLION: Final = 1_000_000
OTHER: Final = "other"
MOST_GROUPS: Final = 256
"""So many groups of a window are told apart in a lane; further ones lose segment, rule, plan and model, and of twice
as many the further ones lose their prompt too."""
MOST_PROMPTS: Final = 50
"""So many prompts of a window are told apart in a lane; further ones are ``OTHER``."""
SAFE: Final = 1 << 53
"""Larger integers are decimal texts in JSON: most readers would round them."""
LAST: Final = (1 << 32) - 1
"""The last second of a window."""
_Mark: TypeAlias = Annotated[int, msgspec.Meta(ge=-1000 * LAST, le=1000 * LAST)]
BOUNDS: NDArray[np.int64] = np.unique(np.ceil(2.0 ** (np.arange(1, 4 * 40) / 4)).astype(np.int64))
"""Upper ends of a histogram's buckets, in milliseconds: each at most a fifth above the one before (from 8 ms on)."""


class Group(NamedTuple):
    """What the decisions that are counted together have in common.

    ``segment`` is a JSON object of the segment columns' values; ``reason`` is why the tier decided; ``prompt`` is the
    version of the prompt, as NAME@VERSION, where a language model scored or was to.
    """

    segment: str
    rule: str | None
    plan: str
    model: str | None
    tier: str
    decision: str
    would_be: str | None
    reason: str
    prompt: str | None = None

    def bare(self) -> Group:
        """Without what there may be many of."""
        return Group("{}", OTHER, OTHER, OTHER, self.tier, self.decision, self.would_be, self.reason, self.prompt)


@dataclass(slots=True)
class Window:
    """The counts of decisions that were made from ``start`` on, in seconds since the epoch, for ``seconds``.

    ``own`` are of the window as a whole. ``marks`` are the first and last moment of something, in milliseconds.
    """

    start: int
    seconds: int
    groups: dict[Group, Counts] = field(default_factory=dict)
    own: Counts = field(default_factory=dict)
    marks: Marks = field(default_factory=dict)

    def place(self, group: Group) -> Group:
        """The group that something of this kind is counted in; it is there afterwards."""
        if group not in self.groups:
            group = self._bounded(group)
            self.groups.setdefault(group, {})
        return group

    def _bounded(self, group: Group) -> Group:
        if group.prompt is not None:
            known = {one.prompt for one in self.groups if one.prompt not in (None, OTHER)}
            if len(known) >= MOST_PROMPTS and group.prompt not in known:
                group = group._replace(prompt=OTHER)
        if group in self.groups or len(self.groups) < MOST_GROUPS:
            return group
        bare = group.bare()
        if bare.prompt is None or bare in self.groups or len(self.groups) < 2 * MOST_GROUPS:
            return bare
        return bare._replace(prompt=OTHER)

    def merge(self, other: Window) -> None:
        """Add another lane's counts of the same window, or another window's."""
        self.start, end = min(self.start, other.start), max(self.start + self.seconds, other.start + other.seconds)
        self.seconds = end - self.start
        for group, counts in other.groups.items():
            add(self.groups.setdefault(group, {}), counts)
        add(self.own, other.own)
        for name, (first, last) in other.marks.items():
            mark(self.marks, name, first, last)


def add(to: Counts, more: Mapping[str, int], sign: int = 1) -> None:
    """Add counts, or take them away again; what comes to nothing is left out."""
    for name, count in more.items():
        total = to.get(name, 0) + sign * count
        if total:
            to[name] = total
        else:
            to.pop(name, None)


def mark(marks: Marks, name: str, first: int, last: int) -> None:
    """Widen a span."""
    was = marks.get(name, (first, last))
    marks[name] = min(first, was[0]), max(last, was[1])


def buckets(milliseconds: NDArray[np.int64]) -> NDArray[np.int64]:
    """The bucket of each duration; those below 0 are in the first. Shape (n,)."""
    return np.searchsorted(BOUNDS, np.maximum(milliseconds, 0), side="right")


def quantile(counts: Mapping[int, int], share: float) -> float | None:
    """The duration, in milliseconds, that so many are at most, from a histogram: at most a bucket's width too much."""
    total, passed = sum(counts.values()), 0
    for bucket in sorted(counts):
        passed += counts[bucket]
        if passed >= share * total:
            return float(BOUNDS[min(bucket, len(BOUNDS) - 1)])
    return None


def part(counts: Mapping[str, int], prefix: str) -> dict[str, int]:
    """The counts whose names begin so, by the rest of the name."""
    return {name[len(prefix) :]: count for name, count in counts.items() if name.startswith(prefix)}


def packed(counts: Mapping[str, int]) -> dict[str, int | str]:
    """Counts for JSON."""
    return {name: count if -SAFE <= count <= SAFE else str(count) for name, count in counts.items()}


def unpacked(counts: Mapping[str, int | str]) -> Counts:
    """The inverse of ``packed``. Raises ValueError where there is anything else."""
    return {str(name): int(count) for name, count in counts.items()}


def record(pipeline: str, lane: int, window: Window, written: str, version: int) -> dict[str, Any]:
    """The record of a lane's window, as schemas/measures.schema.json has it."""
    return {
        "version": version,
        "pipeline": pipeline,
        "lane": lane,
        "start": window.start,
        "seconds": window.seconds,
        "written": written,
        "groups": [
            {**group._asdict(), "segment": orjson.loads(group.segment), "counts": packed(counts)}
            for group, counts in sorted(window.groups.items(), key=lambda item: tuple(map(str, item[0])))
        ],
        "counts": packed(dict(sorted(window.own.items()))),
        "marks": {name: list(span) for name, span in sorted(window.marks.items())},
    }


class _Version(msgspec.Struct):
    version: int


class _Row(msgspec.Struct):
    segment: dict[str, Any]
    rule: str | None
    plan: str
    model: str | None
    tier: str
    decision: str
    would_be: str | None
    reason: str
    counts: dict[str, int | str]
    prompt: str | None = None
    """Records of version 1 have none."""


class _Record(msgspec.Struct):
    lane: int
    start: Annotated[int, msgspec.Meta(ge=0, le=LAST)]
    seconds: Annotated[int, msgspec.Meta(ge=1, le=LAST)]
    groups: list[_Row]
    counts: dict[str, int | str]
    marks: dict[str, tuple[_Mark, _Mark]]


_decode_version = msgspec.json.Decoder(_Version).decode
_decode = msgspec.json.Decoder(_Record).decode


def loads(raw: bytes, version: int) -> tuple[int, Window]:
    """The lane and the window of a record of this version or an earlier one. Raises ValueError where it is none."""
    try:
        if not 1 <= (other := _decode_version(raw).version) <= version:
            raise ValueError(f"it has version {other}, and this is for version {version}")
        said = _decode(raw)
        groups = {
            Group(segment_text(row.segment), *(getattr(row, name) for name in Group._fields[1:])): unpacked(row.counts)
            for row in said.groups
        }
        return said.lane, Window(said.start, said.seconds, groups, unpacked(said.counts), dict(said.marks))
    except (msgspec.MsgspecError, RecursionError, TypeError) as error:
        raise ValueError(f"it is no record of measures: {error}") from error


def segment_text(values: Mapping[str, Any]) -> str:
    """The segment of a group."""
    return orjson.dumps(values, option=orjson.OPT_SORT_KEYS).decode()


def merged(windows: Iterable[Window]) -> Window | None:
    """All in one; ``None`` of none."""
    total: Window | None = None
    for window in windows:
        if total is None:
            total = Window(window.start, window.seconds)
        total.merge(window)
    return total
