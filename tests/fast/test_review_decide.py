"""What the decide agent asks people, and what it decides otherwise by chance."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest

from streamproc.core.decide import DecideProcessor
from streamproc.core.decide.explore import TABLE
from streamproc.core.expressions import compile_expression
from streamproc.core.plan import Plan
from streamproc.core.processor import Effects
from streamproc.core.review.policy import Allowance, ExplorePlan, ReviewPlan
from streamproc.core.review.sample import WORDS, chosen
from streamproc.offline import Offline, batch_of
from streamproc.pipeline import open_pipeline
from streamproc.sample import example
from tests.fast.plans import NOW, decide, decide_batch, decisions, make_plan, sent
from tests.fast.review_lane import PLAN
from tests.record_schemas import record_problems

DAY = timedelta(days=1)
RULES = [("odd", "count > 5", "review"), ("large", "amount > 100", "decline"), ("rest", None, "approve")]


def plan_with(review: ReviewPlan) -> Plan:
    return replace(make_plan(RULES), review=review)


def rows(count: int) -> list[dict[str, Any]]:
    return [{"id": n, "count": n % 8, "amount": float(n % 200)} for n in range(count)]


def test_cases_go_to_their_lane_with_priority_and_key() -> None:
    priority = compile_expression("amount * 2", {"amount": pl.Float64()}, {}, want="number", finite=True)
    plan = plan_with(replace(PLAN, priority=priority))
    events = [orjson.dumps(row) for row in rows(50)]
    effects = decide_batch(plan, batch_of("t.events", events, partition=5, keys=[b"k"] * 50))
    cases, made = sent(effects, "t.cases"), {one["id"]: one for one in decisions(effects)}
    assert [case["id"] for case in cases] == [name for name, one in made.items() if one["decision"] == "review"]
    for case in cases:
        about = made[case["id"]]
        assert case["decision"] == about
        assert (case["kind"], case["share"]) == ("review", None)
        assert case["priority"] == case["event"]["amount"] * 2
    assert not sent(effects, "t.review")
    [output] = [output for output in effects.records if output.topic == "t.cases"]
    assert output.places is not None and set(output.places.tolist()) == {5}
    assert set(output.keys) == {b"k"}


def test_a_constant_priority_is_that_of_every_case() -> None:
    priority = compile_expression("3", {}, {}, want="number", finite=True)
    effects = decide(plan_with(replace(PLAN, priority=priority)), rows(50))
    assert {case["priority"] for case in sent(effects, "t.cases")} == {3.0}


def test_a_sample_of_what_is_automatic_is_audited_in_the_order_of_events() -> None:
    share = 200_000
    effects = decide(plan_with(replace(PLAN, audit=share)), rows(2_000))
    made = decisions(effects)
    alone = [one["id"] for one in made if one["decision"] != "review"]
    wanted = {name for name, taken in zip(alone, chosen(alone, share, "audit").tolist(), strict=True) if taken}
    cases = sent(effects, "t.cases")
    audits = [case for case in cases if case["kind"] == "audit"]
    assert {case["id"] for case in audits} == wanted
    assert {case["share"] for case in audits} == {0.2}
    order = {one["id"]: place for place, one in enumerate(made)}
    places = [order[case["id"]] for case in cases]
    assert places == sorted(places)
    assert len(sent(effects, "t.approvals")) + len(sent(effects, "t.declines")) == len(alone), "actions do not wait"


@pytest.mark.parametrize("purpose", WORDS)
@pytest.mark.parametrize("share", [1_000, 50_000, 500_000, 999_999])
def test_a_share_is_a_share_and_each_choice_is_one_of_its_own(share: int, purpose: Any) -> None:
    ids = [f"{n % 12}-{chance:024x}" for n, chance in enumerate(_random_words(20_000))]
    taken = chosen(ids, share, purpose)
    expected = share / 1e6
    assert abs(taken.mean() - expected) < 5 * np.sqrt(expected * (1 - expected) / len(ids))
    other = chosen(ids, share, next(name for name in WORDS if name != purpose))
    assert abs((taken & other).mean() - expected**2) < 5 * np.sqrt(expected**2 / len(ids))
    plain = [
        int(one.split("-")[1][8 * WORDS[purpose] : 8 * WORDS[purpose] + 8], 16) * 1e6 < share * 2**32 for one in ids
    ]
    assert taken.tolist() == plain


def _random_words(count: int) -> list[int]:
    chance = np.random.default_rng(7)
    return [int.from_bytes(chance.bytes(12)) for _ in range(count)]


def explored(share: int, budget: Allowance, lanes: int = 2) -> tuple[Offline, DecideProcessor]:
    plan = plan_with(replace(PLAN, explore=ExplorePlan("approve", "decline", share, budget)))
    processor = DecideProcessor.of(plan, lanes=lanes)
    return Offline(processor, None, tables=(TABLE,), now=NOW), processor  # type: ignore[arg-type]


def run(offline: Offline, first: int, count: int, partition: int = 0) -> Effects:
    events = [orjson.dumps(row) for row in rows(first + count)[first:]]
    return offline.process(batch_of("t.events", events, partition=partition, first_offset=first))


def test_a_share_of_declines_is_decided_otherwise_by_chance() -> None:
    offline, _ = explored(100_000, Allowance(10_000, DAY))
    effects = run(offline, 0, 5_000)
    made = [one for one in decisions(effects) if "explored" in one]
    would_be = [one for one in decisions(effects) if one["would_be"] == "decline" and one["tier"] == "automatic"]
    alone = [one["id"] for one in would_be if one["decision"] != "review"]
    wanted = [name for name, taken in zip(alone, chosen(alone, 100_000, "explore").tolist(), strict=True) if taken]
    assert [one["id"] for one in made] == wanted
    assert len(wanted) > 50
    for one in made:
        assert (one["decision"], one["why"], one["rule"]) == ("approve", "explored", "large")
        assert one["explored"] == {"instead_of": "decline", "share": 0.1}
    assert {one["id"] for one in made} <= {one["id"] for one in sent(effects, "t.approvals")}
    for output in effects.records:
        for value, headers in zip(output.values, output.headers, strict=True):
            assert output.topic == "t.cases" or record_problems(value, headers) == []
    assert effects.counts["explored", "approve"] == len(made)


def test_exploring_keeps_to_its_budget_however_batches_are_cut() -> None:
    found = []
    for size in (5_000, 70):
        offline, _ = explored(500_000, Allowance(41, DAY))
        made = [
            one["id"]
            for first in range(0, 5_000, size)
            for one in decisions(run(offline, first, min(size, 5_000 - first)))
            if "explored" in one
        ]
        found.append(made)
    assert found[0] == found[1]
    assert len(found[0]) == 21  # of two lanes the first has one more
    offline, _ = explored(500_000, Allowance(41, DAY))
    assert len([one for one in decisions(run(offline, 0, 5_000, partition=1)) if "explored" in one]) == 20


def test_a_budget_is_one_of_its_period() -> None:
    offline, _ = explored(500_000, Allowance(10, DAY))
    assert sum("explored" in one for one in decisions(run(offline, 0, 2_000))) == 5
    assert sum("explored" in one for one in decisions(run(offline, 2_000, 2_000))) == 0
    offline._now += DAY
    assert sum("explored" in one for one in decisions(run(offline, 4_000, 2_000))) == 5


def test_over_a_file_nothing_is_explored() -> None:
    plan = plan_with(replace(PLAN, explore=ExplorePlan("approve", "decline", 500_000, Allowance(100, DAY))))
    assert not any("explored" in one for one in decisions(decide(plan, rows(1_000))))


@pytest.mark.parametrize("priority", ["CASE WHEN drift_car_value = 'drifting' THEN 2 ELSE 1 END", "score", "confidence",
                                      "CASE WHEN drift_any = 'drifting' THEN 1 ELSE 0 END",
                                      "CASE WHEN model_status = 'ok' THEN 0 ELSE 1 END"])  # fmt: skip
def test_a_priority_reads_whatever_rules_may(tmp_path: Path, priority: str) -> None:
    shutil.copytree(example("car_loan"), tmp_path, dirs_exist_ok=True)
    file = tmp_path / "pipeline.yaml"
    text = re.sub(r"  priority: .*", f"  priority: {priority}", file.read_text())
    file.write_text(text)
    pipeline = open_pipeline(file)
    values = [orjson.dumps(test.event) for test in pipeline.loaded.file.tests]
    effects = Offline(pipeline.processor, pipeline.answers.now).process(batch_of("car-loan.events", values))
    cases = [case for case in sent(effects, "car-loan.cases") if case["kind"] == "review"]
    assert cases
    assert any(isinstance(case["priority"], float) for case in cases)
