"""The parts of the outcome agent: what is kept and found, what is bounded, intervals, summaries, recovery, joining."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from streamproc.cli import cli
from streamproc.cli.stats import show
from streamproc.core.control import IncidentNote, NewMode
from streamproc.core.control import loads as load_said
from streamproc.core.drift.alarms import instant
from streamproc.core.index import Index
from streamproc.core.outcomes import early, kept, measures
from streamproc.core.outcomes.book import Book, standing
from streamproc.core.outcomes.intervals import kappa, mean, weighted, wilson
from streamproc.core.outcomes.kept import Chunk
from streamproc.core.outcomes.measures import MOST_GROUPS, Window, buckets, merged, quantile
from streamproc.core.outcomes.outcome import loads as load_outcome
from streamproc.core.outcomes.summary import cohorts, summary
from streamproc.core.state import Tables
from streamproc.errors import UserError
from streamproc.late import Join, Outcomes, outcome_of
from streamproc.recovery import of_drift, of_model, of_modes
from tests.fast.outcome_records import (
    START,
    START_MS,
    TOPICS,
    Lane,
    decision,
    id_of,
    make_plan,
    revision,
    rows_of,
)
from tests.record_schemas import problems

DAY = 86_400_000


# -- finding ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 30), max_size=40), max_size=40), st.integers(0, 200))
def test_the_index_finds_the_newest_position(batches: list[list[int]], forgotten: int) -> None:
    index, newest, position = Index(), dict[int, int](), 0
    for batch in batches:
        index.add(np.array(batch, np.uint64), np.arange(position, position + len(batch)))
        newest |= {value: position + place for place, value in enumerate(batch)}
        position += len(batch)
    index.forget(forgotten)
    found = index.find(np.arange(40, dtype=np.uint64)).tolist()
    assert found == [at if (at := newest.get(value, -1)) >= forgotten else -1 for value in range(40)]
    everything = np.concatenate([np.zeros(0, np.int64), *(np.array(batch, np.int64) for batch in batches)])
    for value in range(40):
        own = np.flatnonzero(everything == value)[::-1]
        assert list(index.positions(value)) == own[own >= forgotten].tolist()


@pytest.mark.parametrize("base", [0, 1 << 40])
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_an_index_in_parts_finds_the_same(base: int, data: st.DataObject) -> None:
    chance, index = np.random.default_rng(data.draw(st.integers(0, 2**32))), Index()
    values = chance.integers(0, 2**64, 300, np.uint64)
    everything, forgotten, position = list[tuple[int, int]](), 0, base
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamproc.core.index.PART", 16)
        for _ in range(data.draw(st.integers(1, 40))):
            batch = chance.choice(values, int(chance.integers(0, 100)))
            positions = position + np.cumsum(chance.choice([1, 3, 1 << 31], len(batch), p=[0.9, 0.09, 0.01]))
            index.add(batch, positions)
            everything += zip(batch.tolist(), positions.tolist(), strict=True)
            position = int(positions[-1]) if len(batch) else position
            if everything and chance.random() < 0.2:
                forgotten = max(forgotten, everything[int(chance.integers(len(everything)))][1])
                index.forget(forgotten)
    newest = {value: at for value, at in everything if at >= forgotten}
    assert index.find(values).tolist() == [newest.get(value, -1) for value in values.tolist()]
    for value in values[:20].tolist():
        own = [at for one, at in everything if one == value and at >= forgotten]
        assert list(index.positions(value)) == own[::-1]


def test_the_index_of_many_small_batches_has_few_levels() -> None:
    index = Index()
    for number in range(5_000):
        index.add(np.array([number], np.uint64), np.array([number]))
    assert len(index._levels) < 60
    assert index.find(np.array([0, 4_999, 5_000], np.uint64)).tolist() == [0, 4_999, -1]


def test_decisions_whose_ids_share_64_bits_do_not_hide_one_another() -> None:
    book, tables, whole = Book(3600), Tables(["outcomes"]), chunk_of(3)
    alike = [b"8 equals" + bytes([0, 0, 0, number]) for number in range(4)]
    for row in range(3):
        book.begin(tables, 0, b"step")
        book.append(replace(whole.part(row, row + 1), ids=alike[row]))
        tables.apply({"outcomes": book.end()})
    book.begin(tables, 0, b"step")
    assert [at >= 0 and book.row(at)[0].id(book.row(at)[1]) for at in book.find(alike)] == [*alike[:3], False]


def chunk_of(count: int) -> Chunk:
    ids = b"".join(bytes.fromhex(id_of(number)[2:]) for number in range(count))
    stamps, windows = np.arange(count), np.arange(count) * 3600
    keys = [None if number % 3 == 0 else f"kéy{number}" for number in range(count)]
    explored = {1: ("decline", 0.005)} if count > 1 else {}
    return Chunk(ids, stamps, windows, np.arange(count).astype(np.uint16), keys, {"a": list(range(count))}, explored)


@given(st.integers(1, 30), st.integers(0, 30))
def test_chunks_survive_their_value_and_being_cut(count: int, cut: int) -> None:
    cut = min(cut, count)
    whole = chunk_of(count)
    for again in (kept.loads(kept.dumps(whole)), whole.part(0, cut).joined(whole.part(cut, count))):
        assert (again.ids, again.keys, again.columns) == (whole.ids, whole.keys, whole.columns)
        assert again.explored == whole.explored
        for name in ("stamps", "windows", "groups"):
            assert getattr(again, name).tolist() == getattr(whole, name).tolist()
    only = whole.only(range(0, count, 2))
    assert [only.id(row) for row in range(len(only))] == [whole.id(row) for row in range(0, count, 2)]


def test_a_later_version_of_kept_decisions_is_not_guessed_at() -> None:
    raw = kept.dumps(chunk_of(1))
    with pytest.raises(ValueError, match="version 2"):
        kept.loads(raw[:1] + b"\x02" + raw[2:])


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_a_kept_decision_takes_few_bytes() -> None:
    lane = Lane(make_plan())
    lane.give({TOPICS.decisions: rows_of(decision(number) for number in range(1_000))})
    assert sum(len(key) + len(value) for key, value in lane.tables.items("outcomes") if key[:1] == b"c") < 80 * 1_000


def test_decisions_leave_after_their_time_with_all_that_is_known_of_them() -> None:
    lane = Lane(make_plan(retain=timedelta(days=2), window=timedelta(hours=6)))
    for day in range(12):
        numbers = range(100 * day, 100 * day + 100)
        lane.give({TOPICS.decisions: rows_of((decision(number) for number in numbers), START_MS + day * DAY)})
        outcomes = [{"id": id_of(number), "value": "repaid", "time": START.isoformat()} for number in numbers]
        lane.give({TOPICS.outcomes_by_lane: rows_of(outcomes)})
        lane.tick()
    kinds = [key[:1] for key, _ in lane.tables.items("outcomes")]
    assert lane.counts["retained"] == 900  # those of the last day and the two before stay
    assert kinds.count(b"k") == 300 and kinds.count(b"c") == 3 and kinds.count(b"d") <= 5
    late = [{"id": id_of(5), "value": "defaulted", "time": START.isoformat()}]
    lane.give({TOPICS.outcomes_by_lane: rows_of(late)})
    assert lane.counts["early"] == 1  # what nobody knows any more waits for a decision, which does not come
    counts = [one for window in lane.windows().values() for one in window.groups.values()]
    assert sum(one["decisions"] for one in counts) == sum(one["came/own/approve/repaid"] for one in counts) == 1_200


def test_a_clock_that_was_fast_costs_no_window_of_what_is_kept() -> None:
    lane = Lane(make_plan(retain=timedelta(days=1)))
    for first, hour in ((0, 5), (100, 0), (200, 28), (300, 29)):
        at = START_MS + hour * 3_600_000
        lane.give({TOPICS.decisions: [(decision(first + n, at=at), at + n) for n in range(100)]})
        lane.tick()
    lane.give({TOPICS.outcomes_by_lane: rows_of([{"id": id_of(150), "value": "repaid", "time": START.isoformat()}])})
    lane.give({TOPICS.decisions: rows_of([revision(151, 1, "decline")], START_MS + 29 * 3_600_000)})
    counts = lane.windows()[START_MS // 1000].groups.values()
    assert sum(one["came/own/approve/repaid"] for one in counts if "came/own/approve/repaid" in one) == 1
    assert sum(one.get("became/reviewer/decline", 0) for one in counts) == 1


@pytest.mark.parametrize("ahead", [timedelta(days=400), timedelta(days=4_000_000)])
def test_a_clock_that_is_years_ahead_spoils_no_cohort(ahead: timedelta) -> None:
    lane, hour = Lane(make_plan()), 3_600_000
    for first, wrong in ((0, timedelta()), (100, ahead), (200, timedelta())):
        at = START_MS + first * hour // 100 + round(wrong.total_seconds() * 1000)
        now = START + timedelta(hours=first / 100)
        lane.give({TOPICS.decisions: rows_of((decision(first + n) for n in range(100)), at)}, now=now)
        step = STEP | {"step": "opened", "opened": "9999-12-31T23:59:59Z"}
        lane.give({TOPICS.review_events: rows_of([step])}, now=now)
        lane.tick()
    outcomes = [{"id": id_of(number), "value": "repaid", "time": START.isoformat()} for number in range(300)]
    lane.give({TOPICS.outcomes_by_lane: rows_of(outcomes)}, now=START + timedelta(hours=2))
    assert lane.counts.get("retained") is None and lane.counts["approve/repaid"] == 300
    assert [(start - START_MS // 1000) // 3600 for start in sorted(lane.windows())] == [0, 1, 2, 3]


def test_of_more_decisions_than_a_lane_may_keep_the_oldest_leave() -> None:
    lane = Lane(make_plan(most=1_000))
    for first in range(0, 3_000, 500):
        lane.give({TOPICS.decisions: rows_of(decision(number) for number in range(first, first + 500))})
    assert lane.counts["crowded_out"] == 2_000
    assert sum(key[:1] == b"c" for key, _ in lane.tables.items("outcomes")) == 2


def by_id(*numbers: int, **more: Any) -> list[dict[str, Any]]:
    return [{"id": id_of(number), "value": "repaid", "time": START.isoformat()} | more for number in numbers]


def by_key(*keys: str) -> list[dict[str, Any]]:
    return [{"key": key, "value": "repaid", "time": START.isoformat()} for key in keys]


def waiting(lane: Lane) -> dict[bytes, int]:
    """How many wait by id and by key, as the state has them, and as its own count says."""
    kinds = [key[:1] for key, _ in lane.tables.items("outcomes")]
    meta = standing(lane.tables)
    assert meta is not None
    assert (meta.early_by_id.waiting, meta.early_by_key.waiting) == (kinds.count(b"e"), kinds.count(b"y"))
    return {kind: kinds.count(kind) for kind in (b"e", b"y", b"q", b"p")}


def test_early_outcomes_are_bounded_and_leave_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early, "MOST", 1_000)
    lane = Lane(make_plan(retain=timedelta(days=1)))
    for first in range(0, 3_000, 300):
        lane.give({TOPICS.outcomes_by_lane: rows_of(by_id(*range(first, first + 300)))})
    assert waiting(lane)[b"e"] <= 1_000
    lane.give({TOPICS.decisions: rows_of([decision(5_000)], START_MS + 3 * DAY)})
    assert waiting(lane) == {b"e": 0, b"y": 0, b"q": 0, b"p": 0}
    assert lane.counts["early_left"] == 3_000


def test_one_name_takes_one_place_however_often_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early, "MOST", 3)
    monkeypatch.setattr(early, "ROWS", 2)
    lane = Lane(make_plan())
    for _ in range(100):
        lane.give({TOPICS.outcomes_by_lane: rows_of(by_id(1, 1, 2))})
    assert waiting(lane) == {b"e": 2, b"y": 0, b"q": 1, b"p": 0}
    lane.give({TOPICS.outcomes_by_lane: rows_of([*by_id(2, value="defaulted"), *by_id(3)])})
    assert lane.counts.get("early_left", 0) == 0 and waiting(lane)[b"e"] == 3
    lane.give({TOPICS.outcomes_by_lane: rows_of(by_id(4))})
    assert lane.counts["early_left"] == 2 and waiting(lane)[b"e"] == 2
    lane.give({TOPICS.decisions: rows_of(map(decision, (1, 3, 4)))})
    assert lane.counts["approve/repaid"] == 2 and waiting(lane)[b"e"] == 0


def test_what_was_taken_leaves_no_queue_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early, "MOST", 10)
    monkeypatch.setattr(early, "ROWS", 2)
    lane = Lane(make_plan())
    for number in range(100):
        lane.give({TOPICS.outcomes_by_lane: rows_of(by_id(number))})
        lane.give({TOPICS.decisions: rows_of([decision(number)])})
    assert lane.counts["joined"] == 100 and waiting(lane)[b"q"] <= 12


def test_a_replaced_outcome_waits_from_its_last_record_on() -> None:
    lane = Lane(make_plan(retain=timedelta(days=1)))
    for day in (0, 0.9):
        lane.give({TOPICS.outcomes_by_lane: rows_of(by_id(1), START_MS + round(day * DAY))})
    lane.give({TOPICS.decisions: rows_of([decision(2)], START_MS + round(1.5 * DAY))})
    assert waiting(lane)[b"e"] == 1
    lane.give({TOPICS.decisions: rows_of([decision(3)], START_MS + 2 * DAY)})
    assert waiting(lane) == {b"e": 0, b"y": 0, b"q": 0, b"p": 0}


def test_outcomes_by_key_crowd_out_none_by_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early, "MOST", 300)
    lane = Lane(make_plan())
    lane.give({TOPICS.outcomes_by_lane: rows_of([*by_id(1), *by_key(*(f"other{number}" for number in range(900)))])})
    assert waiting(lane)[b"e"] == 1 and waiting(lane)[b"y"] <= 300
    lane.give({TOPICS.decisions: rows_of([decision(1)])})
    assert lane.counts["approve/repaid"] == 1


def test_an_outcome_by_key_is_not_that_of_an_event_days_later() -> None:
    one, other = Lane(make_plan(), 0), Lane(make_plan(), 1)
    one.give({TOPICS.decisions: rows_of([decision(1, key="ada")])})
    for lane in (one, other):  # the intake gives it to every lane
        lane.give({TOPICS.outcomes_by_lane: rows_of(by_key("ada"), START_MS + 1000)})
    other.give({TOPICS.decisions: rows_of([decision(2, lane=1, key="ada")], START_MS + 2 * DAY)})
    assert (one.counts["joined"], other.counts.get("joined", 0)) == (1, 0)
    assert waiting(other)[b"y"] == 0
    other.give({TOPICS.outcomes_by_lane: rows_of(by_key("bea"), START_MS + 2 * DAY + 60_000)})
    other.give({TOPICS.decisions: rows_of([decision(3, lane=1, key="bea")], START_MS + 2 * DAY + 30_000)})
    assert other.counts["joined"] == 1  # of the same minute: it had only been faster


def test_groups_of_a_window_are_bounded_and_nothing_is_lost() -> None:
    lane = Lane(make_plan())
    many = [decision(number, rule=f"r{number}", decision="approve") for number in range(2 * MOST_GROUPS)]
    lane.give({TOPICS.decisions: rows_of(many)})
    [window] = lane.windows().values()
    assert len(window.groups) == MOST_GROUPS + 1
    [rest] = [counts for group, counts in window.groups.items() if group.rule == "other"]
    assert rest["decisions"] == MOST_GROUPS
    assert sum(counts["decisions"] for counts in window.groups.values()) == 2 * MOST_GROUPS


def test_what_is_none_of_ours_is_counted_and_stops_nothing() -> None:
    lane = Lane(make_plan())
    bad: list[Any] = [b"", b"{", b"[]", orjson.dumps(decision(1) | {"id": "x"}), orjson.dumps({"id": id_of(1)})]
    bad.append(orjson.dumps(decision(1) | {"id": "0-" + "z" * 24}))
    for topic in (TOPICS.decisions, TOPICS.review_events, TOPICS.outcomes_by_lane):
        lane.give({topic: [(value, START_MS) for value in bad]})
    lane.give({TOPICS.decisions: rows_of([decision(1), revision(9, 1, "approve")])})
    assert lane.counts["unreadable"] >= 17
    assert (lane.counts["decision"], lane.counts["revision_of_unknown"]) == (1, 1)


HUGE = 10**30
NAIVE = "2026-01-01T00:00:00"
STEP = {"step": "decided", "kind": "audit", "time": START.isoformat(), "opened": START.isoformat(), "was": "approve"}
STRANGE = [
    decision(1) | {"features": {"region": None, "other": HUGE}, "id": "0-" + "A" * 24},
    revision(1, 1, "approve") | {"id": "ab-" + "a" * 24},
    revision(1, 1, "approve") | {"review": {"opened": NAIVE, "decided": START.isoformat()}},
    decision(1, source={"offset": 1, "timestamp": HUGE}),
    decision(1, source={"offset": HUGE, "timestamp": 1}),
    *(decision(1, explored={"instead_of": "decline", "share": share}) for share in (0, 1e-320, -1)),
    STEP | {"share": 1e-320},
    STEP | {"opened": NAIVE},
    STEP | {"opened": "0001-01-01T00:00:00", "time": "0001-01-01T00:00:00"},
]


@pytest.mark.parametrize("value", STRANGE)
def test_no_record_stops_a_lane_or_a_join(value: Any) -> None:
    raw = json.dumps(value).encode()
    deep = raw[:-1] + b', "else": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    outcome = {"id": id_of(1), "value": "repaid", "time": START.isoformat()}
    lane = Lane(make_plan())
    topic = TOPICS.review_events if "step" in value else TOPICS.decisions
    lane.give({topic: [(raw, START_MS), (deep, START_MS)]})
    lane.give({TOPICS.outcomes_by_lane: rows_of([outcome])})
    assert lane.counts == {"unreadable": 2, "early": 1}
    known = Outcomes()
    known.add(load_outcome(orjson.dumps(outcome)))
    assert list(Join(make_plan(), known).give([raw, deep], [START_MS, START_MS])) == []


@pytest.mark.parametrize("strange", [["a"], {"a": 1}, HUGE])
def test_what_is_no_value_of_a_column_is_none(strange: Any) -> None:
    lane = Lane(make_plan())
    odd = decision(1, features={"region": strange, "financed": strange}, score=1e308)
    lane.give({TOPICS.decisions: [(json.dumps(odd).encode(), START_MS), (decision(2), START_MS)]})
    outcomes = [{"id": id_of(number), "value": "repaid", "time": START.isoformat()} for number in (1, 2)]
    lane.give({TOPICS.outcomes_by_lane: rows_of(outcomes)})
    [window] = lane.windows().values()
    assert {group.segment for group in window.groups} == {'{"region":null}', '{"region":"north"}'}
    assert sum(counts.get("realised/n", 0) for counts in window.groups.values()) == 1


def test_records_are_as_their_schema_says() -> None:
    lane = Lane(make_plan())
    costly = [{"id": id_of(1), "value": "defaulted", "amount": 9e14, "time": START.isoformat()}]
    lane.give({TOPICS.decisions: rows_of([decision(1), decision(2, score=None, why="stale")])})
    lane.give({TOPICS.outcomes_by_lane: rows_of(costly)})
    lane.tick()
    for value in lane.records.values():
        assert problems("measures", orjson.loads(value)) == []
    [window] = lane.windows().values()
    assert max(counts.get("realised/squares", 0) for counts in window.groups.values()) == 10**30


# -- intervals --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 400), st.integers(1, 400))
def test_wilsons_interval_is_scipys(count: int, more: int) -> None:
    of = count + more
    found = wilson(count, of)
    known = scipy_stats.binomtest(count, of).proportion_ci(method="wilson")
    assert found.low == pytest.approx(known.low, abs=1e-12) and found.high == pytest.approx(known.high, abs=1e-12)


def test_intervals_of_nothing_say_so() -> None:
    assert wilson(0, 0).value is mean(0, 0, 0).value is kappa({}).value is weighted(0, 0, 0).value is None
    assert mean(5, 25, 1) == (5, None, None, 1)
    assert kappa({("a", "a"): 9}).value is None  # no chance to disagree


@given(st.lists(st.integers(-(10**15), 10**15), min_size=2, max_size=50))
def test_means_are_exact_however_large_their_squares(costs: list[int]) -> None:
    found = mean(sum(costs), sum(cost**2 for cost in costs), len(costs), 1_000_000)
    plain = np.array(costs, np.float64) / 1e6
    assert found.value == pytest.approx(plain.mean(), rel=1e-9, abs=1e-3)
    assert found.low is not None and found.value is not None
    spread = 1.959964 * plain.std(ddof=1) / np.sqrt(len(costs))
    assert found.value - found.low == pytest.approx(spread, rel=1e-5, abs=1e-3)


def test_a_weighted_share_of_equal_weights_is_the_plain_one() -> None:
    assert weighted(30 * 100, 200 * 100, 200 * 100**2)[:3] == pytest.approx(wilson(30, 200)[:3])
    assert weighted(10 * 100 + 1, 10 * 100 + 100, 10 * 100**2 + 100)[0] == pytest.approx(0.91)


@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=200))
def test_quantiles_are_at_most_a_fifth_too_large(durations: list[int]) -> None:
    counts = dict[int, int]()
    for bucket in buckets(np.array(durations)).tolist():
        counts[bucket] = counts.get(bucket, 0) + 1
    exact = sorted(durations)[-(-len(durations) // 2) - 1]
    found = quantile(counts, 0.5)
    assert found is not None and exact <= found <= max(exact * 1.2 + 2, exact + 2)


# -- what a manager reads ---------------------------------------------------------------------------------------------


def summarised(lane: Lane, now: datetime = START + timedelta(days=1)) -> dict[str, Any]:
    windows = list(lane.windows().values())
    return summary(lane.plan, windows, windows, now)


def test_an_event_without_an_outcome_is_not_called_good() -> None:
    lane = Lane(make_plan())
    declined = {"decision": "decline", "would_be": "decline", "rule": "bad"}
    lane.give({TOPICS.decisions: rows_of([*map(decision, range(10)), decision(10, **declined)])})
    outcomes = [{"id": id_of(n), "value": "defaulted" if n else "repaid", "time": START.isoformat()} for n in range(2)]
    lane.give({TOPICS.outcomes_by_lane: rows_of(outcomes)})
    told = summarised(lane)
    assert (told["decisions"], told["outcomes"], told["errors"]["value"]) == (11, 2, 0.5)
    [cohort] = told["cohorts"]
    assert (cohort["unlabelled"], cohort["unknown"], cohort["mature"]) == (1, 8, False)
    assert summarised(lane, START + timedelta(days=61))["cohorts"][0]["mature"]
    assert told["errors_by_tier"]["automatic"]["of"] == 2


def test_overrides_times_and_what_is_open() -> None:
    lane = Lane(make_plan())
    review = {"decision": "review", "rule": "unsure", "would_be": "decline"}
    lane.give({TOPICS.decisions: rows_of([decision(n, **review) for n in range(4)])})
    lane.give({TOPICS.decisions: rows_of([revision(0, 1, "approve", **{"would_be": "decline"})])})
    lane.give({TOPICS.decisions: rows_of([revision(1, 1, "decline", **{"would_be": "decline"})])})
    expired = {"tier": "expiry", "why": "expired", "would_be": "decline"}
    lane.give({TOPICS.decisions: rows_of([revision(2, 1, "escalate", **expired)])})
    opened = {"kind": "review", "was": "review", "opened": START.isoformat(), "share": None}
    steps = [opened | {"step": "opened", "time": START.isoformat(), "decision": None} for _ in range(4)]
    steps += [
        opened | {"step": "decided", "time": (START + timedelta(seconds=90)).isoformat(), "decision": "approve"}
    ] * 2
    steps += [opened | {"step": "expired", "time": START.isoformat(), "decision": "escalate"}]
    lane.give({TOPICS.review_events: rows_of(steps)})
    told = summarised(lane, START + timedelta(hours=2))
    assert (told["overrides"]["value"], told["overrides"]["of"]) == (0.5, 2)
    assert told["reviews"]["open"] == 1 and told["reviews"]["oldest_open_seconds"] == 7200
    assert told["reviews"]["expired"] == 1
    assert 90 <= told["time_to_verdict"]["p50"] <= 108
    assert told["automatic"]["value"] == 0.0


def test_errors_are_those_of_what_made_the_decision_that_holds(capsys: pytest.CaptureFixture[str]) -> None:
    lane = Lane(make_plan())
    asked = {"decision": "review", "rule": "unsure", "would_be": "decline"}
    tried = {"why": "explored", "would_be": "decline", "explored": {"instead_of": "decline", "share": 0.01}}
    made = [decision(1, **asked), decision(2), decision(3, **tried), decision(4, tier="fallback:score", why="no_score")]
    made += [decision(5, tier="stand-in:small"), decision(6, decision="a/b"), decision(7, tier="fallback:rules")]
    lane.give({TOPICS.decisions: rows_of([*made, revision(1, 1, "approve", would_be="decline")])})
    lane.give({TOPICS.outcomes_by_lane: rows_of(by_id(*range(1, 8), value="defaulted"))})
    summed = summarised(lane)
    show(summed | {"incidents": [], "baseline": None})
    shown = capsys.readouterr().out
    assert "decided by people" in shown and "1 of 1 experiment with a known outcome" in " ".join(shown.split())
    told = summed["errors_by_tier"]
    assert {tier: (one["value"], one["of"]) for tier, one in told.items()} == {
        "reviewer": (1.0, 1),
        "automatic": (1.0, 1),
        "explored": (1.0, 1),
        "fallback": (1.0, 2),
        "stand-in": (1.0, 1),
    }


def test_every_answer_costs_once_and_cases_are_told_by_kind(capsys: pytest.CaptureFixture[str]) -> None:
    lane = Lane(make_plan(review_cost=2.0))
    lane.give({TOPICS.decisions: rows_of(map(decision, range(10)))})
    for kind in ("review", "audit"):
        case = STEP | {"kind": kind}
        lane.give({TOPICS.review_events: rows_of([case | {"step": "opened"}] * 3)})
        # An audit that differs is decided and corrected by one verdict; then two more are given.
        first = ["decided", "corrected"] if kind == "audit" else ["decided"]
        steps = [case | {"step": step, "decision": "a/b"} for step in (*first, "confirmed", "corrected")]
        lane.give({TOPICS.review_events: rows_of(steps)})
    told = summarised(lane)
    show(told | {"incidents": [], "baseline": None})
    shown = capsys.readouterr().out
    assert "audit: 3 cases: 2 waiting" in shown and "decided by the rules" not in shown
    assert (told["costs"]["reviews"]["answered"], told["costs"]["reviews"]["total"]) == (6, 12.0)
    assert [told["reviews"]["by_kind"][kind]["open"] for kind in ("review", "audit", "second_opinion")] == [2, 2, 0]
    assert told["reviews"]["open"] == told["reviews"]["opened"] - told["reviews"]["decided"] == 4


def test_experiments_say_what_declining_costs() -> None:
    lane = Lane(make_plan())
    tried = {"why": "explored", "would_be": "decline", "explored": {"instead_of": "decline", "share": 0.01}}
    lane.give({TOPICS.decisions: rows_of([decision(n, features={"financed": 1000.0}, **tried) for n in range(20)])})
    outcomes = [{"id": id_of(n), "value": "repaid", "time": START.isoformat()} for n in range(10)]
    lane.give({TOPICS.outcomes_by_lane: rows_of(outcomes)})
    declining = summarised(lane)["declining"]
    assert (declining["experiments"], declining["with_outcome"]) == (20, 10)
    assert declining["costs_more"] == pytest.approx(
        10 * 100 * (20 + 50)
    )  # ten, each for a hundred: 20 lost, 50 not made
    assert declining["low"] < declining["costs_more"] < declining["high"]


def test_samples_are_weighted_by_how_they_were_chosen() -> None:
    lane = Lane(make_plan())
    step = {"kind": "audit", "step": "decided", "time": START.isoformat(), "opened": START.isoformat()}
    said = [("approve", "approve", 0.01)] * 8 + [("approve", "decline", 0.01)] * 2 + [("decline", "decline", 1.0)] * 10
    lane.give({TOPICS.review_events: rows_of(step | {"was": a, "decision": b, "share": c} for a, b, c in said)})
    audit = summarised(lane)["samples"]["audit"]
    assert audit["answered"] == 20
    assert audit["disagreement"]["value"] == pytest.approx(200 / 1010)
    assert audit["kappa"]["value"] == pytest.approx((0.9 - 0.5) / 0.5)


# -- recovery ---------------------------------------------------------------------------------------------------------


def test_a_gap_of_the_model_is_one_incident_across_windows() -> None:
    at = START_MS
    windows = [
        Window(at // 1000, 60, marks={"timeout": (at + 1_000, at + 9_000), "breaker_open": (at + 5_000, at + 59_000)}),
        Window(at // 1000 + 60, 60, marks={"breaker_open": (at + 60_000, at + 80_000), "stale": (at, at + 90_000)}),
        Window(at // 1000 + 3600, 60, marks={"error": (at + 3_600_000, at + 3_601_000)}),
    ]
    first, second = of_model(windows, START + timedelta(days=1))
    assert first.what == "breaker_open, timeout"
    assert (first.onset, first.detection) == (START + timedelta(seconds=1), START + timedelta(seconds=5))
    assert first.end == START + timedelta(seconds=80)
    assert second.detection is None
    assert of_model(windows, START + timedelta(seconds=3_610))[-1].end is None


def test_modes_and_drift_have_their_stretches() -> None:
    def mode(minutes: int, what: Any) -> NewMode:
        return NewMode(pipeline="t", time=START + timedelta(minutes=minutes), by="ada", why="so", mode=what)

    [stretch] = of_modes([mode(0, "automatic"), mode(5, "fallback"), mode(9, "automatic")])
    assert (stretch.onset, stretch.end) == (START + timedelta(minutes=5), START + timedelta(minutes=9))

    def change(monitor: str, state: str, hour: int) -> dict[str, Any]:
        time = f"2026-01-01T{hour:02}:00:00Z"
        return {
            "monitor": monitor,
            "state": state,
            "time": time,
            "onset": {"time": "2026-01-01T00:30:00Z"},
            "incident": {"id": "i"},
        }

    note = IncidentNote(
        pipeline="t", time=START + timedelta(hours=3), by="ada", why="so", incident="i", acknowledged=True
    )
    changes = [
        change("a", "drifting", 1),
        change("b", "drifting", 2),
        change("a", "stable", 4),
        change("b", "stable", 6),
    ]
    [incident] = of_drift(changes, [note])
    assert incident.onset.hour == 0 and incident.detection is not None and incident.detection.hour == 1
    assert incident.mitigation == note.time and incident.end is not None and incident.end.hour == 6
    assert of_drift(changes[:3], [])[0].end is None


def drifted(monitor: str, hour: int, incident: str | None = "i", **more: Any) -> dict[str, Any]:
    """A change of a monitor; without an incident it is stable."""
    named = None if incident is None else {"id": incident}
    state, time = "stable" if incident is None else "drifting", f"2026-01-01T{hour:02}:00:00Z"
    return {"monitor": monitor, "state": state, "time": time, "onset": {"time": time}, "incident": named} | more


def test_an_incident_ends_when_its_monitor_moves_to_another() -> None:
    first, second = of_drift([drifted("a", 1), drifted("a", 2, "j"), drifted("a", 3, None, onset=None)], [])
    assert (first.what, second.what) == ("i", "j")
    assert first.end is not None and first.end.hour == 2
    assert second.end is not None and second.end.hour == 3


def test_single_strange_records_keep_nobody_from_the_others() -> None:
    strange: list[Any] = [None, [], {}, drifted("a", 1, time=None), drifted("a", 1, time="1-01-01T00:00:00.000000Z")]
    strange += [drifted("a", 1, onset={"time": None}), drifted("a", 1, time="2026-01-01T00:00:00"), drifted("a", 4)]
    [incident] = of_drift(strange, [])
    assert incident.onset.hour == 4
    early = instant(round((datetime(1, 1, 1, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * 10**6)
    assert early == "0001-01-01T00:00:00.000000Z" and datetime.fromisoformat(early).year == 1
    assert instant(1_767_225_600_000_001) == "2026-01-01T00:00:00.000001Z"


def test_a_control_record_that_is_nested_too_deeply_is_none() -> None:
    with pytest.raises(ValueError, match="no control record"):
        load_said(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


@pytest.mark.parametrize(
    "more",
    [{"start": 253402300799}, {"start": "x"}, {"marks": {"timeout": [0, 10**17]}}, {"groups": [{"tier": 1}]}, {"a": 1}],
)
def test_a_record_of_measures_is_read_whole_or_not(more: dict[str, Any]) -> None:
    made = measures.record("t", 0, Window(0, 60, marks={"timeout": (1, 2)}), "2026-01-01T00:00:00Z", 1)
    if "a" in more:
        assert measures.loads(orjson.dumps(made | more), 1)[1].marks == {"timeout": (1, 2)}
        return
    for raw in (orjson.dumps(made | more), b"[" * 100_000):
        with pytest.raises(ValueError, match="no record of measures"):
            measures.loads(raw, 1)


# -- late outcomes ----------------------------------------------------------------------------------------------------


def joined(records: list[tuple[Any, int]], outcomes: list[dict[str, Any]]) -> tuple[Join, list[bytes]]:
    """All of the decisions with all of the outcomes."""
    known = Outcomes()
    for said in outcomes:
        known.add(load_outcome(orjson.dumps(said)))
    values, stamps = [orjson.dumps(value) for value, _ in records], [at for _, at in records]
    known.look(values, stamps)
    join, lines = Join(make_plan(), known), list[bytes]()
    for first in range(0, len(records), 7):
        lines += join.give(values[first : first + 7], stamps[first : first + 7])
    return join, lines


def test_an_outcome_by_key_is_that_of_the_newest_decision() -> None:
    decisions = [(decision(number, key="ada"), START_MS + number) for number in (1, 3, 2)]
    join, lines = joined(decisions, by_key("ada"))
    assert (join.decisions, join.joined) == (3, 1)
    assert [orjson.loads(line)["decision"]["id"] for line in lines] == [id_of(3)]


@pytest.mark.parametrize("order", [1, -1])
def test_the_later_of_two_outcomes_holds_whatever_names_it(order: int) -> None:
    said = [*by_id(1, value="defaulted"), *by_key("k1")][::order]
    lane = Lane(make_plan())
    lane.give({TOPICS.decisions: rows_of([decision(1)])})
    lane.give({TOPICS.outcomes_by_lane: rows_of(said)})
    [window] = lane.windows().values()
    join, [line] = joined(rows_of([decision(1)]), said)
    assert orjson.loads(line)["outcome"]["value"] == said[-1]["value"]
    [counts], [late] = window.groups.values(), join.measured()[0].groups.values()
    assert {name for name in counts if name[:5] == "came/"} == {name for name in late if name[:5] == "came/"}


def test_a_join_knows_of_revisions_without_an_outcome() -> None:
    records: list[dict[str, Any]] = [decision(1, decision="decline", would_be="decline")]
    records.append(revision(1, 1, "approve", why="correction"))
    lane = Lane(make_plan(window=timedelta(days=1)))
    lane.give({TOPICS.decisions: rows_of(records)})
    now, plan = START + timedelta(days=1), make_plan()
    told = cohorts(plan, joined(rows_of(records), [])[0].measured(), now)
    assert told == cohorts(plan, list(lane.windows().values()), now) and told[0]["unlabelled"] == 0


def test_late_outcomes_are_joined_as_the_agent_would() -> None:
    review = {"decision": "review", "rule": "unsure", "would_be": "decline"}
    records = [(decision(n, **(review if n % 3 == 0 else {})), START_MS + n * DAY // 8) for n in range(40)]
    records += [(revision(n, 1, "approve", **{"would_be": "decline"}), START_MS + 9 * DAY) for n in range(0, 40, 6)]
    outcomes = [
        {"id": id_of(n), "value": "defaulted" if n % 5 else "repaid", "time": START.isoformat()}
        for n in range(0, 40, 2)
    ]
    outcomes.append({"key": "k1", "value": "repaid", "time": START.isoformat()})
    lane = Lane(make_plan(window=timedelta(days=1)))
    lane.give({TOPICS.decisions: records})
    lane.give({TOPICS.outcomes_by_lane: rows_of(outcomes)})
    join, lines = joined(records, outcomes)
    told, expected = merged(join.measured()), merged(lane.windows().values())
    assert told is not None and expected is not None
    came = [
        {n: c for n, c in counts.items() if n.startswith(("came/", "realised/"))} for counts in told.groups.values()
    ]
    assert came == [
        {n: c for n, c in expected.groups[group].items() if n.startswith(("came/", "realised/"))}
        for group in told.groups
    ]
    assert join.joined == 21
    assert len(lines) == 21 + len(range(0, 40, 6))
    assert all(orjson.loads(line)["outcome"]["value"] for line in lines)


def test_a_row_that_is_no_outcome_is_named() -> None:
    assert outcome_of(b'{"key": 17, "id": null, "value": 1, "time": "2026-01-01T00:00:00Z"}', "row 1").key == "17"
    with pytest.raises(UserError, match="row 2 is no outcome"):
        outcome_of(b'{"key": "a", "value": 1}', "row 2")


@pytest.mark.parametrize("command", [["stats"], ["outcomes", "join"]])
def test_commands_say_what_is_missing(command: list[str]) -> None:
    file = Path(__file__).parents[2] / "streamproc/cli/skeleton/pipeline.yaml"
    result = CliRunner().invoke(cli, [*command, str(file)])
    assert isinstance(result.exception, UserError) and "no `outcomes`" in result.exception.message


def test_the_summary_of_nothing_is_empty() -> None:
    told = summary(make_plan(), [], [], datetime(2026, 1, 1, tzinfo=UTC))
    assert told["decisions"] == 0 and told["errors"]["value"] is None
