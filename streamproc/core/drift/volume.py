"""Volume: whether events come at all, how many, and how late they are; of each partition, and of all together.

Limits are stated and not learned, so they take no part in the budget of false alarms: beyond one is a fact. Records are
counted by the minute of their timestamps, so rates and ages depend on the panes alone. Only silence needs a clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

import msgspec
import numpy as np

from streamproc.core.drift.alarms import ALARM_VERSION, ID_BYTES, Incident, Incidents, instant, told_incident
from streamproc.core.drift.panes import Arrivals, Counted, PanesRecord, known_time
from streamproc.core.versioned import read_kept

VERSION: Final = 1
COLUMN: Final = "volume"
Test: TypeAlias = Literal["silence", "least", "most", "age"]
TESTS: Final[tuple[Test, ...]] = ("silence", "least", "most", "age")
MINUTE: Final = 60_000
"""In milliseconds, as timestamps are."""
GOOD_MINUTES: Final = 3
"""So many minutes in a row within a limit end what began beyond it."""
IDLE: Final = 600.0
"""Without a limit to silence: the seconds after which a partition does not hold back the minutes of all together."""
TOGETHER: Final = 60
"""In minutes: what begins within so many of the last alarm of an incident belongs to it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """``silence`` and ``age`` are in seconds, ``least`` and ``most`` in records a minute; ``None`` is no limit."""

    silence: float | None = None
    least: float | None = None
    most: float | None = None
    age: float | None = None


@dataclass(frozen=True, slots=True)
class VolumePlan:
    """The limits of all partitions together, and those of each."""

    whole: Limits
    each: Limits

    @property
    def wake_seconds(self) -> float:
        """How often to look whether it is silent."""
        limits = [limit for limit in (self.whole.silence, self.each.silence) if limit is not None]
        return min(30.0, max(1.0, min(limits, default=IDLE) / 5))


class Minute(msgspec.Struct, array_like=True):
    """What came in a minute. ``age`` is the sum over its events, in milliseconds."""

    records: int = 0
    events: int = 0
    age: int = 0

    def add(self, records: int, events: int, age: int) -> None:
        self.records, self.events, self.age = self.records + records, self.events + events, self.age + age


class Unit(msgspec.Struct, array_like=True):
    """One partition, or all of them: its last record, the minutes that are not judged yet, and how it stands.

    ``time`` is the latest event time (µs), ``clock`` the minute of the latest timestamp. Those before ``judged`` are.
    ``good`` counts the minutes within a limit since it was overstepped, by test, and holds what is beyond its limit.
    """

    partition: int
    offset: int
    time: int
    clock: int
    judged: int
    idle: bool = False
    minutes: dict[int, Minute] = msgspec.field(default_factory=dict)
    good: dict[Test, int] = msgspec.field(default_factory=dict)


class VolumeState(msgspec.Struct, array_like=True):
    """Everything that is kept. ``baseline`` is that of the panes that came last."""

    version: int = VERSION
    parts: dict[int, Unit] = msgspec.field(default_factory=dict)
    whole: Unit | None = None
    incidents: list[Incident] = msgspec.field(default_factory=list)
    baseline: str = ""


@dataclass(frozen=True, slots=True)
class VolumeChange:
    """A limit was overstepped, or is kept again. ``partition`` is ``None`` for all together.

    ``statistic`` and ``threshold`` are in seconds or records a minute. ``offset`` is that after the last record, ``at``
    its partition, ``time`` the latest event time (µs); ``minute`` is the one that was judged.
    """

    partition: int | None
    test: Test
    drifting: bool
    statistic: float
    threshold: float
    at: int
    offset: int
    time: int
    minute: int

    @property
    def key(self) -> str:
        """The monitor's name."""
        return f"{COLUMN}/{self.test}" + ("" if self.partition is None else f" [partition = {self.partition}]")


_encode = msgspec.msgpack.Encoder().encode
dumps: Callable[[VolumeState], bytes] = _encode


def loads(raw: bytes | None) -> VolumeState:
    """What ``dumps`` wrote; an empty state where there is none.

    Raises ValueError where it is of another version of this program.
    """
    return VolumeState() if raw is None else read_kept(raw, VolumeState, VERSION, "volume state")


def arrivals_of(batch: Counted) -> dict[int, Arrivals]:
    """By partition, what came in each minute: minute, records, events, the sum of their ages in milliseconds."""
    if not len(batch.offsets):
        return {}
    span = 1 << 40
    minutes = np.maximum(batch.arrived, 0) // MINUTE  # a record may have no timestamp, -1
    keys, of_record = np.unique(batch.partitions * span + minutes, return_inverse=True)
    of_event, ages = of_record[batch.events], np.zeros(len(keys), np.int64)
    np.add.at(ages, of_event, batch.arrived[batch.events] - batch.times[batch.events] // 1000)
    counts = (np.bincount(of, minlength=len(keys)).tolist() for of in (of_record, of_event))
    found = dict[int, list[tuple[int, int, int, int]]]()
    for key, records, events, age in zip(keys.tolist(), *counts, ages.tolist(), strict=True):
        found.setdefault(key // span, []).append((key % span, records, events, age))
    return {partition: tuple(minutes) for partition, minutes in found.items()}


def arrive(
    state: VolumeState, plan: VolumePlan, partition: int, offset: int, time: int, arrivals: Arrivals, stamp: int
) -> Iterator[VolumeChange]:
    """Records came, and were counted at ``stamp`` (ms). ``offset`` is that after the last of them, ``time`` their
    latest event time (µs).

    What was there before anybody counted is not judged: it may be a backlog. A timestamp of the future counts as one of
    the moment, or a single one would make all minutes to come too late.
    """
    present = stamp // MINUTE
    minutes = [(min(minute, present), *what) for minute, *what in arrivals]
    newest = max(minute for minute, *_ in minutes)
    unit, whole = state.parts.get(partition), state.whole
    if unit is None:
        unit = state.parts[partition] = Unit(partition, offset, time, newest, present + 1)
    if whole is None:
        whole = state.whole = Unit(partition, offset, time, newest, present + 1)
    for one, limits, which in ((unit, plan.each, partition), (whole, plan.whole, None)):
        one.partition, one.offset, one.time = partition, offset, max(one.time, time)
        one.clock, one.idle = max(one.clock, newest), False
        if limits.silence is not None:
            yield from _stands(one, which, "silence", 0.0, limits.silence, newest, within=True, enough=1)
        for minute, *what in minutes:
            if minute >= one.judged:
                one.minutes.setdefault(minute, Minute()).add(*what)
    yield from _judge(unit, plan.each, partition, unit.clock)
    yield from _judge_whole(state, plan)


def look(state: VolumeState, plan: VolumePlan, idle: Mapping[int, float]) -> Iterator[VolumeChange]:
    """Nothing came from partitions for so many seconds."""
    for partition, seconds in sorted(idle.items()):
        unit, limit = state.parts[partition], plan.each.silence
        unit.idle = seconds > (IDLE if limit is None else limit)
        if limit is not None and seconds > limit:
            yield from _stands(unit, partition, "silence", seconds, limit, unit.clock, within=False)
    limit = plan.whole.silence
    if state.whole is not None and idle and limit is not None and (shortest := min(idle.values())) > limit:
        whole = state.whole
        yield from _stands(whole, None, "silence", shortest, limit, whole.clock, within=False)
    yield from _judge_whole(state, plan)


class VolumeWatch:
    """Judges volume by a plan. It remembers when it last heard of each partition, as long as it is being asked."""

    def __init__(self, plan: VolumePlan) -> None:
        self._plan = plan
        self._heard: dict[int, datetime] = {}
        self._asked: datetime | None = None

    def took(self, state: VolumeState, records: Iterable[tuple[PanesRecord, int]], now: datetime) -> list[VolumeChange]:
        """What records that came bring about; with each, its timestamp."""
        self._ask(state, now)
        changes = list[VolumeChange]()
        for record, stamp in records:
            self._heard[record.partition] = now
            state.baseline = record.baseline
            time, _ = known_time(int(np.frombuffer(record.times, "<i8").max()))
            came = record.partition, record.next, time, record.arrivals
            changes += arrive(state, self._plan, *came, stamp)
        return changes

    def looked(self, state: VolumeState, now: datetime) -> list[VolumeChange]:
        """What it brings about that nothing came."""
        self._ask(state, now)
        idle = {partition: (now - heard).total_seconds() for partition, heard in self._heard.items()}
        return list(look(state, self._plan, idle))

    def wake_at(self, state: VolumeState, now: datetime) -> datetime | None:
        """When to look again; never where nothing ever came."""
        return now + timedelta(seconds=self._plan.wake_seconds) if state.parts else None

    def _ask(self, state: VolumeState, now: datetime) -> None:
        """After a pause in which it was not asked, silence begins now: others had the lane, or nobody."""
        paused = self._asked is None or (now - self._asked).total_seconds() > 3 * self._plan.wake_seconds
        if paused:
            self._heard = {}
        self._asked = now
        self._heard = {partition: self._heard.get(partition, now) for partition in state.parts}


def _judge_whole(state: VolumeState, plan: VolumePlan) -> Iterator[VolumeChange]:
    """All together are as far as the partition that is furthest back, but for those from which nothing comes."""
    clocks = [unit.clock for unit in state.parts.values() if not unit.idle]
    if state.whole is not None and clocks:
        yield from _judge(state.whole, plan.whole, None, min(clocks))


def _judge(unit: Unit, limits: Limits, which: int | None, clock: int) -> Iterator[VolumeChange]:
    """Judge the minutes before the last but one, as clocks of producers differ. Of several without records one is
    enough: no more comes of them."""
    until = clock - 1
    while unit.judged < until:
        minute = unit.judged
        found = unit.minutes.pop(minute, None)
        if found is None:
            later = min((number for number in unit.minutes if number < until), default=until)
            empties, found = later - minute, Minute()
            unit.judged = later
        else:
            empties, unit.judged = 1, minute + 1
        rate = found.records
        if limits.least is not None:
            within = rate >= limits.least
            yield from _stands(unit, which, "least", rate, limits.least, minute, within=within, minutes=empties)
        if limits.most is not None:
            within = rate <= limits.most
            yield from _stands(unit, which, "most", rate, limits.most, minute, within=within, minutes=empties)
        if limits.age is not None and found.events:
            age = found.age / found.events / 1000
            yield from _stands(unit, which, "age", age, limits.age, minute, within=age <= limits.age)


def _stands(
    unit: Unit,
    which: int | None,
    test: Test,
    statistic: float,
    limit: float,
    minute: int,
    *,
    within: bool,
    minutes: int = 1,
    enough: int = GOOD_MINUTES,
) -> Iterator[VolumeChange]:
    """A figure beside its limit. Begins or ends what is beyond it."""
    was = test in unit.good
    if not within:
        unit.good[test] = 0
    elif was:
        unit.good[test] += minutes
        if unit.good[test] >= enough:
            del unit.good[test]
    if (test in unit.good) != was:
        place = unit.partition, unit.offset, unit.time
        yield VolumeChange(which, test, not was, float(statistic), limit, *place, minute)


def volume_record(pipeline: str, change: VolumeChange, state: VolumeState) -> dict[str, Any]:
    """A change as schemas/drift.schema.json has it."""
    after = "drifting" if change.drifting else "stable"
    identity = f"{pipeline}\0{change.key}\0{after}\0{change.at}\0{change.offset}\0{change.minute}".encode()
    alarm, time = hashlib.blake2b(identity, digest_size=ID_BYTES).hexdigest(), instant(change.time)
    number = len(TESTS) * (-1 if change.partition is None else change.partition) + TESTS.index(change.test)
    running = Incidents(state.incidents)
    incident = running.of(number, after, change.minute, change.minute, TOGETHER, alarm, time)
    place = {"partition": change.at, "offset": change.offset, "time": time}
    ratio = change.statistic / change.threshold if change.threshold else 0.0
    return {
        "id": alarm,
        "version": ALARM_VERSION,
        "pipeline": pipeline,
        "baseline": state.baseline,
        "time": time,
        "monitor": change.key,
        "column": COLUMN,
        "segment": None if change.partition is None else {"column": "partition", "value": str(change.partition)},
        "test": change.test,
        "direction": "down" if change.test == "least" else "up",
        "before": "stable" if change.drifting else "drifting",
        "state": after,
        "statistic": change.statistic,
        "threshold": change.threshold,
        "severity": round(abs(1.0 - min(ratio, 10.0)), 4) if change.drifting else 0.0,
        "psi": 0.0,
        "onset": place,
        "window": {"from": place, "to": place, "events": None},
        "reference": None,
        "current": None,
        "changed_most": [],
        "decisions": {},
        "budget": None,
        "expected_delay": [],
        "expected_accuracy": None,
        "incident": None if incident is None else told_incident(incident, _names(incident.monitors)),
    }


def _names(numbers: Sequence[int]) -> Iterable[str]:
    for number in numbers:
        partition, test = divmod(number, len(TESTS))
        yield VolumeChange(None if partition < 0 else partition, TESTS[test], True, 0.0, 0.0, 0, 0, 0, 0).key
