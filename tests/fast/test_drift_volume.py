"""Volume: silence, too few, too many and late events, of each partition and of all together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproc.core.decide import DecideProcessor
from streamproc.core.drift.baseline import Baseline
from streamproc.core.drift.panes import read
from streamproc.core.drift.processor import TABLE, DriftProcessor
from streamproc.core.drift.view import NO_DRIFT, DriftView
from streamproc.core.drift.volume import MINUTE, Limits, VolumePlan, VolumeState, arrive, dumps, loads, look
from streamproc.core.processor import NOTHING_SEEN, Answer, Batch, Records, run
from streamproc.offline import Offline, batch_of
from tests.fast.plans import TOPIC, mean_score
from tests.fast.test_drift_decide import PANES, baseline, events, watched_plan
from tests.record_schemas import record_problems

__all__ = ["baseline"]  # a fixture
START = 29_000_000
"""A minute."""


def told(changes: Any) -> list[tuple[int | None, str, bool, float]]:
    return [(one.partition, one.test, one.drifting, one.statistic) for one in changes]


def minute(
    state: VolumeState, plan: VolumePlan, partition: int, number: int, records: int, age: int = 0, at: int | None = None
) -> Any:
    """A minute's records of a partition, all at once, counted in that minute or in another."""
    unit = state.parts.get(partition)
    offset = records + (0 if unit is None else unit.offset)
    came = (START + number, records, records, records * age)
    stamp = (START + (number if at is None else at)) * MINUTE
    return told(arrive(state, plan, partition, offset, 0, (came,), stamp))


def test_a_rate_is_judged_minute_by_minute_and_ends_after_three_good_ones() -> None:
    plan, state = VolumePlan(Limits(), Limits(least=10, most=100)), VolumeState()
    assert minute(state, plan, 0, 0, 1) == []  # it had begun before we came
    for number in range(1, 4):
        assert minute(state, plan, 0, number, 50) == []
    assert minute(state, plan, 0, 4, 9) == []  # not over yet
    assert minute(state, plan, 0, 5, 101) == []  # clocks of producers may differ
    assert minute(state, plan, 0, 6, 50) == [(0, "least", True, 9.0)]
    assert minute(state, plan, 0, 7, 50) == [(0, "most", True, 101.0)]
    assert minute(state, plan, 0, 8, 50) == []
    assert minute(state, plan, 0, 9, 50) == [(0, "least", False, 50.0)]
    assert minute(state, plan, 0, 10, 50) == [(0, "most", False, 50.0)]
    assert minute(state, plan, 0, 4, 500) == []  # long judged


def test_a_timestamp_of_the_future_counts_as_one_of_now() -> None:
    plan, state = VolumePlan(Limits(), Limits(least=10)), VolumeState()
    for number in range(3):
        assert minute(state, plan, 0, number, 50) == []
    assert minute(state, plan, 0, 100_000, 50, at=3) == []
    for number in range(4, 8):
        assert minute(state, plan, 0, number, 50) == []
    assert minute(state, plan, 0, 8, 1) == []
    assert minute(state, plan, 0, 9, 50) == []
    assert minute(state, plan, 0, 10, 50) == [(0, "least", True, 1.0)]


def test_what_was_there_before_anybody_counted_is_not_judged() -> None:
    """A backlog of one partition, and nothing yet of the others."""
    plan, state = VolumePlan(Limits(least=100), Limits(least=100)), VolumeState()
    for number in range(20):
        assert minute(state, plan, 0, number, 60, at=20) == []
    for number in range(21, 24):
        assert minute(state, plan, 1, number, 160) == []
    assert minute(state, plan, 0, 21, 160) == minute(state, plan, 0, 22, 60) == minute(state, plan, 0, 23, 60) == []
    assert minute(state, plan, 0, 24, 60) == [(0, "least", True, 60.0)]


def test_minutes_without_records_are_too_few_however_many_there_are() -> None:
    plan, state = VolumePlan(Limits(), Limits(least=10)), VolumeState()
    for number in range(3):
        assert minute(state, plan, 0, number, 50) == []
    assert minute(state, plan, 0, 10_000_000, 50) == [(0, "least", True, 0.0)]


def test_late_events_are_told() -> None:
    plan, state = VolumePlan(Limits(age=60), Limits()), VolumeState()
    changes = [minute(state, plan, 0, number, 20, age=59_000 if number < 5 else 61_000) for number in range(10)]
    assert [one for some in changes for one in some] == [(None, "age", True, 61.0)]


def test_all_together_wait_for_the_partition_that_is_furthest_back_but_not_for_a_silent_one() -> None:
    plan, state = VolumePlan(Limits(least=100), Limits()), VolumeState()
    for number in range(3):
        for partition in (0, 1):
            assert minute(state, plan, partition, number, 60) == []
    for number in range(3, 8):  # partition 1 lags behind: nobody says that there are too few
        assert minute(state, plan, 0, number, 60) == []
    for number in range(3, 8):
        assert minute(state, plan, 1, number, 60) == []
    for number in range(8, 12):
        assert minute(state, plan, 0, number, 60) == []
    assert told(look(state, plan, {0: 0.0, 1: 599.0})) == []
    assert told(look(state, plan, {0: 0.0, 1: 601.0})) == [(None, "least", True, 60.0)]


def test_silence_begins_once_and_ends_with_the_next_event() -> None:
    plan, state = VolumePlan(Limits(silence=20), Limits(silence=10)), VolumeState()
    for partition in (0, 1):
        minute(state, plan, partition, 0, 5)
    assert told(look(state, plan, {0: 10.0, 1: 10.0})) == []
    assert told(look(state, plan, {0: 1.0, 1: 11.0})) == [(1, "silence", True, 11.0)]
    assert told(look(state, plan, {0: 21.0, 1: 31.0})) == [(0, "silence", True, 21.0), (None, "silence", True, 21.0)]
    assert told(look(state, plan, {0: 31.0, 1: 41.0})) == []
    again = loads(dumps(state))
    assert minute(again, plan, 1, 0, 5) == [(1, "silence", False, 0.0), (None, "silence", False, 0.0)]
    assert again.parts[0].idle
    assert not again.parts[1].idle


def test_state_of_another_version_is_refused() -> None:
    state = VolumeState()
    state.version += 1
    with pytest.raises(ValueError, match="version"):
        loads(dumps(state))


@given(data=st.data())
def test_rates_do_not_depend_on_how_batches_are_cut(data: st.DataObject) -> None:
    """Each minute of each partition is what a plain count says, wherever its records were cut."""
    plan = VolumePlan(Limits(), Limits(least=3, most=6, age=5))
    stamps = sorted(data.draw(st.lists(st.integers(0, 20 * MINUTE), min_size=1, max_size=60)))
    ages = data.draw(st.lists(st.integers(0, 10_000), min_size=len(stamps), max_size=len(stamps)))
    cuts = sorted({0, len(stamps), *data.draw(st.lists(st.integers(1, len(stamps)), max_size=8))})

    def found(edges: Sequence[int]) -> list[Any]:
        state, changes = VolumeState(), list[Any]()
        for begin, end in pairwise(edges):
            came = defaultdict[int, list[int]](lambda: [0, 0, 0])
            for stamp, age in zip(stamps[begin:end], ages[begin:end], strict=True):
                own = came[START + stamp // MINUTE]
                own[0], own[1], own[2] = own[0] + 1, own[1] + 1, own[2] + age
            minutes = tuple((number, *own) for number, own in sorted(came.items()))
            if begin == 0:  # what was there before anybody counted is not judged
                arrive_first = (START + stamps[0] // MINUTE, 0, 0, 0)
                changes += told(arrive(state, plan, 0, 0, 0, (arrive_first,), START * MINUTE + stamps[0]))
            changes += told(arrive(state, plan, 0, end, 0, minutes, (START + 100) * MINUTE))  # type: ignore[arg-type]
        return changes

    assert found(range(len(stamps) + 1)) == found(cuts) == plain(stamps, ages)


def plain(stamps: Sequence[int], ages: Sequence[int]) -> list[Any]:
    """Too few, too many, too late, by the minute: a plain loop over everything."""
    found, bad = list[Any](), dict[str, int]()
    last = stamps[-1] // MINUTE - 1
    for number in range(stamps[0] // MINUTE + 1, last):
        own = [age for stamp, age in zip(stamps, ages, strict=True) if stamp // MINUTE == number]
        figures = {"least": len(own), "most": len(own)} | ({"age": sum(own) / len(own) / 1000} if own else {})
        limits = {"least": len(own) >= 3, "most": len(own) <= 6, "age": not own or figures["age"] <= 5}
        for test, figure in figures.items():
            if not limits[test]:
                if test not in bad:
                    found.append((0, test, True, float(figure)))
                bad[test] = 0
            elif test in bad:
                bad[test] += 1
                if bad[test] == 3:
                    del bad[test]
                    found.append((0, test, False, float(figure)))
    return found


def of_volume(baseline: Baseline, volume: VolumePlan) -> tuple[DecideProcessor, DriftProcessor]:
    plan = watched_plan()
    assert plan.drift is not None
    watching = DecideProcessor.of(replace(plan, drift=replace(plan.drift, volume=volume)), baseline=baseline)
    return watching, DriftProcessor("t", baseline, recover=20, volume=volume)


def stamped(values: list[bytes], partition: int, first: int, stamps: list[int]) -> Batch:
    count = len(values)
    offsets, times = np.arange(first, first + count), np.array(stamps, np.int64)
    records = Records(TOPIC, partition, [None] * count, list(values), [()] * count, offsets, times)
    return Batch(partition, {TOPIC: records})


def test_panes_of_another_baseline_tell_of_arrivals_too(baseline: Baseline) -> None:
    volume = VolumePlan(Limits(silence=60), Limits())
    decide, _ = of_volume(baseline, volume)
    unknown = DriftProcessor("t", replace(baseline, hash="f" * 32), recover=20, volume=volume)
    effects = Offline(decide, mean_score).process(stamped(events(10, 1), 0, 5, [7 * MINUTE] * 10))
    [value] = [value for output in effects.records if output.topic == PANES for value in output.values]
    nothing = Answer.nothing(1, "unknown")
    found = Offline(unknown, lambda ask: nothing, tables=(TABLE,)).process(batch_of(PANES, [value]))
    assert found.wake_at is not None
    assert found.counts == {("panes", "of_another_baseline"): 1}


def test_panes_tell_when_records_came_also_those_that_are_dead_letters(baseline: Baseline) -> None:
    decide, _ = of_volume(baseline, VolumePlan(Limits(silence=1), Limits()))
    batches = [stamped(events(100, 1), lane, 0, [MINUTE * 7 + 599 * n for n in range(100)]) for lane in (2, 0)]
    together = run(decide.process_lanes(batches, [None, None], NOTHING_SEEN, datetime.now(UTC)), mean_score)  # type: ignore[list-item]
    for effects, partition in zip(together, (2, 0), strict=True):
        [value] = [value for output in effects.records if output.topic == PANES for value in output.values]
        record = read(value or b"")
        assert record.partition == partition
        assert record.arrivals == ((7, 100, 99, 0),)  # one is a dead letter; without event times nothing is old
    plain_panes = DecideProcessor.of(watched_plan(), baseline=baseline)
    [effects] = run(plain_panes.process_lanes(batches[:1], [None], NOTHING_SEEN, datetime.now(UTC)), mean_score)  # type: ignore[list-item]
    [value] = [value for output in effects.records if output.topic == PANES for value in output.values]
    assert read(value or b"").arrivals == ()


def test_the_drift_agent_tells_of_silence_by_the_clock(baseline: Baseline) -> None:
    volume = VolumePlan(Limits(silence=60), Limits(silence=30))
    decide, drift = of_volume(baseline, volume)
    panes = [
        value
        for lane in (0, 1)
        for output in Offline(decide, mean_score).process(stamped(events(10, 1), lane, 5, [7 * MINUTE] * 10)).records
        if output.topic == PANES
        for value in output.values
    ]
    tables = Offline(drift, mean_score, tables=(TABLE,)).state(0)
    begin, offsets = datetime(2026, 1, 1, tzinfo=UTC), iter(range(100))

    def at(seconds: float, values: Sequence[bytes | None] = (), processor: DriftProcessor = drift) -> list[Any]:
        now = begin + timedelta(seconds=seconds)
        steps = (
            processor.process(batch_of(PANES, list(values), first_offset=next(offsets)), tables, NOTHING_SEEN, now)
            if values
            else processor.tick(tables, NOTHING_SEEN, now)
        )
        effects = run(steps, mean_score)
        tables.apply(effects.state)
        assert effects.wake_at == (now + timedelta(seconds=6) if next(tables.items(TABLE), None) else None)
        found = list[Any]()
        for output in effects.records:
            for value, headers in zip(output.values, output.headers, strict=True):
                assert record_problems(value, headers) == []
                if output.topic == "t.drift":
                    one = orjson.loads(value or b"")
                    found.append((one["monitor"], one["state"], one["incident"]["alarmed"]))
                else:
                    assert DriftView.of([orjson.loads(value or b"")], baseline.hash) == NO_DRIFT
        return found

    assert at(0) == []
    assert at(6, panes) == []
    for seconds in range(12, 36, 6):
        assert at(seconds) == []
    assert at(36, panes[:1]) == []
    assert at(37) == [("volume/silence [partition = 1]", "drifting", 1)]
    for seconds in range(42, 66, 6):
        assert at(seconds) == []
    assert at(67) == [("volume/silence [partition = 0]", "drifting", 2)]
    for seconds in range(72, 96, 6):
        assert at(seconds) == []
    assert at(97) == [("volume/silence", "drifting", 3)]
    later = DriftProcessor("t", baseline, recover=20, volume=volume)  # it does not know for how long it has been
    assert at(1_000, processor=later) == []
    assert at(1_006, panes[1:], processor=later) == [
        ("volume/silence [partition = 1]", "stable", 3),
        ("volume/silence", "stable", 3),
    ]
