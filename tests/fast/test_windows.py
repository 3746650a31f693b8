"""Windows against a plain loop over all history, however the events fall into batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamproc.core.decide import DecideProcessor
from streamproc.core.expressions import compile_expression
from streamproc.core.plan import Plan
from streamproc.core.windows.lane import TABLE
from streamproc.core.windows.policy import Aggregate, WindowFeature, WindowsPolicy
from streamproc.offline import Offline, batch_of
from tests.fast.plans import TOPIC, make_plan
from tests.fast.window_loop import PlainWindows, Row

SECOND = 1_000_000
HOUR = 3_600 * SECOND
START = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * SECOND
LATENESS, TTL = 30 * 60 * SECOND, 40 * HOUR


def features_for(plan: Plan) -> list[WindowFeature]:
    """Every aggregate, with buckets and exact, of events and of values, with and without the event itself."""
    columns = plan.contract.columns
    amount, name = (compile_expression(text, columns) for text in ("amount", "name"))
    large = compile_expression("amount > 10", columns, want="boolean")
    made = []
    for aggregate in get_args(Aggregate):
        of = None if aggregate in ("count", "rate", "time_since_last") else name if aggregate == "distinct" else amount
        for window, unit in ((HOUR, HOUR // 60), (24 * HOUR, 24 * HOUR // 60), (HOUR, 1), (None, 1)):
            if window is None and aggregate in ("rate", "distinct"):
                continue
            for where in (None, large):
                for itself in (False, True):
                    number, most = len(made), 100 if itself else 4
                    made.append(WindowFeature(f"f{number}", "count", aggregate, window, unit, of, where, itself, most))
    return made


def plan_with(features: Sequence[WindowFeature], **policy: Any) -> Plan:
    plan = make_plan(time="at")
    policy = {"lateness": timedelta(microseconds=LATENESS), "ttl": timedelta(microseconds=TTL), **policy}
    names = tuple(name for feature in features for name in feature.columns)
    return replace(plan, features=tuple(features), windows=WindowsPolicy(**policy), recorded=names)


def event(row: Row, number: int) -> bytes:
    at = datetime.fromtimestamp(row["time"] / SECOND, UTC).isoformat(timespec="microseconds")
    rest = {name: row[name] for name in ("amount", "name")}
    return orjson.dumps({"id": number, "count": row["key"], "at": at, **rest})


def decided(offline: Offline, values: Sequence[bytes], first: int, partition: int = 0) -> list[dict[str, Any]]:
    effects = offline.process(batch_of(TOPIC, values, first_offset=first, partition=partition))
    return [
        orjson.loads(value)
        for output in effects.records
        if output.topic == "t.decisions"
        for value in output.values
        if value
    ]


def run(plan: Plan, values: Sequence[bytes], cuts: Sequence[int]) -> list[dict[str, Any]]:
    """The decisions of events that come in batches which end at ``cuts``."""
    offline = Offline(DecideProcessor.of(plan), lambda ask: pytest.fail(f"asks {ask}"), tables=(TABLE,))
    made = []
    for begin, end in zip([0, *cuts], [*cuts, len(values)], strict=True):
        if end > begin:
            made += decided(offline, values[begin:end], begin)
    return made


def reads_of(feature: WindowFeature) -> Any:
    def reads(row: Row) -> tuple[Any, bool]:
        value = 1 if feature.of is None else row["name"] if feature.aggregate == "distinct" else row["amount"]
        return value, feature.where is None or (row["amount"] is not None and row["amount"] > 10)

    return reads


def check(features: Sequence[WindowFeature], rows: Sequence[Row], decisions: Sequence[dict[str, Any]]) -> None:
    loop = PlainWindows(features, [reads_of(one) for one in features], lateness=LATENESS, ttl=TTL)
    for number, (row, decision) in enumerate(zip(rows, decisions, strict=True)):
        expected, late = loop.add(row)
        assert decision.get("late", False) == late, number
        for feature, value in zip(features, expected, strict=True):
            found = decision["features"][feature.name]
            if feature.aggregate == "distinct":
                assert (found, decision["features"][feature.capped]) == value, (number, feature)
            elif isinstance(value, float) and found is not None:
                scale = max(1.0, abs(row["amount"] or 0))
                assert math.isclose(found, value, rel_tol=1e-9, abs_tol=1e-9 * scale), (number, feature, found, value)
            else:
                assert found == value, (number, feature, found, value)


def random_rows(seed: int, count: int, keys: int, step: float) -> list[Row]:
    """Rows ``step`` seconds apart on average, shuffled, some at the same time, some much too late."""
    random = np.random.default_rng(seed)
    times = START + np.cumsum(random.exponential(step, count) * SECOND).astype(np.int64)
    times[random.random(count) < 0.1] //= 60 * SECOND
    times = np.where(times < START, times * 60 * SECOND, times)
    late = random.random(count)
    times -= np.where(late < 0.2, random.integers(0, 20 * 60, count), 0) * SECOND
    times -= np.where(late < 0.03, random.integers(0, 3 * 3600, count), 0) * SECOND
    return [
        {
            "key": None if random.random() < 0.02 else int(random.integers(keys)),
            "time": int(time),
            "amount": None if random.random() < 0.1 else float(np.round(random.lognormal(2, 1), 2)),
            "name": None if random.random() < 0.1 else str(random.integers(12)),
        }
        for time in times
    ]


@pytest.mark.parametrize(("seed", "keys", "step"), [(1, 3, 20.0), (2, 40, 60.0), (3, 2, 4_000.0), (4, 300, 5.0)])
def test_every_aggregate_is_what_a_plain_loop_gives(seed: int, keys: int, step: float) -> None:
    rows = random_rows(seed, 220, keys, step)
    plan = make_plan(time="at")
    features = features_for(plan)
    values = [event(row, number) for number, row in enumerate(rows)]
    random = np.random.default_rng(seed)
    cuts = sorted(random.choice(len(rows), 8, replace=False).tolist())
    check(features, rows, run(plan_with(features), values, cuts))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.integers(1, 30), st.sampled_from([2.0, 30.0, 600.0, 20_000.0]), st.data())
def test_batches_do_not_matter_to_the_last_bit(seed: int, keys: int, step: float, data: st.DataObject) -> None:
    rows = random_rows(seed, 120, keys, step)
    for row in rows:
        row["amount"] = None if row["amount"] is None else row["amount"] * 1e7 / 3
    plan = plan_with(features_for(make_plan(time="at")))
    values = [event(row, number) for number, row in enumerate(rows)]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(rows) - 1), max_size=8)))
    whole, parts = run(plan, values, []), run(plan, values, cuts)
    assert [one["features"] for one in whole] == [one["features"] for one in parts]
    assert [one.get("late") for one in whole] == [one.get("late") for one in parts]
