"""The drift processor: panes in, changes of monitors and their present states out. Its state is the lane's."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import orjson

from streamproc.core.drift import kept as keeping
from streamproc.core.drift.alarms import Incidents, alarm_record, monitor_key, state_record
from streamproc.core.drift.baseline import BASELINES, Baseline
from streamproc.core.drift.baseline import loads as load_baseline
from streamproc.core.drift.bins import Bins
from streamproc.core.drift.detector import Detector
from streamproc.core.drift.kept import Kept
from streamproc.core.drift.panes import Layout, Panes, PanesRecord, read
from streamproc.core.drift.states import DetectorState
from streamproc.core.drift.volume import VolumePlan, VolumeWatch, volume_record
from streamproc.core.drift.volume import dumps as dump_volume
from streamproc.core.drift.volume import loads as load_volume
from streamproc.core.processor import Answer, Batch, Effects, Lookup, Output, Seen, State, Steps
from streamproc.core.records import TYPED, RecordType, Topics

TABLE: Final = "drift"
OWN: Final = -1
"""The rank of the baseline that a processor was made with; those that it looks up have greater ones."""
MOST_KNOWN: Final = 4
MOST_FOREIGN: Final = 1_000
VOLUME_SHARD: Final = 0
"""The shard whose lane watches volume, with the panes of all partitions."""
VOLUME: Final = b"volume"
PANES_COUNTED: Final = ("taken", "of_another_baseline", "unreadable")
SHARD_COLUMNS: Final = 64
"""So many columns are watched together; further ones are another shard, which another lane may watch."""


def shards(baseline: Baseline) -> list[tuple[Bins, ...]]:
    """The columns of a baseline in groups. Panes of each group have a key of their own, and so a lane."""
    return [baseline.bins[start : start + SHARD_COLUMNS] for start in range(0, len(baseline.bins), SHARD_COLUMNS)]


def layouts(baseline: Baseline) -> dict[int, Layout]:
    """The layout of each shard."""
    return {number: Layout.of(baseline, bins) for number, bins in enumerate(shards(baseline))}


@dataclass(frozen=True, slots=True)
class _Judge:
    """The detectors of a baseline. One of a greater ``rank`` takes over from those before."""

    rank: int
    baseline: str
    detectors: Sequence[Detector]
    layouts: Mapping[int, Layout]

    @classmethod
    def by(cls, baseline: Baseline, recover: int, rank: int) -> _Judge:
        detectors = [Detector(baseline, bins=bins, recover=recover) for bins in shards(baseline)]
        by_shard = {number: detector.layout for number, detector in enumerate(detectors)}
        return cls(rank, baseline.hash, detectors, by_shard)

    def monitors(self, shard: int) -> Iterator[str]:
        """The names of those that are judged in a shard."""
        detector = self.detectors[shard]
        baseline, columns = detector.baseline, detector.layout.places
        for monitor in baseline.monitors:
            if monitor.fit is not None and monitor.column in columns:
                yield monitor_key(baseline, monitor)


@dataclass(slots=True)
class _Cached:
    """What was restored or written last, and the state that it stands for."""

    baseline: str
    values: dict[bytes, bytes | None] = field(default_factory=dict)
    kept: Kept = field(default_factory=lambda: Kept(DetectorState(), Incidents()))


class DriftProcessor:
    """Watches the monitors of a baseline. ``recover`` is how many quiet windows end an alarm.

    Panes of a baseline that it does not know make it look that up. Where there is such a one, it takes over with its
    first panes: what was kept by the one before is over.
    """

    def __init__(self, pipeline: str, baseline: Baseline, *, recover: int, volume: VolumePlan | None = None) -> None:
        self._pipeline, self._topics, self._recover = pipeline, Topics.of(pipeline), recover
        self._volume = None if volume is None else VolumeWatch(volume)
        self._judges = {baseline.hash: _Judge.by(baseline, recover, OWN)}
        self._foreign: set[str] = set()
        self._cache: dict[tuple[int, int], _Cached] = {}

    def process(self, batch: Batch, state: State, seen: Seen, now: datetime) -> Steps:
        """Changes of monitors that a batch of panes brings about."""
        counts = dict.fromkeys((("panes", what) for what in PANES_COUNTED), 0)
        records, stamps, panes_records = list[PanesRecord](), list[int](), batch.topics[self._topics.panes]
        for value, stamp in zip(panes_records.values, panes_records.timestamps.tolist(), strict=True):
            try:
                records.append(read(value or b""))
                stamps.append(stamp)
            except ValueError:  # not one of ours, or of a later version: it must not stop the lane
                counts["panes", "unreadable"] += 1
        if unknown := self._unknown(records, state):
            [answer] = yield [Lookup(BASELINES, [name.encode() for name in unknown])]
            self._learn(unknown, answer)
        parts = dict[int, list[tuple[_Judge, Panes]]]()
        for record in records:
            judge = self._judges.get(record.baseline)
            panes = None if judge is None else record.panes_by(judge.layouts)
            if judge is not None and panes is not None:
                parts.setdefault(panes[0], []).append((judge, panes[1]))
        told, written = _Told(), dict[bytes, bytes | None]()
        for shard, its in sorted(parts.items()):
            for judge, panes_of in self._turns(shard, its, state):
                counts["panes", "taken"] += len(panes_of)
                if self._takes_over(shard, judge, state, written):
                    told.forget(judge.monitors(shard))
                written |= self._judged(batch.partition, shard, judge, panes_of, state, told)
        came = [
            (record, stamp)
            for record, stamp in zip(records, stamps, strict=True)
            if record.arrivals  # whatever they were counted by
        ]
        wake_at = self._watch_volume(came, state, now, told, written) if came else None
        counts["panes", "of_another_baseline"] = len(records) - counts["panes", "taken"]
        return told.effects(self._topics, written, counts, wake_at)

    def _unknown(self, records: Sequence[PanesRecord], state: State) -> list[str]:
        """The baselines that are to be looked up: of the records, and of what is kept of their shards."""
        names = {record.baseline for record in records}
        clocks = [_key(shard, keeping.CLOCK) for shard in sorted({record.shard for record in records})]
        names |= {name for clock in state.get_many(TABLE, clocks) if (name := keeping.baseline_of(clock)) is not None}
        return sorted(names - self._judges.keys() - self._foreign)

    def _learn(self, names: Sequence[str], answer: Answer) -> None:
        """Take the baselines that were found, and forget all but the newest few.

        What is not found will never be: nobody counts by a baseline before it was said to be normal.
        """
        for name, found in zip(names, answer.values, strict=True):
            if found is not None:
                rank, raw = found
                self._judges[name] = _Judge.by(load_baseline(raw), self._recover, rank)
            else:
                self._foreign = {*self._foreign, name} if len(self._foreign) < MOST_FOREIGN else {name}
        newest = sorted(self._judges.values(), key=lambda judge: (judge.rank == OWN, judge.rank))[-MOST_KNOWN:]
        self._judges = {judge.baseline: judge for judge in newest}

    def _turns(
        self, shard: int, parts: Sequence[tuple[_Judge, Panes]], state: State
    ) -> list[tuple[_Judge, list[Panes]]]:
        """The panes to take, by whom; those of a baseline that another has taken over from are left out."""
        [clock] = state.get_many(TABLE, [_key(shard, keeping.CLOCK)])
        held = self._judges.get(keeping.baseline_of(clock) or "")
        turns = list[tuple[_Judge, list[Panes]]]()
        for judge, panes in parts:
            if held is None or judge.rank > held.rank:
                held = judge
            if judge is held:
                if not turns or turns[-1][0] is not judge:
                    turns.append((judge, []))
                turns[-1][1].append(panes)
        return turns

    def _judged(
        self, lane: int, shard: int, judge: _Judge, parts: Sequence[Panes], state: State, told: _Told
    ) -> dict[bytes, bytes | None]:
        """What the panes bring about is told; the changes of state."""
        partitions, detector = sorted({part.partition for part in parts}), judge.detectors[shard]
        held = self._held(lane, shard, detector, partitions, state)
        before = dict(detector.judged)
        found = detector.take(held.kept.state, *parts)
        for kind, count in detector.judged.items():
            told.windows[kind] = told.windows.get(kind, 0) + count - before[kind]
        for change in found:
            told.change(alarm_record(self._pipeline, detector, change, held.kept.incidents))
        changes = keeping.changes(detector, held.kept, partitions)
        held.values |= changes
        return {_key(shard, key): value for key, value in changes.items()}

    def statistics(self, lanes: Collection[int]) -> dict[str, float]:
        """Each monitor's statistic as a part of its threshold, where it is not 0, as far as these lanes judge them."""
        found = dict[str, float]()
        for (lane, shard), held in list(self._cache.items()):
            judge = self._judges.get(held.baseline)
            if lane in lanes and judge is not None:
                detector = judge.detectors[shard]
                monitors = detector.baseline.monitors
                named = detector.statistics(held.kept.state)
                found |= {monitor_key(detector.baseline, monitors[number]): part for number, part in named if part > 0}
        return found

    def tick(self, state: State, seen: Seen, now: datetime) -> Steps:
        """Only silence comes about by time alone."""
        told, written = _Told(), dict[bytes, bytes | None]()
        wake_at = self._watch_volume((), state, now, told, written)
        return told.effects(self._topics, written, {}, wake_at)
        yield []

    def _takes_over(self, shard: int, judge: _Judge, state: State, written: Mapping[bytes, bytes | None]) -> bool:
        """Whether what is kept is another's."""
        key = _key(shard, keeping.CLOCK)
        clock = written[key] if key in written else state.get_many(TABLE, [key])[0]
        return clock is not None and keeping.baseline_of(clock) != judge.baseline

    def _watch_volume(
        self,
        came: Sequence[tuple[PanesRecord, int]],
        state: State,
        now: datetime,
        told: _Told,
        written: dict[bytes, bytes | None],
    ) -> datetime | None:
        """What came, or that nothing did. When to look again."""
        if self._volume is None:
            return None
        key = _key(VOLUME_SHARD, VOLUME)
        [kept] = state.get_many(TABLE, [key])
        held = load_volume(kept)
        for change in self._volume.took(held, came, now) if came else self._volume.looked(held, now):
            told.change(volume_record(self._pipeline, change, held))
        if (value := dump_volume(held)) != kept and held.parts:
            written[key] = value
        return self._volume.wake_at(held, now)

    def _held(self, lane: int, shard: int, detector: Detector, partitions: Sequence[int], state: State) -> _Cached:
        """The state of a shard.

        What was decoded for the last batch is used again where the lane's tables agree with it.
        """
        baseline = detector.baseline.hash
        wanted = keeping.keys(detector, partitions)
        values = dict(zip(wanted, state.get_many(TABLE, [_key(shard, key) for key in wanted]), strict=True))
        held = self._cache.get((lane, shard))
        if (
            held is None
            or held.baseline != baseline
            or any(held.values[key] != value for key, value in values.items() if key in held.values)
        ):
            held = self._cache[lane, shard] = _Cached(baseline)
        unread = {key: value for key, value in values.items() if key not in held.values}
        keeping.restore(detector, held.kept, unread)
        held.values |= unread
        return held


@dataclass(slots=True)
class _Told:
    """The records of a batch: key and value of each."""

    alarms: list[tuple[bytes, bytes]] = field(default_factory=list)
    states: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    levels: list[str] = field(default_factory=list)
    windows: dict[str, int] = field(default_factory=dict)

    def effects(
        self,
        topics: Topics,
        written: Mapping[bytes, bytes | None],
        counts: dict[tuple[str, str], int],
        wake_at: datetime | None,
    ) -> Effects:
        """What comes of it, with changes of state and what else was counted."""
        counts = counts | {("drift_windows", kind): count for kind, count in self.windows.items()}
        for level in self.levels:
            counts["drift_changes", level] = counts.get(("drift_changes", level), 0) + 1
        return Effects(
            records=[
                *_output(topics.drift, "drift", self.alarms),
                *_output(topics.drift_state, "drift-state", self.states),
            ],
            state={TABLE: written} if written else {},
            wake_at=wake_at,
            counts={name: count for name, count in counts.items() if count},
        )

    def forget(self, monitors: Iterable[str]) -> None:
        """Take back how monitors stand: who begins to judge them knows nothing of what was told of them."""
        self.states += ((name.encode(), None) for name in monitors)

    def change(self, record: Mapping[str, Any]) -> None:
        key = record["monitor"].encode()
        self.alarms.append((key, orjson.dumps(record)))
        self.states.append((key, state_record(record)))
        self.levels.append(record["state"])


def _key(shard: int, key: bytes) -> bytes:
    return b"%d/" % shard + key


def _output(topic: str, kind: RecordType, records: Sequence[tuple[bytes, bytes | None]]) -> list[Output]:
    if not records:
        return []
    keys, values = zip(*records, strict=True)
    return [Output(topic, keys, values, [TYPED[kind]] * len(records))]
