"""Primary, stand-ins and shadows: who is asked for which events, and what decisions say of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.core.decide import DecideProcessor
from streamproc.core.plan import ModelPlan
from streamproc.core.processor import Answer, Ask, Score, Seen
from streamproc.offline import Offline, batch_of
from tests.fast.plans import TOPIC, decide, decisions, flat, letters, make_plan, sent
from tests.record_schemas import record_problems

REASONS = ["timeout", "breaker_open", "model_error", "model_unavailable", "wrong_length", "busy", "not_finite"]
CAUSES = {
    "timeout": "timeout",
    "breaker_open": "breaker_open",
    "model_error": "error",
    "model_unavailable": "error",
    "wrong_length": "error",
    "busy": "no_score",
    "not_finite": "no_score",
}
RULES = [
    ("low", "score < 0.3", "decline"),
    ("odd", "scored_by = 'b' AND score > 0.9", "review"),
    ("rest", None, "approve"),
]
FALLBACK = [
    ("slow", "model_status = 'timeout'", "decline"),
    ("nothing", "amount > 500", "abstain"),
    ("people", None, "review"),
]
COLUMNS = ["model_status", "scored_by", "model_confidence", "score_good"]


class Said:
    """Answers from what each model says of each event: a number, or a reason; ``asked`` is who was asked for which."""

    def __init__(self, said: Mapping[str, Sequence[Any]]) -> None:
        self.said, self.asked = said, list[tuple[str, list[int]]]()

    def __call__(self, ask: Ask) -> Answer:
        assert isinstance(ask, Score)
        rows = [int(x) for x in ask.columns["count"]]
        self.asked.append((ask.model, rows))
        own = [self.said[ask.model][row] for row in rows]
        values = np.array([one if isinstance(one, float) else np.nan for one in own])
        reasons = [one if isinstance(one, str) else None for one in own]
        return Answer(values, reasons, f"v-{ask.model}", columns={"model_confidence": values / 2})


def plan_of(**more: Any) -> Any:
    options = {"inputs": ["count"], "stand_ins": ["b", "c"], "shadows": ["s"], "columns": COLUMNS, "fallback": FALLBACK}
    return make_plan(RULES, **{**options, **more})


def events(count: int) -> list[dict[str, Any]]:
    return [{"id": row, "count": row, "amount": row * 100.0} for row in range(count)]


def usable(one: Any) -> bool:
    return isinstance(one, float) and math.isfinite(one)


def plainly(said: Mapping[str, Sequence[Any]], row: int) -> dict[str, Any]:
    """What becomes of one event, by the slow clear way."""

    first = said["m"][row]
    status = "ok" if usable(first) else first if isinstance(first, str) else "not_finite"
    by = next((name for name in ("m", "b", "c") if usable(said[name][row])), None)
    found = {"scored_by": by, "score": None if by is None else said[by][row], "model": f"v-{by or 'm'}"}
    cause = None if status == "ok" else CAUSES[status]
    if by is None:
        found |= {"score_reason": status, "fallback_reason": cause, "why": "no_score"}
        if status == "timeout":
            return found | {"decision": "decline", "tier": "fallback:slow", "rule": "slow"}
        if row * 100 > 500:
            return found | {"decision": "abstain", "tier": "abstain", "rule": "nothing"}
        return found | {"decision": "review", "tier": "fallback:people", "rule": "people"}
    found |= {"score_reason": None, "fallback_reason": cause, "why": "rule"}
    found["tier"] = "automatic" if by == "m" else f"stand-in:{by}"
    if found["score"] < 0.3:
        return found | {"decision": "decline", "rule": "low"}
    if by == "b" and found["score"] > 0.9:
        return found | {"decision": "review", "rule": "odd"}
    return found | {"decision": "approve", "rule": "rest"}


WHAT = st.one_of(st.floats(0, 1), st.just(math.nan), st.sampled_from(REASONS))
BATCHES = st.integers(1, 12).flatmap(
    lambda count: st.fixed_dictionaries({name: st.lists(WHAT, min_size=count, max_size=count) for name in "mbcs"})
)


@settings(deadline=None, max_examples=60)
@given(BATCHES)
def test_stand_ins_are_as_a_plain_loop_has_it(said: dict[str, list[Any]]) -> None:
    source, count = Said(said), len(said["m"])
    effects = decide(plan_of(), events(count), answer=source)
    found = decisions(effects)
    for row, decision in enumerate(found):
        wanted = plainly(said, row)
        assert {name: decision[name] for name in wanted} == wanted
        shadow = said["s"][row]
        good = usable(shadow)
        reason = None if good else shadow if isinstance(shadow, str) else "not_finite"
        assert decision["shadows"] == {"s": {"score": shadow if good else None, "reason": reason, "model": "v-s"}}
        trust = None if decision["score"] is None else decision["score"] / 2
        assert decision["features"]["model_confidence"] == trust
        assert decision["features"]["score_good"] is None
    for output in effects.records:
        for value, headers in zip(output.values, output.headers, strict=True):
            assert record_problems(value, headers) == []
    abstained = [decision for decision in found if decision["decision"] == "abstain"]
    assert sent(effects, "t.abstained") == abstained
    asked = dict(source.asked)
    assert asked["m"] == asked["s"] == list(range(count))
    for name, before in (("b", "m"), ("c", "b")):
        missing = [row for row in asked.get(before, []) if not usable(said[before][row])]
        assert asked.get(name, []) == missing


@settings(deadline=None, max_examples=40)
@given(BATCHES, st.integers(1, 5))
def test_batches_are_the_sum_of_their_rows(said: dict[str, list[Any]], size: int) -> None:
    plan, count = plan_of(), len(said["m"])
    whole = flat(decide(plan, events(count), answer=Said(said)))
    parts: dict[str, list[Any]] = {}
    for begin in range(0, count, size):
        part = decide(plan, events(count)[begin : begin + size], answer=Said(said), first_offset=begin)
        for topic, rows in flat(part).items():
            parts.setdefault(topic, []).extend(rows)
    assert parts == whole


def test_nobody_else_is_asked_where_the_first_model_answers() -> None:
    source = Said({name: [0.5] * 3 for name in "mbcs"})
    found = decisions(decide(plan_of(), events(3), answer=source))
    assert [name for name, _ in source.asked] == ["m", "s"]
    assert {(one["tier"], one["fallback_reason"], one["scored_by"]) for one in found} == {("automatic", None, "m")}


@pytest.mark.parametrize("mode", ["fallback", "review-all"])
def test_people_may_switch_all_of_it_off(mode: str) -> None:
    source = Said({name: [0.5] * 2 for name in "mbcs"})
    offline = Offline(DecideProcessor.of(plan_of()), source, seen=Seen({"mode": mode}))
    effects = offline.process(batch_of(TOPIC, [orjson.dumps(event) for event in events(2)]))
    found = decisions(effects)
    why = f"mode_{mode.replace('-', '_')}"
    assert {(one["why"], one["fallback_reason"]) for one in found} == {(why, why)}
    if mode == "fallback":
        assert source.asked == []
        assert {one["features"]["model_status"] for one in found} == {"mode_fallback"}
        assert {one["shadows"]["s"]["reason"] for one in found} == {"mode_fallback"}


@pytest.mark.parametrize(
    ("when", "reason"), [("confidence < 0.5", "low_confidence"), ("amount >= 0", "rule"), ("score < 1", "rule")]
)
def test_a_rule_may_leave_an_event_to_the_chain(when: str, reason: str) -> None:
    rules = [("leave", when, "fallback"), ("rest", None, "approve")]
    chain = [("small", "amount < 50", "decline"), ("none", None, "abstain")]
    plan = make_plan(rules, inputs=["count"], confidence="score", fallback=chain)
    plan = replace(plan, actions={**plan.actions})
    source = Said({"m": [0.25, 0.25]})
    first, second = decisions(decide(plan, events(2), answer=source))
    assert (first["decision"], first["tier"], first["rule"]) == ("decline", "fallback:small", "small")
    assert (second["decision"], second["tier"], second["rule"]) == ("abstain", "abstain", "none")
    for one in (first, second):
        assert (one["why"], one["fallback_reason"], one["would_be"]) == (reason, reason, "approve")
        assert one["rules"][0] == "leave"
        assert one["confidence"] == 0.25


def test_rows_say_which_version_scored_them() -> None:
    def rolled(ask: Ask) -> Answer:
        assert isinstance(ask, Score)
        return Answer([0.5] * 3, [None] * 3, "h@1", versions=["h@1", "h@2", "h@2"])

    found = decisions(decide(make_plan(inputs=["count"]), events(3), answer=rolled))
    assert [one["model"] for one in found] == ["h@1", "h@2", "h@2"]


def test_odd_answers_of_shadows_change_nothing() -> None:
    def odd(ask: Ask) -> Answer:
        assert isinstance(ask, Score)
        good = Answer([0.5] * 2, [None] * 2, "v")
        return good if ask.model == "m" else Answer([0.5], [None], "v")

    plan = replace(plan_of(), shadows=(ModelPlan("s", ("count",), "v"),))
    effects = decide(plan, events(2), answer=odd)
    assert {one["shadows"]["s"]["reason"] for one in decisions(effects)} == {"wrong_length"}
    assert {one["decision"] for one in decisions(effects)} == {"approve"}
    assert letters(effects) == []
