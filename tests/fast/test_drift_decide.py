"""Drift in the decide processor: panes of what was decided, and columns that follow what is seen."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest

from streamproc.core.decide import DecideProcessor
from streamproc.core.decide.drift import watched_columns
from streamproc.core.drift.baseline import Baseline, Segment
from streamproc.core.drift.budget import Budget
from streamproc.core.drift.calibrate import Reference, calibrate
from streamproc.core.drift.panes import Layout, loads
from streamproc.core.drift.processor import TABLE, DriftProcessor
from streamproc.core.drift.view import VIEW, DriftView, Standing
from streamproc.core.expressions import compile_expression
from streamproc.core.plan import DriftPlan, Plan, Rule
from streamproc.core.processor import NOTHING_SEEN, Answer, Batch, Seen, run
from streamproc.offline import EPOCH, Offline, batch_of
from tests.fast.plans import TOPIC, make_plan, mean_score
from tests.record_schemas import record_problems

WATCH = ("amount", "name", "decision", "would_be", "dead_letters")
SEGMENTS = ("name",)
PANES = "t.panes"


def watched_plan(condition: str = "drift_amount = 'drifting'", reads: tuple[str, ...] = ("drift_amount",)) -> Plan:
    """A plan that reviews what the condition holds for, and watches amounts by name."""
    plan = make_plan([("large", "amount > 100", "decline"), ("rest", None, "approve")])
    kinds = {
        **plan.contract.columns,
        "drift_amount": pl.String(),
        "drift_any": pl.String(),
        "drift_severity": pl.Float64(),
    }
    rule = Rule("drift", "review", compile_expression(condition, kinds, {}, want="boolean", finite=True))
    drift = DriftPlan(WATCH, Budget(1.0, events=1e5), SEGMENTS, reads, frozenset({"decision", "would_be"}))
    return replace(plan, rules=(rule, *plan.rules), drift=drift)


def events(n: int, seed: int, shift: float = 0.0) -> list[bytes]:
    rng = np.random.default_rng(seed)
    amounts, names = rng.normal(50 + shift, 20, n).round(3).tolist(), rng.choice(["a", "b"], n).tolist()
    rows: list[dict[str, Any]] = [{"id": k, "amount": amounts[k], "name": names[k]} for k in range(n)]
    rows[5] = {"amount": 1.0}  # no id: a dead letter
    return [orjson.dumps(row) for row in rows]


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    plan = watched_plan()
    batch = batch_of(TOPIC, events(20_000, 1))
    frame, _ = run(DecideProcessor.of(plan).judge([batch], NOTHING_SEEN, EPOCH), mean_score)
    watched = watched_columns(plan, frame)
    reference = Reference(watched.columns, WATCH[:-1], SEGMENTS, watched.record_columns)
    return calibrate(reference, 1e5)


def test_panes_go_out_with_the_decisions_lane_by_lane(baseline: Baseline) -> None:
    plan = watched_plan()
    processor = DecideProcessor.of(plan, baseline=baseline)
    batches = [batch_of(TOPIC, events(100, 2 + lane), partition=lane, first_offset=1000) for lane in (3, 1)]
    together = run(processor.process_lanes(batches, [None, None], NOTHING_SEEN, EPOCH), mean_score)  # type: ignore[list-item]
    for batch, effects in zip(batches, together, strict=True):
        [panes] = [output for output in effects.records if output.topic == PANES]
        assert dict(panes.headers[0])["sp-type"] == b"panes"
        read = loads(panes.values[0] or b"", baseline.hash, {0: Layout.of(baseline)})
        assert read is not None and read[1].partition == batch.partition
        assert read[1].next == 1100
        alone = Offline(processor, mean_score).process(batch)
        assert next(output for output in alone.records if output.topic == PANES).values == panes.values
        amount = read[1].counts[read[1].rows == 0][:, : baseline.bins[0].size]
        assert amount.sum() == 99  # one was a dead letter
        assert read[1].counts[read[1].rows == 0][:, -baseline.bins[-1].size :].sum() == 100


def seen(*states: tuple[str, str | None, str, float]) -> Seen:
    """What is seen after these monitors (column, name, state, severity) have changed."""
    records = [
        {
            "column": column,
            "segment": None if name is None else {"column": "name", "value": name},
            "state": state,
            "severity": severity,
            "baseline": "b",
        }
        for column, name, state, severity in states
    ]
    return Seen({VIEW: DriftView.of(records, "b")}, {"t.drift-state-0": 7})


def decided(plan: Plan, values: list[dict[str, Any]], what: Seen) -> list[dict[str, Any]]:
    batch = batch_of(TOPIC, [orjson.dumps(value) for value in values])
    effects = run(DecideProcessor.of(plan).process(batch, None, what, EPOCH), mean_score)  # type: ignore[arg-type]
    return [orjson.loads(value) for out in effects.records if out.topic == "t.decisions" for value in out.values]


THREE = [{"id": 1, "amount": 1.0, "name": "a"}, {"id": 2, "amount": 1.0, "name": "b"}, {"id": 3, "amount": 1.0}]


def test_rules_see_the_worst_of_everything_and_of_the_events_own_segment() -> None:
    plan = watched_plan()
    assert [one["decision"] for one in decided(plan, THREE, NOTHING_SEEN)] == ["approve"] * 3
    within = seen(("amount", "a", "drifting", 0.5), ("amount", None, "warning", 0.1), ("name", None, "drifting", 1.0))
    assert [one["decision"] for one in decided(plan, THREE, within)] == ["review", "approve", "approve"]
    assert decided(plan, THREE, within)[0]["seen"] == {"t.drift-state-0": 7}
    everywhere = seen(("amount", None, "drifting", 0.5), ("amount", "a", "warning", 0.2))
    assert [one["decision"] for one in decided(plan, THREE, everywhere)] == ["review"] * 3


def test_any_and_severity_are_of_the_worst_column() -> None:
    plan = watched_plan("drift_any = 'drifting' AND drift_severity > 0.6", ("drift_any", "drift_severity"))
    mild = seen(("amount", None, "drifting", 0.5), ("decision", "a", "warning", 0.9))
    assert [one["decision"] for one in decided(plan, THREE, mild)] == ["approve"] * 3
    moved = seen(("decision", None, "drifting", 0.9))  # decisions may drift because a rule reads drift
    assert [one["decision"] for one in decided(plan, THREE, moved)] == ["approve"] * 3
    bad = seen(("amount", None, "warning", 0.5), ("name", "b", "drifting", 0.9))
    assert [one["decision"] for one in decided(plan, THREE, bad)] == ["approve", "review", "approve"]


def test_a_view_takes_the_worst_and_leaves_other_baselines_out() -> None:
    records = [
        {"column": "x", "segment": None, "state": "warning", "severity": 0.9, "baseline": "b"},
        {"column": "x", "segment": None, "state": "drifting", "severity": 0.2, "baseline": "b"},
        {"column": "y", "segment": None, "state": "drifting", "severity": 0.2, "baseline": "older"},
        {"column": "z", "segment": {"column": "s", "value": "1"}, "state": "stable", "severity": 0.2, "baseline": "b"},
    ]
    view = DriftView.of(records, "b")
    assert view == DriftView({"x": Standing(2, 0.2)}, {})
    assert view.of_column("y")[0] == Standing()
    assert DriftView({}, {"x": {Segment("s", "1"): Standing(1)}}).of_column(None)[1] == {Segment("s", "1"): Standing(1)}


def panes_log(baseline: Baseline, cut: int) -> list[bytes]:
    """What the decide agent sends of 2,000 events as in the reference and 3,000 that moved, in batches of ``cut``."""
    processor, values = (
        DecideProcessor.of(watched_plan(), baseline=baseline),
        [*events(2_000, 7), *events(3_000, 8, 15.0)],
    )
    log = list[bytes]()
    for start in range(0, len(values), cut):
        effects = Offline(processor, mean_score).process(
            batch_of(TOPIC, values[start : start + cut], first_offset=start)
        )
        log += [value or b"" for output in effects.records if output.topic == PANES for value in output.values]
    return log


def drifted(baseline: Baseline, log: list[bytes], cut: int) -> list[tuple[str, Any, Any]]:
    """What the drift agent sends: topic, key and value."""
    offline = Offline(DriftProcessor("t", baseline, recover=20), mean_score, tables=(TABLE,))
    batches = [Batch(0, batch_of(PANES, log[at : at + cut]).topics) for at in range(0, len(log), cut)]
    outputs = [output for batch in batches for output in offline.process(batch).records]
    for output in outputs:
        for value, headers in zip(output.values, output.headers, strict=True):
            assert record_problems(value, headers) == []
    return sorted((out.topic, key, value) for out in outputs for key, value in zip(out.keys, out.values, strict=True))


def test_alarms_are_the_same_however_batches_are_cut(baseline: Baseline) -> None:
    whole = drifted(baseline, panes_log(baseline, 5_000), 1)
    assert drifted(baseline, panes_log(baseline, 333), 1) == whole
    assert drifted(baseline, panes_log(baseline, 333), 7) == whole
    alarms = [orjson.loads(value) for topic, _, value in whole if topic == "t.drift"]
    assert {one["column"] for one in alarms if one["state"] == "drifting"} >= {"amount"}
    assert len({one["id"] for one in alarms}) == len(alarms)


def test_a_discarded_batch_leaves_nothing_behind(baseline: Baseline) -> None:
    """The processor keeps what it decoded: an aborted batch must not be in it."""
    log, processor = panes_log(baseline, 500), DriftProcessor("t", baseline, recover=20)
    disturbed = Offline(processor, mean_score, tables=(TABLE,))
    plain = Offline(DriftProcessor("t", baseline, recover=20), mean_score, tables=(TABLE,))
    for value in log:
        batch = batch_of(PANES, [value])
        run(
            processor.process(batch, disturbed.state(0), NOTHING_SEEN, EPOCH), mean_score
        )  # its effects are thrown away
        ours, theirs = disturbed.process(batch), plain.process(batch)
        assert [output.values for output in ours.records] == [output.values for output in theirs.records]
        assert ours.state == theirs.state


def test_what_is_no_panes_record_stops_nothing(baseline: Baseline) -> None:
    processor = DriftProcessor("t", baseline, recover=20)
    effects = Offline(processor, mean_score, tables=(TABLE,)).process(batch_of(PANES, [None, b"\x00", b"{}"]))
    assert effects.counts == {("panes", "unreadable"): 3}


def test_panes_of_another_baseline_are_left_out(baseline: Baseline) -> None:
    other = replace(baseline, hash="f" * 32)
    unknown = Answer.nothing(1, "unknown", "1")
    effects = Offline(DriftProcessor("t", other, recover=20), lambda ask: unknown, tables=(TABLE,)).process(
        batch_of(PANES, panes_log(baseline, 5_000))
    )
    assert effects.counts == {("panes", "of_another_baseline"): 1}
    assert not effects.records and not effects.state


def test_deciding_and_judging_need_no_scipy() -> None:
    """It takes most of a second to import; only learning a baseline needs it."""
    modules = "streamproc.worker, streamproc.cli.batch, streamproc.cli.run"
    code = f"import sys, {modules}; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
