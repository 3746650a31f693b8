"""What people say to a running pipeline: records of the control topic, and a new baseline taking over."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import orjson
import pytest

from streamproc.control import control_of
from streamproc.core.control import Control, IncidentNote, NewNormal, Place, dumps, loads
from streamproc.core.decide import DecideProcessor
from streamproc.core.decide.drift import WATCH, Watch
from streamproc.core.drift.baseline import NO_BASELINE, Baseline, hashed
from streamproc.core.drift.processor import TABLE, DriftProcessor
from streamproc.core.drift.view import DriftView
from streamproc.core.processor import NOTHING_SEEN, Answer, Ask, Batch, Lookup, Seen, run
from streamproc.core.records import TYPED
from streamproc.incidents import open_incidents, read_states
from streamproc.offline import EPOCH, Offline, batch_of
from tests.fast.plans import TOPIC, mean_score
from tests.fast.test_drift_decide import PANES, baseline, events, panes_log, watched_plan
from tests.record_schemas import record_problems

__all__ = ["baseline"]  # a fixture
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def note(**changes: Any) -> IncidentNote:
    said: dict[str, Any] = {"pipeline": "t", "time": NOW, "by": "ada", "why": "looking", "incident": "i1"}
    return IncidentNote(**said | {"acknowledged": True} | changes)


def normal(baseline: Baseline, plan: str = "p", model: str | None = "m") -> NewNormal:
    said: dict[str, Any] = {"pipeline": "t", "time": NOW, "by": "ada", "why": "prices rose", "topic": "t.events"}
    places = Place(0, 5), Place(1, 0)
    return NewNormal(**said, plan=plan, model=model, start=places, end=places, baseline=msgspec.Raw(baseline.dumps()))


def test_records_are_what_their_schema_says_and_come_back(baseline: Baseline) -> None:
    owned = note(owner="bob", snoozed_until=NOW + timedelta(hours=4))
    for record in (note(), owned, normal(baseline), normal(baseline, model=None)):
        value = dumps(record)
        assert record_problems(value, TYPED["control"]) == []
        assert dumps(loads(value)) == value
    assert loads(dumps(owned)) == owned


@pytest.mark.parametrize(
    "value", [b"", b"{", b"{}", b"[]", dumps(note(version=2)), dumps(note()).replace(b'"incident"', b'"odd"', 1)]
)
def test_what_is_no_control_record_is_left_out(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"control record|version"):
        loads(value)
    values = {b"x": value, note().key: dumps(note())}
    assert control_of(values, note().pipeline).incidents == {"i1": note()}


def test_a_record_under_another_key_or_of_another_pipeline_does_not_count() -> None:
    assert not control_of({b"zzz": dumps(note())}, note().pipeline).incidents
    assert not control_of({note().key: dumps(note())}, "another").incidents


def test_a_record_that_is_nested_without_end_is_left_out(baseline: Baseline) -> None:
    raw = dumps(normal(baseline))
    start = raw.index(b'"baseline":{')
    deep = raw[:start] + b'"baseline":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert not control_of({normal(baseline).key: deep}, note().pipeline).normals


def test_a_baseline_holds_for_its_plan_and_model_alone(baseline: Baseline) -> None:
    control = Control.of([normal(baseline)])
    found = control.baseline("p", "m")
    assert found is not None
    assert found.hash == baseline.hash
    assert control.baseline("other", "m") is None
    assert control.baseline("p", None) is None


@dataclass
class Said:
    """Answers look-ups of baselines, as a worker does; what was asked is kept."""

    baselines: list[Baseline] = field(default_factory=list)
    asked: list[bytes] = field(default_factory=list)

    def __call__(self, ask: Ask) -> Answer:
        assert isinstance(ask, Lookup)
        self.asked += ask.keys
        there = {one.hash.encode(): (rank, one.dumps()) for rank, one in enumerate(self.baselines)}
        found = [there.get(key) for key in ask.keys]
        return Answer(found, [None if value else "unknown" for value in found])


@pytest.fixture(scope="module")
def later(baseline: Baseline) -> Baseline:
    """The same statistics under another hash."""
    return hashed(replace(baseline, source={**baseline.source, "reference": "the stream"}))


def written(offline: Offline, log: list[bytes], cut: int) -> list[tuple[str, Any, Any]]:
    """What the drift agent sends for a log of panes: topic, key and value."""
    batches = [Batch(0, batch_of(PANES, log[at : at + cut]).topics) for at in range(0, len(log), cut)]
    outputs = [output for batch in batches for output in offline.process(batch).records]
    pairs = ((out.topic, key, value) for out in outputs for key, value in zip(out.keys, out.values, strict=True))
    return sorted(entry for entry in pairs if entry[2] is not None)


@pytest.mark.parametrize("cut", [1, 3, 1000])
def test_a_new_baseline_takes_over_with_its_first_panes(baseline: Baseline, later: Baseline, cut: int) -> None:
    old, new = panes_log(baseline, 500), panes_log(later, 500)
    laggards = [value for pair in zip(new[1:], old[1:], strict=True) for value in pair]  # a worker that has not heard
    said = Said([later])
    offline = Offline(DriftProcessor("t", baseline, recover=20), said, tables=(TABLE,))
    told = written(offline, [*old[:5], new[0], *laggards], cut)
    alone = written(Offline(DriftProcessor("t", later, recover=20), said, tables=(TABLE,)), new, 1)
    assert [entry for entry in told if orjson.loads(entry[2])["baseline"] == later.hash] == alone
    assert any(orjson.loads(value)["state"] == "drifting" for _, _, value in alone)
    assert said.asked == [later.hash.encode()]


def test_a_worker_that_starts_later_goes_on_where_the_last_one_was(baseline: Baseline, later: Baseline) -> None:
    old, new = panes_log(baseline, 500), panes_log(later, 500)
    said = Said([later])
    whole = Offline(DriftProcessor("t", baseline, recover=20), said, tables=(TABLE,))
    expected = written(whole, [*old[:4], *new], 1)
    first = Offline(DriftProcessor("t", baseline, recover=20), said, tables=(TABLE,))
    told = written(first, [*old[:4], *new[:3]], 1)
    second = Offline(DriftProcessor("t", NO_BASELINE, recover=20), said, tables=(TABLE,))
    second.state(0).apply({TABLE: dict(first.state(0).items(TABLE))})
    told += written(second, [*new[3:], old[5]], 1)
    assert sorted(told) == expected


def standing(told: list[Any]) -> dict[bytes, str]:
    """What the compacted topic says of each monitor that is not stable."""
    newest = {
        key: None if value is None else orjson.loads(value) for topic, key, value in told if topic == "t.drift-state"
    }
    return {key: state["state"] for key, state in newest.items() if state is not None and state["state"] != "stable"}


def in_order(offline: Offline, log: list[bytes]) -> list[Any]:
    outputs = [output for value in log for output in offline.process(batch_of(PANES, [value])).records]
    return [(out.topic, key, value) for out in outputs for key, value in zip(out.keys, out.values, strict=True)]


def test_a_lane_that_moves_does_not_go_back_for_one_who_has_not_heard(baseline: Baseline, later: Baseline) -> None:
    """The next worker began before the new baseline was said, and gets the panes of one who has not heard of it."""
    old, new = panes_log(baseline, 500), panes_log(later, 500)
    first = Offline(DriftProcessor("t", baseline, recover=20), Said([later]), tables=(TABLE,))
    told = in_order(first, [old[0], *new[:8]])
    assert standing(told)
    second = Offline(DriftProcessor("t", baseline, recover=20), Said([later]), tables=(TABLE,))
    second.state(0).apply({TABLE: dict(first.state(0).items(TABLE))})
    told += in_order(second, [old[1], *new[8:]])
    alone = in_order(Offline(DriftProcessor("t", later, recover=20), Said([later]), tables=(TABLE,)), new)
    assert standing(told) == standing(alone)


def test_who_takes_over_takes_back_what_was_told_of_its_monitors(baseline: Baseline, later: Baseline) -> None:
    """A deployment is rolled back while monitors drift, and nothing drifts any more."""
    offline = Offline(DriftProcessor("t", baseline, recover=20), Said(), tables=(TABLE,))
    told = in_order(offline, panes_log(baseline, 500))
    assert standing(told)
    other = Offline(DriftProcessor("t", later, recover=20), Said(), tables=(TABLE,))
    other.state(0).apply({TABLE: dict(offline.state(0).items(TABLE))})
    told += in_order(other, panes_log(later, 500)[:1])
    assert standing(told) == {}
    again = Offline(DriftProcessor("t", baseline, recover=20), Said(), tables=(TABLE,))
    again.state(0).apply({TABLE: dict(other.state(0).items(TABLE))})
    told += in_order(again, panes_log(baseline, 500)[:4])
    assert standing(told) == {}


def test_states_of_the_version_before_are_read(baseline: Baseline) -> None:
    state = {"monitor": "x/location", "column": "x", "segment": None, "test": "location", "state": "drifting"}
    state |= {"severity": 0.5, "time": "2026-01-01T00:00:00.000000Z", "baseline": "b", "id": "i"}
    states = read_states([orjson.dumps(state)], "b")
    assert DriftView.of(states, "b").of_column("x")[0].level == 2
    assert open_incidents(states, Control()) == []  # which incident it was of is not known
    volume = orjson.dumps(state | {"test": "silence", "column": "volume", "baseline": "older"})
    assert len(read_states([volume], "b")) == 1  # it goes on under any baseline


def test_the_newest_of_several_takes_over(baseline: Baseline, later: Baseline) -> None:
    newest = hashed(replace(later, source={**later.source, "reference": "again"}))
    logs = {one.hash: panes_log(one, 1000) for one in (baseline, later, newest)}
    said = Said([later])
    offline = Offline(DriftProcessor("t", baseline, recover=20), said, tables=(TABLE,))

    def taken(which: Baseline, number: int) -> int:
        effects = offline.process(batch_of(PANES, [logs[which.hash][number]]))
        return effects.counts.get(("panes", "taken"), 0)

    assert taken(baseline, 0) == 1
    assert taken(later, 0) == 1
    said.baselines.append(newest)
    assert taken(newest, 0) == 1
    assert taken(later, 1) == 0  # of a worker that has not heard of the newest
    assert taken(baseline, 1) == 0
    assert taken(newest, 1) == 1


def test_decisions_are_counted_by_the_baseline_that_is_seen(baseline: Baseline, later: Baseline) -> None:
    plan = watched_plan()
    processor, batch = DecideProcessor.of(plan, baseline=baseline), batch_of(TOPIC, events(100, 3))

    def panes(seen: Seen) -> list[bytes | None]:
        effects = run(processor.process(batch, None, seen, EPOCH), mean_score)  # type: ignore[arg-type]
        return [value for output in effects.records if output.topic == PANES for value in output.values]

    watch = Watch.of(plan, later)
    assert panes(Seen({WATCH: watch})) == panes_log_of(later, batch) != panes(NOTHING_SEEN)


def panes_log_of(baseline: Baseline, batch: Batch) -> list[bytes | None]:
    effects = Offline(DecideProcessor.of(watched_plan(), baseline=baseline), mean_score).process(batch)
    return [value for output in effects.records if output.topic == PANES for value in output.values]


def test_incidents_are_open_until_somebody_says_otherwise(baseline: Baseline) -> None:
    said = Said()
    told = written(
        Offline(DriftProcessor("t", baseline, recover=20), said, tables=(TABLE,)), panes_log(baseline, 500), 1
    )
    newest = {key: value for topic, key, value in told if topic == "t.drift-state"}
    changes = [orjson.loads(value) for topic, _, value in told if topic == "t.drift"]
    states = read_states([*newest.values(), b"{", b'{"state": "odd"}'], baseline.hash)
    assert read_states(newest.values(), "other") == []
    [incident] = open_incidents(states, Control())
    assert incident.id == next(one["incident"]["id"] for one in changes if one["state"] == "drifting")
    assert set(incident.monitors) == {state["monitor"] for state in states if state["state"] == "drifting"}
    assert incident.standing(NOW) == "open"
    until = NOW + timedelta(hours=1)
    for said_of_it, expected in (
        (note(incident=incident.id), "acknowledged"),
        (note(incident=incident.id, snoozed_until=until), "snoozed"),
        (note(incident=incident.id, acknowledged=False), "open"),
        (note(incident="another"), "open"),
    ):
        [again] = open_incidents(states, Control.of([said_of_it]))
        assert again.standing(NOW) == expected
    [quiet] = open_incidents(states, Control.of([note(incident=incident.id, snoozed_until=until)]))
    assert quiet.standing(until) == "acknowledged"


def test_statistics_are_shares_of_thresholds(baseline: Baseline) -> None:
    processor = DriftProcessor("t", baseline, recover=20)
    offline = Offline(processor, Said(), tables=(TABLE,))
    log = panes_log(baseline, 500)
    assert processor.statistics({0}) == {}
    counted = [offline.process(batch_of(PANES, [value])).counts for value in log]
    found = processor.statistics({0})
    assert found["amount/location"] == 1.0  # it drifts, and a CUSUM goes no higher than its threshold
    assert all(0 < part <= 1 for part in found.values())
    assert processor.statistics({1}) == {}
    assert sum(counts[("drift_windows", "full")] for counts in counted) > 5_000 / 64
