"""The outcome agent's counts are those of a plain recount, however batches are cut and whatever is lost on the way."""

from __future__ import annotations

from copy import deepcopy
from datetime import timedelta
from random import Random
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.core.outcomes.measures import Group, Window, loads, merged, record
from tests.fast.outcome_records import (
    START,
    START_MS,
    TOPICS,
    Lane,
    cost,
    decision,
    id_of,
    make_plan,
    revision,
    rows_of,
)
from tests.outcomes_recount import Recount

HOUR = 3_600_000
FAR = "9999-12-31T23:59:59Z"
PROMPTS = {"llm": "llm_prompt", "next": "next_prompt"}
REVIEW = {"decision": "review", "tier": "automatic", "rule": "unsure", "would_be": "decline"}


def recount(log: dict[str, list[tuple[Any, int]]], **more: Any) -> dict[int, Any]:
    made: dict[str, Any] = {"seconds": 3600, "segments": ("region",), "costs": cost, "score": "repaid"}
    settings = made | {"baseline": "approve"} | more
    raw = {topic: [(orjson.dumps(value), at) for value, at in rows] for topic, rows in log.items()}
    topics = (TOPICS.decisions, TOPICS.review_events, TOPICS.outcomes_by_lane)
    return Recount(("repaid", "defaulted"), **settings).take(*(raw.get(topic, []) for topic in topics))


NUMBERS = st.integers(0, 20)
NOW = START + timedelta(hours=3)
UNTIL = START_MS + 4 * HOUR
AHEAD = st.sampled_from([0, 0, 0, 0, 2 * HOUR, 400 * 24 * HOUR, 10**15])
"""By how much a clock is fast."""
TIMES = st.sampled_from(
    [START.isoformat(), START.isoformat(), "9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+14:00"]
)
KINDS = st.sampled_from(
    [
        {},
        {"decision": "decline", "rule": "bad", "would_be": "decline", "score": 0.2},
        REVIEW,
        {"decision": "decline", "tier": "fallback:x", "why": "no_score", "score": None, "score_reason": "timeout"},
        {"why": "explored", "would_be": "decline", "explored": {"instead_of": "decline", "share": 0.005}},
        {"features": {"region": None}, "key": None},
        {"tier": "stand-in:small", "model": "m2", "fallback_reason": "breaker_open"},
        {"features": {"financed": 12.345, "region": "süd"}, "model": None},
        {"features": {"llm_prompt": "t@1", "next_prompt": "n@1"}, "scored_by": "llm"},
        {"features": {"llm_prompt": "t@2", "next_prompt": "n@1"}, "scored_by": None},
        {"features": {"llm_prompt": "t@2", "next_prompt": "n@1"}, "scored_by": "next"},
        {"features": {"llm_prompt": "t@2"}, "scored_by": "by-numbers"},
        {"features": {"llm_prompt": ["t"]}},
    ]
)


Log = dict[str, list[tuple[Any, int]]]


@st.composite
def logs(draw: st.DrawFn, lane: int = 0) -> Log:
    """Three topics of one lane: decisions with repeats and revisions, steps of review, outcomes with corrections. Some
    clocks are wrong, and some outcomes are none."""
    decisions: list[tuple[Any, int]] = []
    made: dict[int, dict[str, Any]] = {}
    for number in draw(st.lists(NUMBERS, max_size=25)):
        at = START_MS + draw(st.integers(0, 3 * HOUR)) + draw(AHEAD)
        made.setdefault(number, decision(number, lane=lane, at=START_MS, **draw(KINDS)))
        decisions.append((made[number], at))
        if draw(st.booleans()):
            to = draw(st.sampled_from(["approve", "decline", "escalate"]))
            expired = draw(st.booleans())
            more = (
                {"tier": "expiry", "why": "expired"}
                if expired
                else {"why": draw(st.sampled_from(["verdict", "correction"]))}
            )
            again = {name: made[number][name] for name in ("would_be", "key", "features")} | more
            decisions.append((revision(number, draw(st.integers(1, 3)), to, lane=lane, **again), at + 5))
    outcomes = []
    for number in draw(st.lists(NUMBERS, max_size=25)):
        value = draw(st.sampled_from(["repaid", "defaulted", True, 3.5, 2**53 + 1]))
        amount = draw(st.none() | st.integers(-5000, 5000).map(float))
        whose = {"id": id_of(number, lane)} if draw(st.booleans()) else {"key": f"k{number}"}
        said = {**whose, "value": value, "amount": amount, "time": draw(TIMES)}
        outcomes.append((said, UNTIL))  # when all decisions are made
    steps = st.sampled_from(["opened", "claimed", "decided", "expired", "confirmed", "refused"])
    reviews = [
        (
            {
                "step": draw(steps),
                "kind": kind,
                "time": "2026-01-01T01:30:07.25Z",
                "opened": draw(st.sampled_from([*(f"2026-01-01T0{hour}:00:00Z" for hour in (0, 1)), FAR])),
                "was": draw(st.sampled_from(["approve", "decline"])),
                "decision": draw(st.sampled_from(["approve", "decline"])),
                "share": None if kind == "review" else 0.01,
            },
            START_MS,
        )
        for kind in draw(st.lists(st.sampled_from(["review", "audit", "second_opinion"]), max_size=20))
    ]
    return {TOPICS.decisions: decisions, TOPICS.outcomes_by_lane: outcomes, TOPICS.review_events: reviews}


def drive(lane: Lane, log: Log, data: Any) -> None:
    """Give a lane its topics in batches, of which some are lost, with restarts and ticks between them."""
    left = {topic: list(rows) for topic, rows in log.items()}
    while any(left.values()):
        part = {}
        for topic, rows in left.items():
            many = data.draw(st.integers(0, len(rows)))
            part[topic] = rows[:many]
        if not any(part.values()):
            part = {topic: rows[:1] for topic, rows in left.items()}
        fate = data.draw(st.sampled_from(["kept", "kept", "lost", "restart", "tick"]))
        if fate == "lost":
            lane.give(part, lose=True, now=NOW)
            continue
        if fate == "restart":
            lane.restart()
        lane.give(part, now=NOW)
        if fate == "tick":
            lane.tick()
        left = {topic: rows[len(part[topic]) :] for topic, rows in left.items()}


@settings(max_examples=60, deadline=None)
@given(first=logs(0), second=logs(1), data=st.data())
def test_whatever_the_batches_counts_are_those_of_a_recount(first: Log, second: Log, data: Any) -> None:
    said = [row for row in first[TOPICS.outcomes_by_lane] if "key" in row[0]]  # every lane is given those by key
    second[TOPICS.outcomes_by_lane] = said + [row for row in second[TOPICS.outcomes_by_lane] if "key" not in row[0]]
    for number, log in enumerate((first, second)):
        lane = Lane(make_plan(prompts=PROMPTS), number)
        drive(lane, log, data)
        found, expected = lane.windows(), recount(log, until=UNTIL, prompts=PROMPTS)
        assert set(found) == set(expected)
        for start, window in expected.items():
            assert found[start].groups == window.groups
            assert found[start].own == window.own
            assert found[start].marks == window.marks


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-6, 30), st.integers(1, 40), st.booleans()), max_size=12))
def test_clocks_may_differ_while_decisions_leave(batches: list[tuple[int, int, bool]]) -> None:
    lane, count = Lane(make_plan(retain=timedelta(hours=4))), 0
    for hours, many, ticks in batches:
        numbers, at = range(count, count + many), START_MS + hours * HOUR
        lane.give({TOPICS.decisions: rows_of(map(decision, numbers), at)}, now=START + timedelta(hours=24))
        count += many
        outcomes = [{"id": id_of(n), "value": "repaid", "time": START.isoformat()} for n in range(0, count, 7)]
        lane.give({TOPICS.outcomes_by_lane: rows_of(outcomes, at)}, now=START + timedelta(hours=24))
        if ticks:
            lane.tick()
    counts = [one for window in lane.windows().values() for one in window.groups.values()]
    assert sum(one["decisions"] for one in counts) == count
    assert sum(one.get("came/own/approve/repaid", 0) for one in counts) <= len(range(0, count, 7))


NAMES = st.sampled_from(["decisions", "came/own/approve/repaid", "realised/sum"])
COUNTS = st.dictionaries(NAMES, st.integers(-(10**30), 10**30))
GROUPS = st.sampled_from([Group("{}", rule, "p", None, "automatic", "approve", None, "rule") for rule in "abc"])
MARKS = st.dictionaries(st.sampled_from(["timeout", "stale"]), st.tuples(st.integers(0, 50), st.integers(50, 99)))
WINDOWS = st.builds(Window, st.integers(0, 5), st.just(9), st.dictionaries(GROUPS, COUNTS), COUNTS, MARKS)


@given(st.lists(WINDOWS, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_lanes_merge_in_any_order(windows: list[Window], draw: Random) -> None:
    def told(some: list[Window]) -> Any:
        total = merged(deepcopy(some))
        assert total is not None
        groups = {group: {n: c for n, c in counts.items() if c} for group, counts in total.groups.items()}
        return total.start, total.seconds, groups, {n: c for n, c in total.own.items() if c}, total.marks

    expected = told(windows)
    plain = sum(counts.get("realised/sum", 0) for window in windows for counts in window.groups.values())
    draw.shuffle(windows)
    assert told(windows) == expected
    assert sum(counts.get("realised/sum", 0) for counts in expected[2].values()) == plain
    half = merged(deepcopy(windows[: len(windows) // 2]))
    assert told([*([half] if half else []), *windows[len(windows) // 2 :]]) == expected
    raw = orjson.dumps(record("t", 0, windows[0], "2026-01-01T00:00:00Z", 1))
    assert told([loads(raw, 1)[1]]) == told(windows[:1])


def test_an_outcome_may_come_before_its_decision() -> None:
    lane = Lane(make_plan())
    by_id = {"id": id_of(1), "value": "repaid", "time": START.isoformat()}
    by_key = {"key": "k2", "value": "defaulted", "amount": 70.0, "time": START.isoformat()}
    lane.give({TOPICS.outcomes_by_lane: rows_of([by_id, by_key])})
    assert lane.counts == {"early": 2}
    lane.restart()
    lane.give({TOPICS.decisions: rows_of([decision(1), decision(2)])})
    [window] = lane.windows().values()
    [counts] = window.groups.values()
    assert counts["came/own/approve/repaid"] == counts["came/own/approve/defaulted"] == 1
    assert counts["realised/sum"] == round((-0.05 * 1001 + 70) * 1e6)
    assert [key for key, _ in lane.tables.items("outcomes") if key[:1] in b"ey"] == []
