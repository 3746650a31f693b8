"""The drift processor: panes in, changes of monitors and their present states out. Its state is the lane's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import orjson

from streamproc.core.drift import kept as keeping
from streamproc.core.drift.alarms import Incidents, alarm_record, state_record
from streamproc.core.drift.baseline import Baseline
from streamproc.core.drift.bins import Bins
from streamproc.core.drift.detector import Detector
from streamproc.core.drift.kept import Kept
from streamproc.core.drift.panes import Layout, Panes, loads
from streamproc.core.drift.states import DetectorState
from streamproc.core.processor import Batch, Effects, Output, Seen, State, Steps
from streamproc.core.records import TYPED, RecordType, Topics

TABLE: Final = "drift"
SHARD_COLUMNS: Final = 64
"""So many columns are watched together; further ones are another shard, which another lane may watch."""


def shards(baseline: Baseline) -> list[tuple[Bins, ...]]:
    """The columns of a baseline in groups. Panes of each group have a key of their own, and so a lane."""
    return [baseline.bins[start : start + SHARD_COLUMNS] for start in range(0, len(baseline.bins), SHARD_COLUMNS)]


def layouts(baseline: Baseline) -> dict[int, Layout]:
    """The layout of each shard."""
    return {number: Layout.of(baseline, bins) for number, bins in enumerate(shards(baseline))}


@dataclass(slots=True)
class _Cached:
    """What was restored or written last, and the state that it stands for."""

    values: dict[bytes, bytes | None] = field(default_factory=dict)
    kept: Kept = field(default_factory=lambda: Kept(DetectorState(), Incidents()))


class DriftProcessor:
    """Watches the monitors of a baseline. ``recover`` is how many quiet windows end an alarm."""

    def __init__(self, pipeline: str, baseline: Baseline, *, recover: int) -> None:
        self._pipeline, self._topics = pipeline, Topics.of(pipeline)
        self._detectors = [Detector(baseline, bins=bins, recover=recover) for bins in shards(baseline)]
        self._layouts = {number: detector.layout for number, detector in enumerate(self._detectors)}
        self._baseline = baseline.hash
        self._cache: dict[tuple[int, int], _Cached] = {}

    def process(self, batch: Batch, state: State, seen: Seen, now: datetime) -> Steps:
        """Changes of monitors that a batch of panes brings about."""
        counts = dict.fromkeys((("panes", "taken"), ("panes", "of_another_baseline"), ("panes", "unreadable")), 0)
        parts = dict[int, list[Panes]]()
        for value in batch.topics[self._topics.panes].values:
            try:
                read = loads(value or b"", self._baseline, self._layouts)
            except ValueError:  # not one of ours, or of a later version: it must not stop the lane
                counts["panes", "unreadable"] += 1
                continue
            if read is None:
                counts["panes", "of_another_baseline"] += 1
            else:
                parts.setdefault(read[0], []).append(read[1])
                counts["panes", "taken"] += 1
        written, alarms, states = dict[bytes, bytes | None](), list[tuple[bytes, bytes]](), list[tuple[bytes, bytes]]()
        for shard, its in sorted(parts.items()):
            partitions = sorted({part.partition for part in its})
            held = self._held(batch.partition, shard, partitions, state)
            detector = self._detectors[shard]
            for change in detector.take(held.kept.state, *its):
                record = alarm_record(self._pipeline, detector, change, held.kept.incidents)
                key = record["monitor"].encode()
                alarms.append((key, orjson.dumps(record)))
                states.append((key, state_record(record)))
                name = "drift_changes", change.after
                counts[name] = counts.get(name, 0) + 1
            changes = keeping.changes(detector, held.kept, partitions)
            held.values |= changes
            written |= {_key(shard, key): value for key, value in changes.items()}
        return Effects(
            records=[
                *_output(self._topics.drift, "drift", alarms),
                *_output(self._topics.drift_state, "drift-state", states),
            ],
            state={TABLE: written} if written else {},
            counts={name: count for name, count in counts.items() if count},
        )
        yield []

    def tick(self, state: State, seen: Seen, now: datetime) -> Steps:
        """Nothing happens by time alone."""
        return Effects()
        yield []

    def _held(self, lane: int, shard: int, partitions: Sequence[int], state: State) -> _Cached:
        """The state of a shard.

        What was decoded for the last batch is used again where the lane's tables agree with it.
        """
        wanted = keeping.keys(self._detectors[shard], partitions)
        values = dict(zip(wanted, state.get_many(TABLE, [_key(shard, key) for key in wanted]), strict=True))
        held = self._cache.get((lane, shard))
        if held is None or any(held.values[key] != value for key, value in values.items() if key in held.values):
            held = self._cache[lane, shard] = _Cached()
        unread = {key: value for key, value in values.items() if key not in held.values}
        keeping.restore(self._detectors[shard], held.kept, unread)
        held.values |= unread
        return held


def _key(shard: int, key: bytes) -> bytes:
    return b"%d/" % shard + key


def _output(topic: str, kind: RecordType, records: Sequence[tuple[bytes, bytes]]) -> list[Output]:
    if not records:
        return []
    keys, values = zip(*records, strict=True)
    return [Output(topic, keys, values, [TYPED[kind]] * len(records))]
