"""Windows where much comes at once, or nothing that counts: many keys in several lanes, one key, no event at all."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import polars as pl

from streamproc.core.decide import DecideProcessor
from streamproc.core.expressions import compile_expression
from streamproc.core.plan import Plan
from streamproc.core.processor import NOTHING_SEEN
from streamproc.core.processor import run as run_steps
from streamproc.core.state import Tables
from streamproc.core.windows.lane import EVERY, TABLE
from streamproc.core.windows.policy import WindowFeature
from streamproc.offline import EPOCH, batch_of
from tests.fast.plans import TOPIC, make_plan
from tests.fast.test_windows import (
    COUNT,
    HOUR,
    LATENESS,
    SECOND,
    START,
    Row,
    check,
    event,
    features_for,
    keyed,
    plan_with,
    processed,
    random_rows,
    run,
)

AMOUNT = compile_expression("amount", make_plan().contract.columns)
MOST = 1_000


def judged(plan: Plan, lanes: Sequence[Sequence[bytes]], size: int) -> tuple[list[pl.DataFrame], list[Tables], int]:
    """The features of each lane's events, the lanes' state after them, and how many keys left for others.

    All lanes are worked on together, in batches of ``size`` events of each.
    """
    processor, states, made = DecideProcessor.of(plan), [Tables((TABLE,)) for _ in lanes], []
    left = 0
    for begin in range(0, max(map(len, lanes)), size):
        batches = [
            batch_of(TOPIC, values[begin : begin + size], first_offset=begin, partition=lane)
            for lane, values in enumerate(lanes)
        ]
        frame, _ = run_steps(processor.judge(batches, NOTHING_SEEN, EPOCH, states), None)
        of_lane = np.searchsorted(frame.records.ends, frame.rows, side="right")
        made.append(frame.columns.select(*plan.recorded, pl.Series("lane", of_lane)))
        left += frame.counts.get(("window_keys_left", TOPIC), 0)
        for lane, changes in frame.changes.items():
            states[lane].apply(changes)
    whole = pl.concat(made)
    return [whole.filter(pl.col("lane") == lane).drop("lane") for lane in range(len(lanes))], states, left


def test_too_many_keys_in_several_lanes_and_by_several_fields_are_what_each_lane_has_alone() -> None:
    features = [COUNT, WindowFeature("amounts", "name", "sum", of=AMOUNT)]
    plan = plan_with(features, max_keys=MOST)
    random = np.random.default_rng(11)
    lanes = []
    for keys, count in ((2_000, EVERY + 900), (50, 300), (900, 2 * EVERY + 10)):
        rows = [
            {"key": int(random.integers(keys)), "time": START + at, "amount": 1.0, "name": str(random.integers(keys))}
            for at in range(count)
        ]
        lanes.append([event(row, number) for number, row in enumerate(rows)])
    together, states, left = judged(plan, lanes, 1_000)
    assert left == sum(judged(plan, [values], 1_000)[2] for values in lanes) > 0
    for lane, values in enumerate(lanes):
        for size in (len(values), 611):
            [alone], [state], _ = judged(plan, [values], size)
            assert alone.equals(together[lane])
            assert dict(state.items(TABLE)).keys() == dict(states[lane].items(TABLE)).keys()
    assert together[0]["n"].sum() < 2_000 * 3  # keys of either field have left
    assert states[1].count(TABLE) == 101
    assert states[0].count(TABLE) <= MOST + 2 * 900 + 1


def test_twenty_thousand_events_of_one_key_in_one_batch() -> None:
    features = features_for(make_plan(time="at"))
    rows = random_rows(3, 20_000, 1, 7.0)
    values = [event(row, number) for number, row in enumerate(rows)]
    plan = plan_with([one for one in features if (one.unit > 1 or one.window is None) and one.where is None][::2])
    [whole], [state], _ = judged(plan, [values], len(values))
    [parts], [other], _ = judged(plan, [values], 2_999)
    assert whole.equals(parts)
    keyed_values = ({key: value for key, value in one.items(TABLE) if key} for one in (state, other))
    assert next(keyed_values) == next(keyed_values)


def test_memory_does_not_grow_with_the_square_of_the_events_of_a_key() -> None:
    """Each event of an exact window may meet each other one of its batch."""
    plan = plan_with([WindowFeature("n", "count", "count", HOUR, 1)])
    values = keyed([1] * 6_000, step=SECOND // 10)
    tracemalloc.start()
    try:
        found, _ = processed(plan, values, len(values))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == [*range(1_001), *[None] * 4_999]
    assert peak < 200e6  # and 1 GB, were all of them worked out at once


def refused(number: int) -> bytes:
    return orjson.dumps({"id": number, "count": "no number"})


def test_a_batch_in_which_all_is_refused_changes_nothing() -> None:
    plan = plan_with([COUNT])
    _, state = processed(plan, keyed([1, 1, 2]), 3)
    before = dict(state.items(TABLE))
    none, state = processed(plan, [refused(number) for number in range(5)], 5, state)
    assert none == []
    assert dict(state.items(TABLE)) == before
    assert processed(plan, [refused(0)], 1)[0] == []  # where nothing is kept yet, too
    assert processed(plan, keyed([1]), 1, state)[0] == [2]


def test_a_batch_in_which_all_is_late_counts_for_those_that_are_later_still() -> None:
    """Late ones see nothing in windows, and everything without one; what the key's newest time is stays."""
    features = [WindowFeature("day", "count", "count", 24 * HOUR, 24 * HOUR // 60), COUNT]
    late = [{"key": 1, "time": START - LATENESS - at * SECOND, "amount": 1.0, "name": "x"} for at in range(1, 6)]
    rows: list[Row] = [{**late[0], "time": START}, *late, {**late[0], "time": START + SECOND}]
    values = [event(row, number) for number, row in enumerate(rows)]
    decisions = run(plan_with(features), values, [1, 6])
    check(features, rows, decisions)
    assert [one.get("late", False) for one in decisions] == [False, *[True] * 5, False]
    assert [one["features"]["day"] for one in decisions] == [0, *[None] * 5, 6]
    assert [one["features"]["n"] for one in decisions] == [*range(7)]


def test_windows_that_are_declared_alike_are_alike_and_kept_once() -> None:
    once = [WindowFeature("a", "count", "zscore", HOUR, HOUR // 60, AMOUNT), COUNT]
    twice = [*once, WindowFeature("b", "count", "zscore", HOUR, HOUR // 60, AMOUNT)]
    rows = random_rows(4, 200, 5, 30.0)
    values = [event(row, number) for number, row in enumerate(rows)]
    [found], [state], _ = judged(plan_with(twice), [values], 37)
    assert found["a"].equals(found["b"])
    assert found["a"].null_count() < len(found)
    assert dict(judged(plan_with(once), [values], 37)[1][0].items(TABLE)) == dict(state.items(TABLE))


def test_events_without_a_key_are_remembered_nowhere() -> None:
    features: list[Any] = [COUNT, WindowFeature("names", "count", "distinct", HOUR, HOUR // 60, AMOUNT)]
    row = {"time": START, "amount": 1.0, "name": "x"}
    null = event({**row, "key": None}, 0)
    missing = orjson.dumps({key: value for key, value in orjson.loads(null).items() if key != "count"})
    some = event({**row, "key": 0}, 1)
    for cuts in ([], [1, 2, 3, 4]):
        decisions = run(plan_with(features), [null, missing, some, missing, some], cuts)
        shown = [tuple(one["features"][name] for name in ("n", "names", "names_capped")) for one in decisions]
        nothing = (None, None, None)
        assert shown == [nothing, nothing, (0, 0, False), nothing, (1, 1, False)]
    _, state = processed(plan_with([COUNT]), [null, missing], 2)
    assert [key for key, _ in state.items(TABLE)] in ([], [b""])
