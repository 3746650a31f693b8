"""A declared season: its rhythm is normal, and what comes on top of it is seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import numpy as np
import orjson
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.core.drift.alarms import Incidents, alarm_record
from streamproc.core.drift.baseline import EVERYTHING, PANE, Baseline, Linear, Monitor, Rare, Shape, loads
from streamproc.core.drift.bins import make_bins
from streamproc.core.drift.calibrate import Reference, calibrate
from streamproc.core.drift.detector import Change, Detector
from streamproc.core.drift.kept import Kept, changes, keys, restore
from streamproc.core.drift.panes import Counted, Layout, Panes, count
from streamproc.core.drift.season import COEFFICIENTS, Regression, RowSeason, phase, phases_of
from streamproc.core.drift.states import DetectorState
from streamproc.core.drift.tests import Tests, wilson_hilferty
from tests.record_schemas import problems

SECOND = 1_000_000
DAY = 4_000
"""Events in a day of the stream, a second apart."""
PERIOD = DAY * SECOND
SEASON = timedelta(seconds=DAY)
ALARM = 1e6


def daily(rng: np.random.Generator, first: int, n: int, shift: float = 0.0) -> pl.DataFrame:
    """The mean of ``amount`` swings by a standard deviation, the share of ``a`` by .2, that of missing values by .1."""
    swing = np.sin(2 * np.pi * np.arange(first, first + n) / DAY)
    common = rng.random(n) < 0.3 + 0.2 * swing
    return pl.DataFrame(
        {
            "amount": rng.normal(swing + shift, 1.0, n),
            "kind": np.where(common, "a", rng.choice(["b", "c"], n)),
            "wait": np.where(rng.random(n) < 0.15 - 0.1 * swing, np.nan, rng.exponential(1.0, n)),
        }
    )


def times_of(first: int, n: int) -> np.ndarray:
    return np.arange(first, first + n) * SECOND


def learned(frame: pl.DataFrame, season: timedelta | None, segments: Sequence[str] = ()) -> Baseline:
    letters = {"dead_letters": pl.Series(["accepted"] * len(frame))}
    times = times_of(0, len(frame))
    return calibrate(Reference(frame, frame.columns, segments, letters, times=times, season=season), ALARM)


def counted(frame: pl.DataFrame, first: int) -> Counted:
    n, letters = len(frame), {"dead_letters": pl.Series(["accepted"] * len(frame))}
    offsets = np.arange(first, first + n)
    return Counted(np.zeros(n, np.int64), offsets, times_of(first, n), np.arange(n), frame, letters)


def alarms(baseline: Baseline, frame: pl.DataFrame) -> list[tuple[Monitor, Change]]:
    detector, state = Detector(baseline), DetectorState()
    [part] = count(detector.layout, counted(frame, 0))
    return [(baseline.monitors[c.monitor], c) for c in detector.take(state, part) if c.after == "drifting"]


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    return learned(daily(np.random.default_rng(1), 0, 4 * DAY), SEASON, ("kind",))


def test_a_rhythm_that_is_declared_is_normal(baseline: Baseline) -> None:
    assert not [monitor.off for monitor in baseline.monitors if monitor.fit is None and monitor.row == EVERYTHING]
    for seed in (2, 3):
        assert len(alarms(baseline, daily(np.random.default_rng(seed), 0, 30 * DAY))) <= 1


def test_a_rhythm_that_is_not_declared_alarms_or_hides_what_comes() -> None:
    """A reference of half a day alarms every day; one that covers days takes their rhythm for how it is: blurred."""
    rng = np.random.default_rng(1)
    half, whole = daily(rng, 0, DAY // 2), daily(rng, 0, 4 * DAY)
    stream = daily(np.random.default_rng(2), 0, 30 * DAY)
    found = alarms(learned(half, None), stream)
    assert len(found) >= 30
    shifted = daily(np.random.default_rng(3), 0, 5 * DAY, shift=0.5)
    assert not [m for m, _ in alarms(learned(whole, None), shifted) if m.test == "location"]


@pytest.mark.parametrize(("shift", "most"), [(0.5, 512), (1.0, 256)])
@pytest.mark.parametrize("quarter", range(4))
def test_a_shift_on_top_of_the_rhythm_is_seen_in_every_phase(
    baseline: Baseline, shift: float, most: int, quarter: int
) -> None:
    change_at = 2 * DAY + quarter * DAY // 4
    rng = np.random.default_rng(4 + quarter)
    before, after = daily(rng, 0, change_at), daily(rng, change_at, DAY, shift)
    found = alarms(baseline, pl.concat([before, after]))
    assert not [change for _, change in found if change.end.offset + PANE <= change_at]
    location = next(change for monitor, change in found if monitor.test == "location" and monitor.row == EVERYTHING)
    assert location.direction == "up"
    assert location.end.offset + PANE - change_at <= most


def test_a_share_that_moves_against_the_rhythm_is_seen(baseline: Baseline) -> None:
    rng = np.random.default_rng(5)
    frame = daily(rng, 0, 4 * DAY)
    moved = frame["kind"].to_numpy().copy()
    moved[2 * DAY :] = np.where(rng.random(2 * DAY) < 0.2, "b", moved[2 * DAY :])
    found = alarms(baseline, frame.with_columns(pl.Series("kind", moved)))
    first = found[0][1].end.offset
    assert 2 * DAY <= first <= 2 * DAY + 700
    assert "share:b" in {monitor.test for monitor, _ in found}


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_the_waves_are_least_squares_of_each_bin(seed: int, uneven: bool) -> None:
    rng = np.random.default_rng(seed)
    n, size = 600, 5
    times = np.sort(rng.beta(2, 5, n) if uneven else rng.random(n))
    codes = rng.integers(0, size - 1, n)  # the last bin stays empty
    phases = np.array([phase(int(t * PERIOD), int(t * PERIOD), PERIOD) for t in times])
    waves = Regression.of(phases).waves(codes, size)
    for place in range(size):
        hits = (codes == place).astype(float)
        plain, *_ = np.linalg.lstsq(phases, hits, rcond=None)
        plain[0] -= hits.mean()
        assert phases @ waves[:, place] == pytest.approx(phases @ plain, abs=1e-6 if not uneven else 0.05)
    assert waves.sum(axis=1) == pytest.approx(0, abs=1e-8)
    assert (phases @ waves).mean(axis=0) == pytest.approx(0, abs=1e-8)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 10**10)), min_size=1, max_size=9))
def test_deviations_are_those_of_a_plain_loop_and_of_each_window_alone(windows: list[tuple[int, int]]) -> None:
    waves = np.random.default_rng(7).normal(0, 0.1, (COEFFICIENTS, 6))
    season = RowSeason(PERIOD, waves)
    spans = [(begin, begin + width) for begin, width in windows]
    found = season.deviations(spans)
    for (begin, end), row in zip(spans, found, strict=True):
        assert season.deviations([(begin, end)])[0].tolist() == row.tolist()
        own = phase(begin, end, PERIOD)
        assert row == pytest.approx([sum(own[k] * waves[k, j] for k in range(COEFFICIENTS)) for j in range(6)])


@pytest.mark.parametrize("width", [0, PERIOD // 7, PERIOD, 3 * PERIOD // 2])
def test_a_wide_window_has_the_mean_of_its_phases(width: int) -> None:
    begin = 12_345 * SECOND
    at = np.linspace(begin, begin + width, 20_001)
    angle = 2 * np.pi * at / PERIOD
    plain = [1.0, *(f(h * angle).mean() for h in (1, 2) for f in (np.cos, np.sin))]
    assert phase(begin, begin + width, PERIOD) == pytest.approx(plain, abs=1e-3)


def test_a_season_costs_a_wider_dead_band(baseline: Baseline) -> None:
    without = learned(daily(np.random.default_rng(1), 0, 4 * DAY).select("kind"), None)
    for monitor in baseline.monitors:
        if monitor.test == "missing" and monitor.column == "wait" and monitor.row == EVERYTHING:
            assert isinstance(monitor.fit, Linear)
            m = 4 * DAY // monitor.window
            assert monitor.fit.allowance == pytest.approx(0.5 + COEFFICIENTS * baseline.thresholds.height / m)
    letters = next(m for m in baseline.monitors if m.column == "dead_letters" and m.test == "missing")
    assert letters.fit == next(m for m in without.monitors if m.column == "dead_letters" and m.test == "missing").fit


def test_what_is_rare_is_as_normal_as_in_its_busiest_phase(baseline: Baseline) -> None:
    [tail] = [m.fit for m in baseline.monitors if (m.column, m.row, m.test) == ("amount", EVERYTHING, "tail_1")]
    assert isinstance(tail, Rare)
    busiest = math.erfc((2.95 - 1) / math.sqrt(2)) / 2  # the 99 % quantile lies at about 2.95, the mean at most at 1
    assert 0.7 * busiest < tail.p0 < 2 * busiest


def test_a_time_of_day_without_events_does_no_harm() -> None:
    """Open eight hours a day: the harmonics are not told apart there, and what cannot be seen is left out."""
    rng, n = np.random.default_rng(8), 5 * DAY
    day, within = np.divmod(np.arange(n), DAY)
    times = (day * PERIOD + PERIOD // 3 + within * (PERIOD // DAY) // 3).astype(np.int64)
    swing = np.sin(np.pi * within / DAY)
    frame = pl.DataFrame({"x": rng.normal(2 * swing, 1.0)})
    made = calibrate(Reference(frame, ("x",), times=times, season=SEASON), ALARM)
    detector, state = Detector(made), DetectorState()
    again = pl.DataFrame({"x": rng.normal(2 * swing, 1.0)})
    [part] = count(detector.layout, Counted(np.zeros(n, np.int64), np.arange(n), times, np.arange(n), again))
    assert not [change for change in detector.take(state, part) if change.after == "drifting"]


def test_a_reference_must_cover_two_periods_with_enough_events() -> None:
    frame = daily(np.random.default_rng(1), 0, 2 * DAY)
    assert learned(frame, SEASON).season is not None
    with pytest.raises(ValueError, match=r"covers 1\.9 periods of the season, and 2 are needed"):
        learned(frame[: DAY * 19 // 10], SEASON)
    with pytest.raises(ValueError, match="1,000 events in a period of the season, and 1,280 are needed"):
        learned(frame, SEASON / 4)
    with pytest.raises(ValueError, match="no times"):
        calibrate(Reference(frame, ("kind",), season=SEASON), ALARM)
    assert phases_of(times_of(0, 2 * DAY), SEASON, PANE).shape == (2 * DAY, COEFFICIENTS)


def test_a_baseline_keeps_its_season_and_has_none_of_it_without(baseline: Baseline) -> None:
    assert baseline.season is not None and baseline.season.period == PERIOD
    assert set(baseline.season.waves) == {"amount", "kind", "wait"}  # of dead letters no times are known in a file
    again = loads(baseline.dumps())
    assert again.season == baseline.season and again.dumps() == baseline.dumps()
    frame = daily(np.random.default_rng(1), 0, 2 * DAY)
    times = times_of(0, len(frame))
    plain = calibrate(Reference(frame, ("kind",)), ALARM)
    assert calibrate(Reference(frame, ("kind",), times=times), ALARM).hash == plain.hash
    assert not {"season", "accuracies"} & set(orjson.loads(plain.dumps()))


def cut(detector: Detector, frame: pl.DataFrame, cuts: Sequence[int]) -> list[Panes]:
    edges = [0, *sorted(cuts), len(frame)]
    return [part for a, b in pairwise(edges) if a < b for part in count(detector.layout, counted(frame[a:b], a))]


def told(found: Sequence[Change]) -> list[str]:
    return [f"{one.monitor} {one.after} {one.statistic!r} {one.onset} {one.end} {one.recent.tolist()}" for one in found]


@settings(deadline=None, max_examples=8)
@given(st.lists(st.integers(1, 3 * DAY - 1), max_size=20, unique=True))
def test_changes_depend_neither_on_batches_nor_on_restarts(baseline: Baseline, cuts: list[int]) -> None:
    rng, detector = np.random.default_rng(9), Detector(baseline, recover=5)
    frame = pl.concat([daily(rng, 0, DAY), daily(rng, DAY, DAY, 1.0), daily(rng, 2 * DAY, DAY)])
    undisturbed = [change for part in cut(detector, frame, []) for change in detector.take(DetectorState(), part)]
    table, found = dict[bytes, bytes | None](), list[Change]()
    for part in cut(detector, frame, cuts):
        kept = Kept(DetectorState(), Incidents())
        restore(detector, kept, {key: table.get(key) for key in keys(detector, [0])})
        found += detector.take(kept.state, part)
        table |= changes(detector, kept, [0])
    assert undisturbed
    assert told(found) == told(undisturbed)


def test_severity_is_of_what_comes_on_top(baseline: Baseline) -> None:
    """At noon the rhythm alone moves the mean by 1 sd: that is in ``current``, and not in the severity."""
    rng, detector = np.random.default_rng(10), Detector(baseline)
    noon = 2 * DAY + DAY // 4
    frame = pl.concat([daily(rng, 0, noon), daily(rng, noon, DAY // 8, 0.5)])
    [part] = count(detector.layout, counted(frame, 0))
    found = detector.take(DetectorState(), part)
    change = next(c for c in found if baseline.monitors[c.monitor].test == "location" and c.after == "drifting")
    record = alarm_record("t", detector, change, Incidents())
    assert problems("drift", record) == []
    raw = alarm_record("t", Detector(replace(baseline, season=None)), change, Incidents())
    assert raw["current"] == record["current"]
    assert record["severity"] < 0.6 * raw["severity"]


def test_segments_have_waves_of_their_own(baseline: Baseline) -> None:
    assert baseline.season is not None
    names = [baseline.row_name(row) for row in range(baseline.rows)]
    amount = make_bins("amount", daily(np.random.default_rng(1), 0, 4 * DAY)["amount"])
    assert not isinstance(amount, str)
    for row, waves in enumerate(baseline.season.waves["amount"]):
        assert np.array(waves).shape == (COEFFICIENTS, amount.size), names[row]


def test_steps_are_those_of_a_plain_loop(baseline: Baseline) -> None:
    """Of linear tests and of shapes, with deviations that are the windows' own."""
    layout = Layout.of(baseline)
    rng = np.random.default_rng(11)
    counts = rng.integers(0, 40, (5, layout.width))
    deviations = rng.normal(0, 0.02, (5, layout.width))
    for column in layout.bins:  # they sum to zero, as shares sum to one
        deviations[:, layout.inside(column.name)] -= deviations[:, layout.inside(column.name)].mean(axis=1)[:, None]
    its = [(n, m) for n, m in enumerate(baseline.monitors) if m.row == EVERYTHING and isinstance(m.fit, Linear | Shape)]
    tests = Tests(layout, its, baseline.thresholds)
    found = tests.steps(counts, deviations)
    for side, own in zip(tests.sides, found.T, strict=True):
        monitor = baseline.monitors[side.monitor]
        inside = layout.inside(monitor.column)
        for window, step in enumerate(own):
            raw = counts[window, inside].tolist()
            away = [sum(raw) * one for one in deviations[window, inside].tolist()]
            left = [count - one for count, one in zip(raw, away, strict=True)]
            fit = monitor.fit
            if isinstance(fit, Linear):
                n = sum(raw) if fit.of_all else sum(raw[:-1])
                mean = sum(w * one for w, one in zip(fit.weights, left, strict=True)) / n
                z = mean / fit.sd * math.sqrt(min(n / fit.size, 1.0))
                assert step == pytest.approx((-z if side.direction == "down" else z) - fit.allowance)
            else:
                assert isinstance(fit, Shape)
                distance, ends = 0.0, (*fit.starts[1:], len(raw) - 1)
                for begin, end, share in zip(fit.starts, ends, fit.shares, strict=True):
                    expected = share * sum(left[:-1])
                    varies = max(expected + sum(away[begin:end]), expected / 4)
                    distance += (sum(left[begin:end]) - expected) ** 2 / varies
                z = (float(wilson_hilferty(np.array(distance / fit.shrink), fit.df)) - fit.mean) / fit.sd
                assert step == pytest.approx(z - fit.allowance if sum(raw[:-1]) >= fit.size / 2 else 0.0)
