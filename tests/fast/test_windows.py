"""Windows against a plain loop over all history, however the events fall into batches."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamproc.baselines import Judging
from streamproc.core.decide import TABLES, DecideProcessor
from streamproc.core.expressions import compile_expression
from streamproc.core.plan import Plan
from streamproc.core.processor import NOTHING_SEEN
from streamproc.core.processor import run as run_steps
from streamproc.core.repartition import RepartitionProcessor
from streamproc.core.state import Tables
from streamproc.core.windows.lane import EVERY, TABLE
from streamproc.core.windows.policy import Aggregate, WindowFeature, WindowsPolicy
from streamproc.errors import PipelineError
from streamproc.offline import EPOCH, Offline, batch_of
from streamproc.pipeline import open_pipeline
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


COUNT = WindowFeature("n", "count", "count")


def processed(plan: Plan, values: Sequence[bytes], size: int, tables: Tables | None = None) -> tuple[list[Any], Tables]:
    """The feature ``n`` of each event, and the state after them, in batches of ``size``."""
    processor, state, found = DecideProcessor.of(plan), tables or Tables((TABLE,)), []
    for begin in range(0, len(values), size):
        batch = batch_of(TOPIC, values[begin : begin + size], first_offset=begin)
        frame, _ = run_steps(processor.judge([batch], NOTHING_SEEN, EPOCH, [state]), None)
        found += frame.columns["n"].to_list()
        state.apply(frame.changes.get(0, {}))
    return found, state


def keyed(keys: Sequence[int], step: int = SECOND) -> list[bytes]:
    rows = [{"key": key, "time": START + number * step, "amount": 1.0, "name": "x"} for number, key in enumerate(keys)]
    return [event(row, number) for number, row in enumerate(rows)]


def test_the_least_recently_used_keys_leave_however_events_are_batched() -> None:
    """More keys than are allowed: what leaves, and so what is counted afterwards, depends on the events alone."""
    plan = plan_with([COUNT], max_keys=1_000)
    random = np.random.default_rng(5)
    keys = [*random.integers(0, 3_000, 2 * EVERY).tolist(), *random.integers(0, 3_000, 1_000).tolist()]
    values = keyed(keys)
    whole, state = processed(plan, values, len(values))
    for size in (1_000, 4_095):
        found, other = processed(plan, values, size)
        assert found == whole
        assert dict(other.items(TABLE)).keys() == dict(state.items(TABLE)).keys()
    loop, seen = [], dict[int, list[int]]()  # how often, and when last
    for number, key in enumerate(keys):
        count, _ = seen.get(key, [0, 0])
        loop.append(count)
        seen[key] = [count + 1, number]
        if (number + 1) % EVERY == 0 and len(seen) > 1_000:
            oldest = sorted(seen, key=lambda key: seen[key][1])
            for gone in oldest[: len(seen) - 1_000 + 1_000 // 16]:
                del seen[gone]
    assert whole == loop


def test_keys_that_are_forgotten_leave_the_table_too() -> None:
    plan = plan_with([COUNT], ttl=timedelta(hours=2))
    early, late = keyed(range(5_000), step=1), keyed([7] * 40_000, step=HOUR // 1_000)
    _, state = processed(plan, early, 1_000)
    assert state.count(TABLE) == 5_001
    found, state = processed(plan, late, 4_000, state)
    assert found[:2] == [1, 2]
    assert state.count(TABLE) < 100  # most sweeps have come by


def test_a_window_that_is_added_begins_empty_and_the_others_go_on() -> None:
    amount = compile_expression("amount", make_plan().contract.columns)
    before = [COUNT, WindowFeature("day", "count", "count", 24 * HOUR, 24 * HOUR // 60)]
    after = [
        WindowFeature("total", "count", "sum", of=amount),
        WindowFeature("week", "count", "count", 7 * 24 * HOUR, 7 * 24 * HOUR // 60),
        *before,
        WindowFeature("names", "count", "distinct", HOUR, HOUR // 60, amount),
    ]
    values = keyed([1, 2, 1, 1, 2, 1])
    _, state = processed(plan_with(before), values[:4], 2)
    processor = DecideProcessor.of(plan_with(after))
    frame, _ = run_steps(processor.judge([batch_of(TOPIC, values[4:])], NOTHING_SEEN, EPOCH, [state]), None)
    assert frame.columns.select("total", "week", "n", "day", "names").rows() == [(0.0, 0, 1, 1, 0), (0.0, 0, 3, 3, 0)]
    state.apply(frame.changes[0])
    found, _ = processed(plan_with(before), values[4:5], 1, state)  # and back
    assert found == [2]


def test_an_event_from_the_future_is_refused_and_moves_nothing() -> None:
    plan = plan_with([WindowFeature("n", "count", "count", HOUR, HOUR // 60)])
    plan = replace(plan, events=replace(plan.events, max_ahead=timedelta(hours=1)))
    values = keyed([1, 1, 1])
    ahead = orjson.dumps({**orjson.loads(values[1]), "at": "2031-01-01T00:00:00Z"})
    now = datetime.fromtimestamp(START / SECOND, UTC)
    offline = Offline(DecideProcessor.of(plan), lambda ask: pytest.fail(f"asks {ask}"), tables=(TABLE,), now=now)
    effects = offline.process(batch_of(TOPIC, [values[0], ahead, values[2]]))
    letters = [one for one in effects.records if one.topic == "t.dead-letter"]
    assert [dict(headers)["sp-reason"] for one in letters for headers in one.headers] == [b"from_the_future"]
    decisions = [
        orjson.loads(value or b"") for one in effects.records if one.topic == "t.decisions" for value in one.values
    ]
    assert [one["features"]["n"] for one in decisions] == [0, 1]
    assert not any(one.get("late") for one in decisions)


def test_several_lanes_in_one_batch_are_what_each_is_alone() -> None:
    rows = random_rows(9, 300, 20, 30.0)
    plan = plan_with(features_for(make_plan(time="at"))[:20])
    values = [event(row, number) for number, row in enumerate(rows)]
    processor, states = DecideProcessor.of(plan), [Tables((TABLE,)) for _ in range(3)]
    alone = Offline(processor, lambda ask: pytest.fail(f"asks {ask}"), tables=(TABLE,))
    for begin in range(0, 300, 60):
        batches = [
            batch_of(TOPIC, values[begin + lane * 20 : begin + lane * 20 + 20], first_offset=begin, partition=lane)
            for lane in range(3)
        ]
        together = run_steps(processor.process_lanes(batches, states, NOTHING_SEEN, EPOCH), None)
        for batch, state, effects in zip(batches, states, together, strict=True):
            single = alone.process(batch)
            assert [one.values for one in effects.records] == [one.values for one in single.records]
            assert effects.state == single.state
            state.apply(effects.state)


def test_a_crowded_exact_window_is_not_known_and_never_wrong() -> None:
    """More than 1,000 events of a key within an exact window: null, as a plain loop says."""
    feature = WindowFeature("n", "count", "count", HOUR, 1)
    rows = [{"key": 1, "time": START + number * SECOND, "amount": 1.0, "name": "x"} for number in range(1_100)]
    rows += [{**row, "time": row["time"] + 5_000 * SECOND} for row in rows[:600]]
    values = [event(row, number) for number, row in enumerate(rows)]
    for cuts in ([], [1_050], list(range(100, 1_700, 100))):
        decisions = run(plan_with([feature]), values, cuts)
        found = [one["features"]["n"] for one in decisions]
        assert found[:1_001] == [*range(1_001)]
        assert found[1_001:1_100] == [None] * 99
        check([feature], rows, decisions)


def pipeline_file(folder: Path, text: str) -> Path:
    """A pipeline file beside the contract of payments."""
    shutil.copy(Path(__file__).parent / "broken" / "event.schema.json", folder)
    file = folder / "pipeline.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_what_is_wrong_with_a_window_is_said(tmp_path: Path) -> None:
    file = pipeline_file(
        tmp_path,
        """
pipeline: payments
events: {topic: payments.events, schema: event.schema.json, key: id, time: time}
windows: {ttl: 2h}
features:
  a: {window: 24h, by: country, agg: count}
  b: {window: 24h, by: county, agg: count}
  c: {window: 24h, by: id, agg: sum}
  d: {window: 24h, by: id, agg: sum, of: country}
  e: {by: id, agg: distinct, of: country}
  f: a + 1
  g: {window: 24h, by: id, agg: mean, of: f}
  h: {by: id, agg: count, exact: true}
  i: {window: 1h, by: id, agg: count, of: amount, where: amount}
  j: {window: 1h, by: id, aggr: count}
  k: {window: 1h, by: id, agg: counts}
  l: {window: 1h, by: id, agg: count, most: 5}
rules: [{id: rest, decide: approve}]
""",
    )
    with pytest.raises(PipelineError) as caught:
        open_pipeline(file)
    text = str(caught.value)
    for expected in (
        "keys are forgotten after 2h",
        "`by` names `county`",
        "did you mean `country`",
        "`sum` needs `of`",
        "`distinct` needs a window",
        "it reads `f`, which derives from the window `a`",
        "`exact` is for windows",
        "unknown key `aggr`",
        "did you mean `agg`?",
        "`agg` cannot be `counts`",
        "did you mean `count`?",
        "`most` is for `distinct`",
    ):
        assert expected in text, text


def test_a_sensitive_key_is_remembered_by_its_hash_and_its_windows_are_shown(tmp_path: Path) -> None:
    file = pipeline_file(
        tmp_path,
        """
pipeline: payments
events: {topic: payments.events, schema: event.schema.json, key: id, time: time, sensitive: [country]}
features:
  times: {by: country, agg: count}
  last_amount: {by: country, agg: last, of: amount}
  countries: {window: 1h, by: id, agg: distinct, of: country}
rules: [{id: rest, decide: approve}]
actions: {approve: null}
""",
    )
    pipeline = open_pipeline(file, {"STREAMPROC_SENSITIVE_KEY": "k" * 32})
    assert pipeline.plan.sensitive == {"country", "countries", "countries_capped"}
    offline = Offline(pipeline.processor, lambda ask: pytest.fail(f"asks {ask}"), tables=TABLES)
    row = {"age_days": 1, "country": "NL", "time": "2026-01-01T00:00:00Z"}
    values = [orjson.dumps({**row, "id": f"e{number}", "amount": number}) for number in range(3)]
    effects = offline.process(batch_of("payments.events", values))
    [made] = [one for one in effects.records if one.topic == "payments.decisions"]
    shown = [orjson.loads(value or b"")["features"] for value in made.values]
    assert [(one["times"], one["last_amount"]) for one in shown] == [(0, None), (1, 0.0), (2, 1.0)]
    assert all(str(one["countries"]).startswith("hash:") for one in shown)
    assert not any(b"NL" in key for key, _ in offline.state(0).items(TABLE))


def test_a_baseline_is_learned_with_the_memory_of_the_rows_before(tmp_path: Path) -> None:
    file = pipeline_file(
        tmp_path,
        """
pipeline: payments
events: {topic: payments.events, schema: event.schema.json, key: country, time: time}
features:
  times: {by: country, agg: count}
rules: [{id: rest, decide: approve}]
actions: {approve: null}
drift: {reference: reference.ndjson, false_alarms: 1 per 1000000 events, watch: [times]}
""",
    )
    row = {"id": "a", "amount": 1, "age_days": 1, "country": "NL", "time": "2026-01-01T00:00:00Z"}
    (tmp_path / "reference.ndjson").write_bytes((orjson.dumps(row) + b"\n") * 1_000)
    judging = Judging(open_pipeline(file, masked=False))
    for first in (0, 300):
        counted = judging.counted([batch_of("payments.events", [orjson.dumps(row)] * 300, first_offset=first)])
        assert counted.columns["times"].to_list() == list(range(first, first + 300))


def test_what_cannot_be_a_key_goes_on_under_the_events_own() -> None:
    deep = b'{"card": ' + b"[" * 300 + b"]" * 300 + b"}"
    values = [b'{"card": "c"}', b'{"card": 7}', b'{"card": ""}', deep, b'{"card": {}}', b"[1", b'{"card": null}', b"{}"]
    batch = batch_of(TOPIC, values, keys=[b"own"] * len(values))
    effects = run_steps(RepartitionProcessor("card", "t.to").process(batch, Tables(), NOTHING_SEEN, EPOCH), None)
    [output] = effects.records
    assert output.keys == [b"c", b"7", b"", *[b"own"] * 5]
    assert output.values == values
