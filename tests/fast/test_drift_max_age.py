"""Windows that are not full when they are too old: judged by what they have, wherever batches were cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.core.decide.drift import _not_of_the_future
from streamproc.core.drift.alarms import Incidents, monitor_key
from streamproc.core.drift.baseline import EVERYTHING, PANE, Baseline, Rare, hashed, loads
from streamproc.core.drift.calibrate import Reference, calibrate
from streamproc.core.drift.detector import Change, Detector, Place
from streamproc.core.drift.kept import Kept, changes, keys, restore
from streamproc.core.drift.panes import Counted, Panes, count
from streamproc.core.drift.states import DetectorState
from streamproc.core.drift.tests import FEWEST, Tests
from streamproc.core.drift.windows import ENOUGH

SECOND = 1_000_000
DAY = 86_400 * SECOND
MAX_AGE = timedelta(minutes=30)
RARE = 0.03
"""Of the events are in the segment b: a second each, so 64 of them take 35 minutes."""


def sample(seed: int, n: int, shift: float = 0.0, rare: float = RARE) -> pl.DataFrame:
    """``shift`` moves the amounts of b."""
    rng = np.random.default_rng(seed)
    kinds = np.where(rng.random(n) < rare, "b", "a")
    return pl.DataFrame({"amount": rng.normal(0.0, 1.0, n) + shift * (kinds == "b"), "kind": kinds})


def calibrated(max_age: timedelta | None) -> Baseline:
    frame = sample(1, 60_000)
    times = np.arange(len(frame)) * SECOND
    return calibrate(Reference(frame, ("amount",), ("kind",), times=times, max_age=max_age), 1e6)


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    return calibrated(MAX_AGE)


def cut(detector: Detector, frame: pl.DataFrame, times: np.ndarray, cuts: Sequence[int] = ()) -> list[Panes]:
    edges = [0, *sorted({at for at in cuts if 0 < at < len(frame)}), len(frame)]
    parts = list[Panes]()
    for a, b in pairwise(edges):
        batch = Counted(np.zeros(b - a, np.int64), np.arange(a, b), times[a:b], np.arange(b - a), frame[a:b])
        parts += count(detector.layout, batch)
    return parts


def seconds(n: int) -> np.ndarray:
    return np.arange(n) * SECOND


def told(detector: Detector, found: Sequence[Change]) -> list[str]:
    monitors = detector.baseline.monitors
    return [f"{monitor_key(detector.baseline, monitors[one.monitor])} {one}" for one in found]


def test_a_shift_in_a_rare_segment_is_seen_sooner(baseline: Baseline) -> None:
    frame = pl.concat([sample(2, 30_000), sample(3, 60_000, shift=1.0)])
    delays = list[int]()
    for one in (baseline, calibrated(None)):
        detector = Detector(one)
        found = detector.take(DetectorState(), *cut(detector, frame, seconds(len(frame))))
        alarms = [change for change in found if change.after == "drifting"]
        assert all(one.monitors[change.monitor].row != EVERYTHING for change in alarms)
        delays.append(min(change.end.offset for change in alarms) - 30_000)
    assert 0 < delays[0] < delays[1]


def test_without_an_age_nothing_is_thin() -> None:
    detector = Detector(calibrated(None))
    detector.take(DetectorState(), *cut(detector, sample(2, 20_000), seconds(20_000)))
    assert detector.judged["thin"] == detector.judged["insufficient"] == 0
    assert "max_age" not in detector.baseline.dumps().decode()


def test_too_few_events_are_not_judged_by_their_mean(baseline: Baseline) -> None:
    detector, state = Detector(baseline), DetectorState()
    detector.take(state, *cut(detector, sample(2, 20_000, shift=9.0, rare=0.0005), seconds(20_000)))  # one at a time
    assert detector.judged["insufficient"] > 0
    row = next(1 + n for n, segment in enumerate(baseline.segments) if segment.value == "b")
    for length, window in state.rows[row].windows.items():
        for side, cusum in zip(detector.tests[row][length].sides, window.cusum.tolist(), strict=True):
            fit = baseline.monitors[side.monitor].fit
            assert cusum == 0.0 or isinstance(fit, Rare)  # a likelihood ratio takes events one by one
    assert any(window.cusum.any() for window in state.rows[row].windows.values())


def test_a_window_grows_too_old_also_where_nothing_more_comes_for_it(baseline: Baseline) -> None:
    """Ten events of b in the first pane, far from normal, and never one again."""
    quiet = sample(4, 6_000, rare=0.0).with_columns(
        amount=pl.when(pl.int_range(6_000) < 10).then(4.0).otherwise(pl.col("amount")),
        kind=pl.when(pl.int_range(6_000) < 10).then(pl.lit("b")).otherwise(pl.lit("a")),
    )
    ends = list[tuple[int, int]]()

    def trace(tests: Tests, statistic: np.ndarray, place: Place) -> None:
        if baseline.monitors[tests.sides[0].monitor].row == row:
            ends.append((place.offset, int((statistic > 0).sum())))

    row = next(1 + n for n, segment in enumerate(baseline.segments) if segment.value == "b")
    detector = Detector(baseline, trace=trace)
    detector.take(DetectorState(), *cut(detector, quiet, seconds(len(quiet)), range(0, 6_000, 500)))
    first_pane = (PANE - 1) * SECOND
    late = next(at for at in range(0, 6_000, PANE) if (at + PANE - 1) * SECOND > first_pane + 1800 * SECOND)
    assert {offset for offset, _ in ends} == {late}
    assert any(above for _, above in ends)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(1, 8_999), max_size=10), st.integers(0, 2**31))
def test_changes_depend_neither_on_batches_nor_on_restarts(baseline: Baseline, cuts: list[int], seed: int) -> None:
    lively = hashed(replace(baseline, thresholds=replace(baseline.thresholds, cusum=1.0, ratio=1.0)))
    rng = np.random.default_rng(seed)
    frame = sample(seed, 9_000, shift=0.5)
    times = (
        np.cumsum(rng.exponential(1.0, 9_000) * np.where(rng.random(9_000) < 0.001, 4_000, 1)).astype(np.int64) * SECOND
    )
    times += rng.integers(-600, 1, 9_000) * SECOND  # out of order
    detector = Detector(lively)
    expected = told(detector, detector.take(DetectorState(), *cut(detector, frame, times)))
    assert expected
    found, values = list[str](), dict[bytes, bytes | None]()
    for part in cut(detector, frame, times, cuts):
        kept, again = Kept(DetectorState(), Incidents()), Detector(loads(lively.dumps()))
        restore(again, kept, {key: values.get(key) for key in keys(again, [0])})
        found += told(again, again.take(kept.state, part))
        values |= changes(again, kept, [0])
    assert found == expected


@pytest.mark.parametrize("seed", range(12))
def test_pane_by_pane_is_as_all_at_once(baseline: Baseline, seed: int) -> None:
    """Between any two panes a batch may end, and there a window may grow too old."""
    lively = hashed(replace(baseline, thresholds=replace(baseline.thresholds, cusum=0.5, ratio=0.5)))
    rng = np.random.default_rng(seed)
    frame = sample(seed, 64 * 60, shift=0.5, rare=0.3)
    times = np.cumsum(np.where(rng.random(len(frame)) < 0.02, 1_000, 1)).astype(np.int64) * SECOND
    detector, state = Detector(lively), DetectorState()
    expected = told(detector, detector.take(DetectorState(), *cut(detector, frame, times)))
    found = [
        one for part in cut(detector, frame, times, range(0, len(frame), PANE)) for one in detector.take(state, part)
    ]
    assert told(detector, found) == expected
    assert detector.judged["thin"] > 0


def test_an_event_of_the_future_does_not_stop_windows_from_growing_old(baseline: Baseline) -> None:
    """Its time is that of its record where it is days ahead; a dead letter's says nothing of events."""
    assert _not_of_the_future(np.array([5 * DAY, 1]), np.array([DAY, DAY])).tolist() == [DAY, 1]
    assert _not_of_the_future(np.array([5 * DAY]), np.array([0])).tolist() == [5 * DAY]  # a file has no timestamps
    frame, times = sample(2, 20_000), seconds(20_000)
    judged = list[dict[str, int]]()
    for odd in (None, 100):
        detector, state = Detector(baseline), DetectorState()
        own, events = times.copy(), np.arange(20_000)
        if odd is not None:
            own[odd] = 4_000_000_000 * SECOND  # a dead letter that came much later than events are old
            events = np.delete(events, odd)
        columns = frame[events.tolist()]
        batch = Counted(np.zeros(20_000, np.int64), np.arange(20_000), own, events, columns)
        for part in count(detector.layout, batch):
            detector.take(state, part)
        judged.append(dict(detector.judged))
    assert abs(judged[0]["thin"] - judged[1]["thin"]) <= 1
    assert judged[0]["thin"] > 1


def test_windows_are_those_of_a_plain_loop(baseline: Baseline) -> None:
    """Of each row and length: how many windows are full, thin and insufficient, event by event."""
    frame, n = sample(6, 12_000, rare=0.005), 12_000
    times = seconds(n) + (np.arange(n) > 7_000) * 7_200 * SECOND  # two hours without any
    detector = Detector(baseline)
    detector.take(DetectorState(), *cut(detector, frame, times))
    expected = {"full": 0, "thin": 0, "insufficient": 0}
    limit = int(MAX_AGE.total_seconds()) * SECOND
    rows = [np.ones(n, np.bool_), *((frame["kind"] == segment.value).to_numpy() for segment in baseline.segments)]
    for row, by_length in detector.tests.items():
        for length in by_length:
            held, since = 0, 0
            for begin in range(0, n - n % PANE, PANE):
                clock, came = int(times[begin + PANE - 1]), int(rows[row][begin : begin + PANE].sum())
                if held and clock > since + limit:
                    expected["thin" if held >= FEWEST else "insufficient"] += 1
                    held = 0
                if came:
                    since = since if held else clock
                    held += came
                    if held >= ENOUGH * length.events:
                        expected["full"] += 1
                        held = 0
    assert detector.judged == expected
    assert all(expected.values())


def test_an_age_needs_times_and_costs_looks() -> None:
    frame = sample(1, 20_000)
    with pytest.raises(ValueError, match="no times"):
        calibrate(Reference(frame, ("amount",), ("kind",), max_age=MAX_AGE), 1e6)
    assert calibrated(MAX_AGE).thresholds.looks > calibrated(None).thresholds.looks
    assert loads(calibrated(MAX_AGE).dumps()).max_age == int(MAX_AGE.total_seconds()) * SECOND
