"""What automation does while people let it do less."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from streamproc.core.decide import DecideProcessor
from streamproc.core.decide.frame import MODE
from streamproc.core.plan import Plan
from streamproc.core.processor import Answer, Ask, Seen, run
from streamproc.offline import EPOCH, batch_of
from tests.fast.plans import TOPIC, make_plan, mean_score
from tests.record_schemas import record_problems

EVENTS: list[dict[str, Any]] = [
    {"id": 1, "amount": 200.0},
    {"id": 2, "amount": 1.0, "count": 4},
    {"id": 3, "amount": 50.0, "count": 1},
    {"id": 4},
]
RULES = [("large", "amount > 100", "decline"), ("unsure", "amount > 40", "review"), ("rest", None, "approve")]
CHAIN = [("few", "count > 3", "approve"), ("small", "amount < 60", "decline")]


def decided(plan: Plan, mode: str | None, answer: Any = mean_score) -> list[dict[str, Any]]:
    seen = Seen({} if mode is None else {MODE: mode})
    batch = batch_of(TOPIC, list(map(orjson.dumps, EVENTS)))
    effects = run(DecideProcessor.of(plan).process(batch, None, seen, EPOCH), answer)  # type: ignore[arg-type]
    for output in effects.records:
        for value, headers in zip(output.values, output.headers, strict=True):
            assert record_problems(value, headers) == []
    return [orjson.loads(value) for out in effects.records if out.topic == "t.decisions" for value in out.values]


def told(decisions: list[dict[str, Any]]) -> list[tuple[str, str, str, str | None, str | None]]:
    return [(one["decision"], one["tier"], one["why"], one["rule"], one["would_be"]) for one in decisions]


def plan() -> Plan:
    return make_plan(RULES, fallback=CHAIN)


def test_automatic_is_as_if_nobody_had_said_anything() -> None:
    assert decided(plan(), "automatic") == decided(plan(), None)
    assert told(decided(plan(), None))[0] == ("decline", "automatic", "rule", "large", "decline")


def test_everything_goes_to_people_with_what_it_would_have_been() -> None:
    before, now = decided(plan(), None), decided(plan(), "review-all")
    assert {one[:4] for one in told(now)} == {("review", "abstain", "mode_review_all", None)}
    for name in ("would_be", "rules", "reasons", "undecided", "score", "features"):
        assert [one[name] for one in now] == [one[name] for one in before]


def test_the_fallback_chain_alone_decides() -> None:
    assert [one[:4] for one in told(decided(plan(), "fallback"))] == [
        ("review", "abstain", "mode_fallback", None),
        ("approve", "fallback:few", "mode_fallback", "few"),
        ("decline", "fallback:small", "mode_fallback", "small"),
        ("review", "abstain", "mode_fallback", None),
    ]


def test_a_model_is_not_asked_while_it_may_be_what_is_wrong() -> None:
    scored = make_plan([("low", "score < 0", "decline"), ("rest", None, "approve")], inputs=["amount"], fallback=CHAIN)

    def never(ask: Ask) -> Answer:
        raise AssertionError("it was asked")

    now = decided(scored, "fallback", never)
    assert [one["score_reason"] for one in now] == ["mode_fallback"] * 4
    assert told(now)[1] == ("approve", "fallback:few", "mode_fallback", "few", None)
    asked = decided(scored, "review-all")
    assert [one["score"] for one in asked] == [one["score"] for one in decided(scored, None)]


@pytest.mark.parametrize("mode", ["fallback", "review-all"])
def test_undecided_events_are_for_people_too(mode: str) -> None:
    cautious = replace(plan(), undecided="decline")
    assert all(one["why"] != "undecided" for one in decided(cautious, mode))
    assert any(one["why"] == "undecided" for one in decided(cautious, None))
