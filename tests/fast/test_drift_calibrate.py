"""Baselines of columns as they come: plain, odd, and impossible."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from streamproc.core.drift.baseline import EVERYTHING, Baseline, Linear, Monitor, loads
from streamproc.core.drift.bins import MOST_KNOWN, CategoricalBins, NumericBins, make_bins, merged
from streamproc.core.drift.budget import run_length, thresholds
from streamproc.core.drift.calibrate import Reference, bin_scores, calibrate
from streamproc.core.drift.dependence import long_run
from streamproc.core.drift.detector import Change, Detector
from streamproc.core.drift.fits import SLOW, theta
from streamproc.core.drift.panes import Counted, count
from streamproc.core.drift.states import DetectorState
from streamproc.core.drift.tests import wilson_hilferty

N = 4_000
ALARM = 1e6


def baseline_of(column: pl.Series) -> Baseline:
    return calibrate(Reference(column.alias("x").to_frame(), ("x",)), ALARM)


def names_of(baseline: Baseline) -> set[str]:
    return {monitor.test for monitor in baseline.monitors if monitor.fit is not None}


def watch(baseline: Baseline, column: pl.Series) -> list[tuple[Monitor, Change]]:
    """The alarms that these values raise."""
    detector, n = Detector(baseline), len(column)
    offsets = np.arange(n)
    [part] = count(
        detector.layout, Counted(np.zeros(n, np.int64), offsets, offsets, offsets, column.alias("x").to_frame())
    )
    changes = detector.take(DetectorState(), part)
    return [(baseline.monitors[one.monitor], one) for one in changes if one.after == "drifting"]


def normal(seed: int, n: int = N) -> pl.Series:
    return pl.Series(np.random.default_rng(seed).standard_normal(n))


ODD = {
    "constant": pl.Series([7.0] * N),
    "all null": pl.Series([None] * N, dtype=pl.Float64),
    "tiny": normal(1) * 1e-300,
    "huge": normal(2) * 1e300,
    "with infinities": pl.Series([math.inf if n % 50 == 0 else float(n % 97) for n in range(N)]),
    "beyond 2^53": pl.Series([2**53 + n % 1000 for n in range(N)], dtype=pl.Int64),
    "the least number there is": pl.Series([-1.7976931348623157e308, *map(float, range(N - 1))]),
    "truth values": pl.Series([n % 3 == 0 for n in range(N)]),
    "a lone value": pl.Series([None] * (N - 1) + [1.0]),
    "mostly missing": pl.Series([float(n % 89) if n % 10 == 0 else None for n in range(N)]),
    "10,000 categories": pl.Series([f"c{n % 10_000}" for n in range(40_000)]),
    "times": pl.Series([n * 1000 % 86_400_000 for n in range(N)]).cast(pl.Datetime("ms", "UTC")),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_columns_are_watched_or_said_to_be_not(name: str) -> None:
    column = ODD[name]
    baseline = baseline_of(column)
    assert baseline.bins or baseline.unwatched["x"]
    assert loads(baseline.dumps()).hash == baseline.hash
    assert all(monitor.off for monitor in baseline.monitors if monitor.fit is None)
    shuffled = column.sample(fraction=1.0, shuffle=True, seed=3)
    assert watch(baseline, shuffled) == []


def test_a_constant_alarms_only_for_what_was_never_seen() -> None:
    baseline = baseline_of(ODD["constant"])
    assert names_of(baseline) == {"other", "unseen", "missing"}
    alarms = watch(baseline, pl.Series([7.0] * 500 + [8.0] * 500))
    assert [monitor.test for monitor, _ in alarms] == ["unseen"]


def test_a_column_that_was_never_there_alarms_when_it_comes() -> None:
    alarms = watch(baseline_of(ODD["all null"]), pl.Series([None] * 500 + [1.0] * 500, dtype=pl.Float64))
    assert [monitor.test for monitor, _ in alarms] == ["unseen"]


def test_whole_numbers_are_the_same_categories_as_floats_and_integers() -> None:
    codes = make_bins("x", pl.Series([1.0, 2.0, 2.0]))
    assert isinstance(codes, CategoricalBins)
    assert codes.categories == ("2", "1")
    assert codes.codes(pl.Series([1, 2, 3])).tolist() == [1, 0, 3]
    assert codes.codes(pl.Series([1.0, None, math.nan])).tolist() == [1, 4, 4]


def test_the_name_of_a_number_does_not_depend_on_what_stands_beside_it() -> None:
    made = make_bins("x", pl.Series([0.0, 0.5, 1.0] * 100))
    assert isinstance(made, CategoricalBins)
    assert set(made.categories) == {"0", "0.5", "1"}
    whole = made.codes(pl.Series([0.0, 1.0, 0.5, math.inf, -0.0])).tolist()
    assert [made.codes(pl.Series([value])).tolist()[0] for value in (0.0, 1.0, 0.5, math.inf, -0.0)] == whole
    assert whole[0] == whole[4]


def test_keys_are_not_watched() -> None:
    found = make_bins("x", pl.Series([f"id-{n}" for n in range(N)]))
    assert isinstance(found, str) and "looks like a key" in found
    assert isinstance(make_bins("x", pl.Series([f"v{n % (MOST_KNOWN + 1)}" for n in range(50_000)])), str)
    assert isinstance(make_bins("x", pl.Series([[1], [2]])), str)


def test_numbers_fall_into_the_bins_that_a_plain_loop_finds() -> None:
    column = normal(5, 1000)
    bins = make_bins("x", column)
    assert isinstance(bins, NumericBins)
    values = [*column.to_list(), -math.inf, math.inf, -9.0, 9.0, *bins.edges.tolist()]
    plain = [sum(edge < value for edge in bins.edges.tolist()) for value in values]
    assert bins.codes(pl.Series(values)).tolist() == plain
    assert bins.codes(pl.Series([math.nan, None])).tolist() == [bins.size - 1] * 2
    assert 0 not in bins.codes(column) and bins.size - 2 not in bins.codes(column)


def test_scores_of_bins_have_mean_0_variance_1_and_do_not_correlate() -> None:
    shares = np.array([0.0, 0.05, 0.2, 0.5, 0.2, 0.05, 0.0])
    location, spread = bin_scores(shares)
    for score in (location, spread):
        assert abs(shares @ score[:-1]) < 1e-12
        assert abs(shares @ score[:-1] ** 2 - 1) < 1e-12
    assert abs(shares @ (location[:-1] * spread[:-1])) < 1e-12


@pytest.mark.parametrize(("rho", "tau"), [(0.0, 1.0), (0.5, 3.0), (0.9, 19.0)])
def test_dependence_is_that_of_an_autoregression(rho: float, tau: float) -> None:
    rng, series = np.random.default_rng(4), np.zeros(40_000)
    noise = rng.standard_normal(len(series))
    for n in range(1, len(series)):
        series[n] = rho * series[n - 1] + noise[n]
    assert long_run(series).tau == pytest.approx(tau, rel=0.12)


def test_windows_grow_with_dependence_and_what_is_too_slow_is_off() -> None:
    rng = np.random.default_rng(8)
    for rho, most in ((0.9, 1024), (0.9995, None)):
        series = np.zeros(20_000)
        noise = rng.standard_normal(len(series))
        for n in range(1, len(series)):
            series[n] = rho * series[n - 1] + noise[n]
        baseline = baseline_of(pl.Series(series))
        [location] = [monitor for monitor in baseline.monitors if monitor.test == "location"]
        if most is None:
            assert location.off == SLOW
        else:
            assert 64 < location.window <= most


def test_what_wanders_is_said_to() -> None:
    rng = np.random.default_rng(12)
    slow = np.cumsum(rng.standard_normal(40_000)) / 60
    baseline = baseline_of(pl.Series(slow - slow.mean() + 3 * rng.standard_normal(len(slow))))
    assert any("wanders" in monitor.note or monitor.off == SLOW for monitor in baseline.monitors)
    steady = baseline_of(normal(13, 40_000))
    assert not any(monitor.note or monitor.off for monitor in steady.monitors)


def test_a_short_reference_is_said_to_be_short() -> None:
    baseline = baseline_of(normal(3, 500))
    assert {monitor.off for monitor in baseline.monitors if monitor.test == "location"} == {
        "the reference has 500 events of it, and 768 are needed"
    }


def test_a_threshold_is_where_siegmund_has_it() -> None:
    found = thresholds(20_000.0)
    assert found.cusum == pytest.approx(8.05, abs=0.1)  # two-sided, an ARL of 10,000 with k = .5
    assert run_length(0.0, 0.5, found.cusum) == pytest.approx(20_000, rel=1e-6)
    assert run_length(1.0, 0.5, 4.0) == pytest.approx(8.38, rel=0.02)  # Lucas and Crosier 1982


def test_skew_lowers_theta_and_never_raises_it() -> None:
    assert theta(0.0) == theta(-1.0) == 1.0
    assert 0.5 < theta(1.0) < theta(0.3) < 1.0
    for skew in (0.2, 1.0):
        found = theta(skew)
        assert found / 2 + skew * found**2 / 6 == pytest.approx(0.5)


def test_a_chi_squared_distance_becomes_a_normal() -> None:
    rng = np.random.default_rng(2)
    z = wilson_hilferty(rng.chisquare(9, 200_000), 9.0)
    assert (z.mean(), z.std()) == (pytest.approx(0, abs=0.02), pytest.approx(1, abs=0.02))


def test_merged_bins_expect_enough() -> None:
    shares = np.array([0.001] * 30 + [0.07] * 10 + [0.27])
    starts = merged(shares, 256)
    sums = np.add.reduceat(shares, starts)
    assert starts[0] == 0
    assert (sums >= 8 / 256).all()


def test_segments_are_watched_apart_from_everything() -> None:
    rng = np.random.default_rng(6)
    frame = pl.DataFrame({"x": rng.standard_normal(20_000), "s": rng.choice(["a", "b"], 20_000)})
    baseline = calibrate(Reference(frame, ("x",), ("s",)), ALARM)
    rows = {baseline.row_name(monitor.row) for monitor in baseline.monitors}
    assert rows == {"", "s = a", "s = b"}
    assert [column.name for column in baseline.bins] == ["x"]
    location = [monitor for monitor in baseline.monitors if monitor.test == "location"]
    bands = [monitor.fit.allowance for monitor in location if isinstance(monitor.fit, Linear)]
    assert bands[EVERYTHING] < min(bands[1:])  # a segment has fewer events to learn from


def test_a_reference_without_events_is_an_error() -> None:
    with pytest.raises(ValueError, match="no events"):
        baseline_of(pl.Series([], dtype=pl.Float64))


def test_a_thousand_columns() -> None:
    rng = np.random.default_rng(1)
    frame = pl.DataFrame({f"f{number}": rng.standard_normal(1_000) for number in range(1_000)})
    baseline = calibrate(Reference(frame, tuple(frame.columns)), ALARM)
    assert len(baseline.bins) == 1_000
    assert Detector(baseline).layout.width == sum(column.size for column in baseline.bins)
