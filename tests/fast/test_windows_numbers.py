"""What windows make of numbers that are large, equal, or both: means and deviations, kept from batch to batch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.core.decide import TABLES
from streamproc.core.expressions import compile_expression
from streamproc.core.repartition import key_text
from streamproc.core.state import Tables
from streamproc.core.windows.kept import Entries, empty, packed
from streamproc.core.windows.lane import META, TABLE, Meta
from streamproc.core.windows.layout import Layout
from streamproc.core.windows.moments import by_window, of_values, running
from streamproc.core.windows.policy import WindowFeature
from streamproc.core.windows.scan import Segments
from streamproc.offline import Offline, batch_of
from streamproc.pipeline import open_pipeline
from tests.fast.plans import make_plan
from tests.fast.test_windows import COUNT, HOUR, SECOND, START, event, keyed, pipeline_file, plan_with, processed, run

MINUTE = 60 * SECOND
COLUMNS = make_plan().contract.columns
AMOUNT = compile_expression("amount", COLUMNS)
LARGE = compile_expression("amount > 10", COLUMNS, want="boolean")
VALUES = st.floats(-1e12, 1e12) | st.sampled_from([0.1, 1e9, 1e9 + 0.5])


def of_amount(name: str, aggregate: Any, window: int | None = None, **more: Any) -> WindowFeature:
    return WindowFeature(name, "count", aggregate, window, 1 if window is None else window // 60, AMOUNT, **more)


SPREADS = [
    of_amount("std", "std"),
    of_amount("z", "zscore"),
    of_amount("std_1h", "std", HOUR),
    of_amount("z_1h", "zscore", HOUR),
]


def told(features: Sequence[WindowFeature], amounts: Sequence[float | None], step: int, size: int) -> list[Any]:
    """The features of events of one key with these amounts, ``step`` microseconds apart, in batches of ``size``."""
    rows = [
        {"key": 1, "time": START + number * step, "amount": amount, "name": "x"}
        for number, amount in enumerate(amounts)
    ]
    values = [event(row, number) for number, row in enumerate(rows)]
    return [one["features"] for one in run(plan_with(features), values, range(size, len(values), size))]


def check_spreads(
    amounts: Sequence[float], found: Sequence[Any], first: int, names: Sequence[str], close: float
) -> None:
    """Of the last event the standard deviation and the score, from exact fractions of the events from ``first`` on."""
    before, own = amounts[first:-1], amounts[-1]
    spread = statistics.stdev(before)
    deviation, score = (found[-1][name] for name in names)
    assert math.isclose(deviation, spread, rel_tol=close)
    assert math.isclose(score, (own - statistics.fmean(before)) / spread, rel_tol=close)


@pytest.mark.parametrize("size", [1, 7, 400])
def test_a_first_value_that_is_far_too_large_costs_later_ones_no_digits(size: int) -> None:
    small = np.random.default_rng(1).normal(1.0, 1e-3, 200).tolist()
    amounts = [1e9, *small]
    found = told(SPREADS, amounts, MINUTE, size)
    check_spreads(amounts, found, 0, ["std", "z"], 1e-9)  # which holds the first one for ever
    check_spreads(
        amounts, found, len(amounts) - 60, ["std_1h", "z_1h"], 1e-9
    )  # a bucket is a minute, and has one event


@pytest.mark.parametrize("size", [1, 7, 400])
def test_a_mean_that_is_large_beside_the_spread_costs_no_digits(size: int) -> None:
    amounts = (1e9 + np.random.default_rng(2).integers(-3, 4, 300)).tolist()
    found = told(SPREADS, amounts, 20 * SECOND, size)
    check_spreads(amounts, found, 0, ["std", "z"], 1e-7)
    check_spreads(amounts, found, len(amounts) - 180, ["std_1h", "z_1h"], 1e-7)


def test_equal_values_have_no_spread_whatever_did_not_count_before_them() -> None:
    """Not nearly none: the score would be without bound."""
    features = [of_amount("z", "zscore", HOUR, where=LARGE), of_amount("std", "std", HOUR, where=LARGE), *SPREADS[2:]]
    found = told(features, [0.1, 0.1, *[10.1] * 50, 12.0], 10 * SECOND, 5)
    assert [one["std"] for one in found] == [None] * 4 + [0.0] * 49
    assert {one["z"] for one in found} == {None}
    assert found[1]["std_1h"] is None
    assert found[2]["std_1h"] == 0.0
    assert found[2]["z_1h"] is None


def test_squares_that_overflow_are_null() -> None:
    found = told(SPREADS, [1e200, -1e200, 1.0, 2.0], 2 * HOUR, 4)
    assert [(one["std"], one["z"]) for one in found] == [(None, None)] * 4
    found = told(SPREADS, [1e200, -1e200, 1.0, 2.0, 4.0, 8.0], 25 * MINUTE, 1)
    assert [(one["std_1h"] is None, one["z_1h"] is None) for one in found] == [(True, True)] * 4 + [(False, False)] * 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), VALUES), min_size=1, max_size=80), st.data())
def test_running_moments_are_those_of_the_rows_so_far_to_the_last_bit(rows: list[Any], data: st.DataObject) -> None:
    counts, values = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    whole = running(Segments.of(np.zeros(len(rows), np.int64)), of_values(values, counts), np.zeros((3, 1)))
    cut = data.draw(st.integers(1, len(rows)))
    begin, parts = np.zeros((3, 1)), []
    for part in (slice(0, cut), slice(cut, len(rows))):
        size = len(rows[part])
        if size:
            parts.append(running(Segments.of(np.zeros(size, np.int64)), of_values(values[part], counts[part]), begin))
            begin = parts[-1][:, -1:]
    assert np.array_equal(np.concatenate(parts, axis=1), whole)
    for number in range(len(rows)):
        compare(whole[:, number], values[: number + 1][counts[: number + 1]].tolist())


def compare(moments: Any, values: list[float]) -> None:
    """Moments with those from exact fractions."""
    count, mean, deviations = moments
    assert count == len(values)
    if not values:
        assert (mean, deviations) == (0, 0)
        return
    scale = max(1.0, *map(abs, values))
    assert math.isclose(mean, statistics.fmean(values), rel_tol=1e-12, abs_tol=1e-12 * scale)
    exact = statistics.pvariance(values) * len(values)
    assert deviations >= 0
    assert math.isclose(deviations, exact, rel_tol=1e-9, abs_tol=1e-24 * scale * scale * len(values))
    if len(set(values)) == 1:
        assert (mean, deviations) == (values[0], 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.lists(VALUES, max_size=5), max_size=12), min_size=1, max_size=6))
def test_moments_of_windows_are_those_of_all_values_of_their_entries(windows: list[list[list[float]]]) -> None:
    none = np.zeros((3, 1))
    made = [
        running(
            Segments.of(np.zeros(len(entry), np.int64)), of_values(np.array(entry), np.ones(len(entry), bool)), none
        )
        for window in windows
        for entry in window
        if entry
    ]
    ends = iter(made)
    parts = [next(ends)[:, -1:] if entry else none for window in windows for entry in window]
    entries = np.concatenate([np.zeros((3, 0)), *parts], axis=1)
    found = by_window([entries[0].astype(np.int64), entries[1], entries[2]], np.array(list(map(len, windows))))
    for number, window in enumerate(windows):
        compare(found[:, number], [value for entry in window for value in entry])


OLD = {
    b"": "9601cf00064748463ec4800300009194a5636f756e749292c0c092a822616d6f756e7422c092940001c3959200a16e9201a16e9201a7"
    "736869667465649201a7737175617265739201a373756d94ce55d4a8003cc3939201a16e9201a7736869667465649201a773717561726573"
    "90",
    b"count\x001": "abad80840000000080c43e46484706000100010000000000000000000000f03f00000000020000000200000000"
    "000000000000"
    "000000000000000000000000000000000000000040000000000200000000000000000000000000000000000000",
    b"count\x002": "abad80840000000040822f46484706000100010000000000000000000000f03f00000000010000000100000000"
    "000000000000"
    "00000000000000000000000000000000000000f03f000000000100000000000000000000000000000000000000",
}
"""Keys 1, 2, 1 with an amount of 1, as they were kept with sums of squares about the first value."""


def test_what_is_kept_with_sums_about_a_first_value_is_read_and_the_rest_of_it_goes_on() -> None:
    state = Tables((TABLE,))
    state.apply({TABLE: {key: bytes.fromhex(value) for key, value in OLD.items()}})
    features = [COUNT, of_amount("z", "zscore"), of_amount("std", "std", 24 * HOUR), of_amount("mean", "mean")]
    rows = [{"key": key, "time": START + 9 * SECOND, "amount": 3.0, "name": "x"} for key in (1, 2, 1, 1)]
    found, state = processed(plan_with(features), [event(row, number) for number, row in enumerate(rows)], 2, state)
    assert found == [2, 1, 3, 4]


@pytest.mark.parametrize("aggregate", ["count", "sum"])
def test_a_window_that_becomes_shorter_does_not_take_old_events_for_new_ones(aggregate: Any) -> None:
    """Distances of more than 2**32 microseconds do not fit into the 4 bytes of the shorter window's."""

    def exact(window: int) -> list[WindowFeature]:
        return [WindowFeature("n", "count", aggregate, window, 1, AMOUNT)]

    hour_ago = -(-(1 << 32) // SECOND)  # as a distance it would come back as less than a second
    rows = [{"key": 1, "time": START + at * SECOND, "amount": 1.0, "name": "x"} for at in (0, hour_ago, hour_ago + 5)]
    values = [event(row, number) for number, row in enumerate(rows)]
    found, state = processed(plan_with(exact(2 * HOUR)), values[:2], 2)
    assert found == [0, 1]
    found, state = processed(plan_with(exact(10 * MINUTE)), values[2:], 1, state)
    assert found == [1]
    other, _ = processed(plan_with(exact(10 * MINUTE)), values, 3)
    assert other == [0, 0, 1]


def test_an_entry_too_far_back_for_its_bytes_is_a_bug() -> None:
    features = [WindowFeature("n", "count", "count", 10 * MINUTE, 1)]
    layout = Layout.of("count", features, HOUR)
    kept = empty(layout, 1)
    kept.clock[0] = START
    for bucket in (START - (1 << 32), START + 1):
        kept.levels[0] = Entries(np.zeros(1, np.int64), np.array([bucket]), [np.ones(1, np.int64)])
        with pytest.raises(AssertionError, match="no window reaches"):
            packed(layout, kept)
    kept.levels[0].buckets[0] = START - (1 << 32) + 1
    assert len(packed(layout, kept)) == 1


def test_layouts_that_no_key_is_in_any_more_leave() -> None:
    def days(count: int) -> list[WindowFeature]:
        return [COUNT, WindowFeature("days", "count", "count", count * 24 * HOUR, count * 24 * HOUR // 60)]

    def known(state: Tables) -> int:
        [raw] = state.get_many(TABLE, [META])
        assert raw is not None
        return len(msgspec.msgpack.decode(raw, type=Meta).layouts)

    plans = [plan_with(days(count), ttl=timedelta(days=30)) for count in range(1, 21)]
    _, state = processed(plans[0], keyed([1, 2]), 1)
    for number, plan in enumerate(plans[1:], 1):
        found, state = processed(plan, keyed([1]), 1, state)
        assert found == [number]
        assert known(state) == 2  # that of key 2, and the new one
    found, state = processed(plan_with([COUNT]), keyed([2, 1]), 2, state)
    assert found == [1, 20]
    assert known(state) == 1


def test_zero_is_one_key_with_either_sign(tmp_path: Path) -> None:
    file = pipeline_file(
        tmp_path,
        """
pipeline: payments
events: {topic: payments.events, schema: event.schema.json, key: id, time: time}
features:
  times: {by: amount, agg: count}
rules: [{id: rest, decide: approve}]
actions: {approve: null}
""",
    )
    offline = Offline(open_pipeline(file).processor, lambda ask: pytest.fail(f"asks {ask}"), tables=TABLES)
    texts = ["0.0", "-0.0", "0", "-0", "1", "1.0", "1e0"]
    row = '{"id": "a", "age_days": 1, "country": "NL", "time": "2026-01-01T00:00:00Z", "amount": %s}'
    effects = offline.process(batch_of("payments.events", [(row % text).encode() for text in texts]))
    [made] = [one for one in effects.records if one.topic == "payments.decisions"]
    counts = [orjson.loads(value or b"")["features"]["times"] for value in made.values]
    assert counts == [0, 1, 2, 3, 0, 1, 2]


@given(st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False).map(int))
def test_equal_numbers_have_one_key(number: int) -> None:
    own = key_text(orjson.loads(str(number)))
    if -(2**63) <= number < 2**64:
        assert own == str(number).encode()
    nearest = float(number)
    if nearest == number:
        for text in (repr(nearest), f"{nearest:.17e}"):
            assert key_text(orjson.loads(text)) == own


def test_what_is_no_integer_has_its_own_key() -> None:
    assert [key_text(one) for one in (0.5, -1.5, True, None, "1.0", "")] == [
        b"0.5",
        b"-1.5",
        b"true",
        None,
        b"1.0",
        b"",
    ]


def test_a_running_sum_that_overflowed_stays_null_and_that_of_a_window_comes_back() -> None:
    features = [
        of_amount(f"{aggregate}_{window}", aggregate, window)
        for aggregate in ("sum", "mean")
        for window in (None, HOUR)
    ]
    found = told(features, [1e308, 1e308, -1e308, 1.0, 2.0, 3.0], 25 * MINUTE, 2)
    assert [one["sum_None"] for one in found] == [0.0, 1e308, None, None, None, None]
    assert [one["mean_None"] for one in found] == [None, 1e308, None, None, None, None]
    assert found[-1][f"sum_{HOUR}"] == 3.0
    assert found[-1][f"mean_{HOUR}"] == 1.5


def test_integers_beyond_two_to_the_53_are_rounded_and_distinct_tells_them_apart() -> None:
    whole = compile_expression("count", COLUMNS)
    aggregates: list[Any] = ["sum", "min", "max", "last", "first", "distinct"]
    features = [WindowFeature(one, "name", one, HOUR, MINUTE, whole, include_self=True) for one in aggregates]
    rows = [{"key": 2**53 + one, "time": START, "amount": 1.0, "name": "x"} for one in (0, 1)]
    decisions = run(plan_with(features), [event(row, number) for number, row in enumerate(rows)], [])
    assert [decisions[1]["features"][one] for one in aggregates] == [2.0**54, *[2.0**53] * 4, 2]
