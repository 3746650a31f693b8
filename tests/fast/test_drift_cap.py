"""What drift may change: as much as ``max_extra_review`` allows, however batches are cut; and that decisions say so."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamproc import demo
from streamproc.artefacts import artefacts
from streamproc.core.decide import DecideProcessor, bucket
from streamproc.core.decide.bucket import BURST, TOKEN, Bucket
from streamproc.core.decide.cap import KEY, TABLE
from streamproc.core.drift.budget import Budget
from streamproc.core.drift.view import NO_DRIFT, VIEW
from streamproc.core.expressions import compile_expression
from streamproc.core.plan import CONFIDENCE, EVENT_TIME, SCORE, DriftPlan, Plan, Rule
from streamproc.core.processor import NOTHING_SEEN, Batch, Effects, Records, Seen, run
from streamproc.core.records import text_headers
from streamproc.core.state import Tables
from streamproc.explain import by_drift, read_plan
from streamproc.offline import EPOCH, Offline, batch_of
from streamproc.pipeline import open_pipeline
from streamproc.plan.budgets import to_share
from streamproc.sample import example
from streamproc.worker import agents
from tests.fast.plans import TOPIC, flat, make_plan, mean_score
from tests.fast.test_drift_decide import seen
from tests.record_schemas import record_problems

TENTH = TOKEN // 10
READS = ("drift_amount", "drift_any", "drift_severity")
DRIFTING = seen(("amount", None, "drifting", 0.5))
IN_SEGMENT = seen(("amount", "a", "drifting", 0.5), ("name", None, "warning", 0.1))


def capped_plan(share: int | None = TENTH, trust: str = "amount", odd: str = "drift_amount = 'drifting'") -> Plan:
    """Drift sends what is ``odd`` to review; the rest is approved, or declined where the trust is small."""
    plain = make_plan(inputs=["amount"], key="id")
    columns = {**plain.contract.columns, EVENT_TIME: pl.Datetime("us", "UTC"), SCORE: pl.Float64()}
    columns |= dict.fromkeys(READS[:-1], pl.String()) | {READS[-1]: pl.Float64()}
    confidence = compile_expression(trust, columns, {}, want="number", finite=True)
    columns[CONFIDENCE] = pl.Float64()
    rules = tuple(
        Rule(name, decision, compile_expression(text, columns, {}, want="boolean", finite=True), f"R-{name}")
        for name, text, decision in (("odd", odd, "review"), ("small", "confidence < 10", "decline"))
    )
    drift = DriftPlan(
        ("amount", "name"),
        Budget(1.0, events=1e5),
        ("name",),
        READS,
        frozenset({"decision", "confidence"}),
        max_extra_review=share,
    )
    return replace(
        plain,
        rules=(*rules, Rule("rest", "approve")),
        confidence=confidence,
        drift=drift,
        recorded=(*plain.recorded, *READS),
    )


def events(amounts: Sequence[float | None], partition: int = 0, first: int = 0) -> Batch:
    """One event for each amount, by turns of the name a and b; the ids are of loans whose outcomes are known."""
    values = [orjson.dumps({"id": 50_000 + n, "amount": one, "name": "ab"[n % 2]}) for n, one in enumerate(amounts)]
    return batch_of(TOPIC, values, partition=partition, first_offset=first, timestamp=1_700_000_000_000)


def offline(plan: Plan, what: Seen = DRIFTING) -> Offline:
    return Offline(DecideProcessor.of(plan), mean_score, tables=(TABLE,), seen=what)


def sent(effects: Effects, topic: str = "t.decisions") -> list[dict[str, Any]]:
    return [orjson.loads(value) for _, value, _ in flat(effects).get(topic, [])]


# -- the bucket -----------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(
    share=st.integers(1, TOKEN),
    wanted=st.lists(st.integers(1, 40) | st.integers(1, 3), min_size=1, max_size=150).map(np.cumsum),
)
def test_a_bucket_is_what_counting_every_event_comes_to(share: int, wanted: Any) -> None:
    """The slow and clear version: a share of an event comes in with each event, and whole ones go out."""
    ours, held = Bucket.full(share, int(wanted[0])), (most := max(Fraction(1), Fraction(share * BURST, TOKEN)))
    told, expected, outcomes = False, [], []
    for offset in range(int(wanted[0]), int(wanted[-1]) + 1):
        held = min(most, held + Fraction(share, TOKEN)) if offset > wanted[0] else held
        told = told and held < most / 2
        if offset in wanted:
            expected.append("changed" if held >= 1 else "capped" if told else "escalated")
            held, told = (held - 1, told) if held >= 1 else (held, True)
            outcomes.append(ours.take(share, offset))
    assert outcomes == expected
    assert Fraction(ours.level, TOKEN) == held
    assert ours.changed + ours.capped <= ours.events
    assert bucket.read(bucket.encode(ours), share, 0) == ours


def test_a_full_bucket_lets_a_whole_event_through_however_small_the_share() -> None:
    ours = Bucket.full(1, 0)
    assert [ours.take(1, offset) for offset in (0, 1, 2, 999_999, 1_000_000)] == [
        "changed", "escalated", "capped", "escalated", "changed",
    ]  # fmt: skip


def test_state_of_another_version_is_not_guessed_at() -> None:
    with pytest.raises(ValueError, match="version 9"):
        bucket.read(bucket.encode([9, 1, 2]), TENTH, 0)


# -- decisions ------------------------------------------------------------------------------------------------------


def test_drift_changes_as_much_as_it_may_and_then_escalates_once() -> None:
    run_ = offline(capped_plan())
    effects = run_.process(events([50.0] * 300, partition=3, first=1000))
    decided = sent(effects)
    changed = [one for one in decided if one["without_drift"] is not None]
    capped = [one for one in decided if one["drift_capped"] is not None]
    assert len(changed) + len(capped) == 300
    assert len(changed) == 100 + 29  # a full bucket, and a tenth of the events after the first
    assert {(one["decision"], one["without_drift"], one["rule"]) for one in changed} == {("review", "approve", "odd")}
    assert {(one["decision"], one["drift_capped"], one["rule"]) for one in capped} == {("approve", "review", "rest")}
    assert [len(sent(effects, topic)) for topic in ("t.review", "t.approvals")] == [129, 171]
    [told] = sent(effects, "t.drift")
    assert told == {
        "id": capped[0]["id"], "version": 1, "pipeline": "t", "plan": "0" * 32, "time": capped[0]["time"],
        "partition": 3, "offset": capped[0]["source"]["offset"], "share": 0.1, "since": 1000, "events": 112,
        "changed": 111, "capped": 1,
        "columns": {"drift_amount": "drifting", "drift_any": "drifting", "drift_severity": 0.5},
    }  # fmt: skip
    counted = {name: count for name, count in effects.counts.items() if name[0].startswith("drift")}
    assert counted == {
        ("drift_changed", "review"): 129, ("drift_capped", "review"): 171, ("drift_escalations", TOPIC): 1,
    }  # fmt: skip
    for topic, records in flat(effects).items():
        for _, value, headers in records:
            assert record_problems(value, headers) == [], topic


def test_a_capped_decision_is_in_everything_as_if_nothing_drifted() -> None:
    """Confidence may read drift as well: what a capped decision shows is what it was decided by."""
    plan = capped_plan(trust="CASE WHEN drift_any = 'drifting' THEN 0 ELSE amount END", odd="drift_severity > 9")
    decided = sent(offline(plan).process(events([50.0] * 200)))
    still = sent(offline(plan, Seen({VIEW: NO_DRIFT}, DRIFTING.offsets)).process(events([50.0] * 200)))
    capped = [number for number, one in enumerate(decided) if one["drift_capped"] is not None]
    assert len(capped) == 200 - 119
    for number in capped:
        assert decided[number] == still[number] | {"drift_capped": "decline"}
    changed = decided[0]
    assert (changed["decision"], changed["without_drift"], changed["confidence"]) == ("decline", "approve", 0.0)
    assert changed["features"]["drift_any"] == "drifting"
    assert (still[0]["without_drift"], still[0]["drift_capped"]) == (None, None)


def test_what_drift_does_not_change_takes_nothing() -> None:
    run_ = offline(capped_plan(share=1), IN_SEGMENT)
    decided = sent(run_.process(events([None, 50.0, 50.0, None, None, 50.0])))  # "a" has no amounts but one
    assert [one["without_drift"] for one in decided] == [None, None, "approve", None, None, None]
    assert not any(one["drift_capped"] for one in decided)
    [raw] = run_.state(0).get_many(TABLE, [KEY])
    held = bucket.read(raw, 1, 0)
    assert (held.at, held.changed, held.capped) == (2, 1, 0)


def test_it_escalates_again_only_after_half_of_it_was_left() -> None:
    run_, told = offline(capped_plan()), []
    for first, count in ((0, 300), (780, 100), (1400, 100), (2500, 300)):
        for record in sent(run_.process(events([50.0] * count, first=first)), "t.drift"):
            told.append((record["offset"], record["since"], record["changed"], record["capped"]))
    # nothing is told from 780 on: 49 of 100 were left; at 1,400 there were 52, and at 2,500 all of them
    assert told == [(111, 0, 111, 1), (1458, 0, 100 + 145, 459 - 245), (2611, 2500, 111, 1)]


class Unread(Tables):
    """A state that nobody may look at."""

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        raise AssertionError("state is read")


@pytest.mark.parametrize("what", [NOTHING_SEEN, Seen({VIEW: NO_DRIFT}), seen(("name", None, "drifting", 0.9))])
def test_where_nothing_changes_no_state_is_read_or_written(what: Seen) -> None:
    plan = capped_plan(odd="drift_amount = 'drifting'")
    steps = DecideProcessor.of(plan).process(events([50.0] * 20), Unread(), what, EPOCH)
    effects = run(steps, mean_score)
    assert effects.state == {}
    assert {(one["decision"], one["without_drift"], one["drift_capped"]) for one in sent(effects)} == {
        ("approve", None, None)
    }


def test_without_a_limit_decisions_say_nothing_of_it() -> None:
    plan = capped_plan(share=None)
    effects = offline(plan).process(events([50.0] * 300))
    assert {one["decision"] for one in sent(effects)} == {"review"}
    assert not {"without_drift", "drift_capped"} & set(sent(effects)[0])
    assert "cap" not in [stage.name for stage in DecideProcessor.of(plan).stages]


def test_events_that_are_decided_again_find_a_full_bucket() -> None:
    run_ = offline(capped_plan())
    first = flat(run_.process(events([50.0] * 300)))
    assert flat(run_.process(events([50.0] * 300))) == first


# -- batches --------------------------------------------------------------------------------------------------------

AMOUNTS = st.lists(st.none() | st.sampled_from([1.0, 5.0, 50.0, 200.0]), min_size=1, max_size=60)
SEENS = st.sampled_from([DRIFTING, IN_SEGMENT, seen(("amount", "b", "warning", 0.1), ("name", "b", "drifting", 2.0))])
ODD = (
    "drift_amount = 'drifting'",
    "drift_any <> 'stable' AND amount > 10",
    "drift_severity > 1",
    "drift_any = 'warning'",
)
TRUST = ("amount", "CASE WHEN drift_any = 'drifting' THEN amount / 20 ELSE amount END", "amount / (1 + drift_severity)")


def cut(whole: Batch, first: int, last: int) -> Batch:
    records = whole.topics[TOPIC]
    own = (records.keys, records.values, records.headers, records.offsets, records.timestamps)
    return Batch(whole.partition, {TOPIC: Records(TOPIC, whole.partition, *(one[first:last] for one in own))})  # type: ignore[arg-type]


def joined(parts: Sequence[Effects]) -> tuple[dict[str, list[Any]], Counter[tuple[str, str]]]:
    found: dict[str, list[Any]] = {}
    for part in parts:
        for topic, records in flat(part).items():
            found.setdefault(topic, []).extend(records)
    return found, sum((Counter(part.counts) for part in parts), Counter())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    share=st.sampled_from([1, 3_000, TENTH, TOKEN]),
    trust=st.sampled_from(TRUST),
    odd=st.sampled_from(ODD),
    what=SEENS,
    lanes=st.lists(AMOUNTS, min_size=1, max_size=3),
    rounds=st.integers(1, 4),
    data=st.data(),
)
def test_batches_may_be_cut_and_lanes_put_together_as_one_likes(
    share: int, trust: str, odd: str, what: Seen, lanes: list[list[Any]], rounds: int, data: Any
) -> None:
    plan = capped_plan(share, trust, odd)
    processor = DecideProcessor.of(plan)
    wholes = [events(amounts, partition=2 * lane, first=7 * lane) for lane, amounts in enumerate(lanes)]
    alone, expected = offline(plan, what), []
    for whole in wholes:
        expected.append(joined([alone.process(cut(whole, at, at + 1)) for at in range(len(whole))]))
    edges = [
        [0, *sorted(data.draw(st.lists(st.integers(0, len(whole)), min_size=rounds, max_size=rounds))), len(whole)]
        for whole in wholes
    ]
    states = [Tables((TABLE,)) for _ in wholes]
    parts: list[list[Effects]] = [[] for _ in wholes]
    for step in range(rounds + 1):
        batches = [cut(whole, *list(pairwise(edge))[step]) for whole, edge in zip(wholes, edges, strict=True)]
        effects = run(processor.process_lanes(batches, states, what, EPOCH), mean_score)
        for state, own, part in zip(states, effects, parts, strict=True):
            state.apply(own.state)
            part.append(own)
    for lane, (whole, own) in enumerate(zip(wholes, parts, strict=True)):
        assert joined(own)[0] == expected[lane][0]
        assert list(states[lane].items(TABLE)) == list(alone.state(whole.partition).items(TABLE))
    assert sum((joined(own)[1] for own in parts), Counter()) == sum((counts for _, counts in expected), Counter())


# -- what is written and said of it ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "millionths"),
    [("10%", TENTH), (0.1, TENTH), (1, TOKEN), ("100%", TOKEN), ("0.0001%", 1), (1e-6, 1), ("2.5%", 25_000)],
)
def test_shares_are_read(text: object, millionths: int) -> None:
    assert to_share(text) == millionths


@pytest.mark.parametrize(
    "text",
    ["10", "0%", 0, 0.0, -0.1, 1.5, 10, "101%", "-5%", "0.00001%", 1e-7, True, None, [], float("nan"), float("inf")],
)
def test_what_is_no_share_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="write a share"):
        to_share(text)


def test_a_decision_tells_what_drift_did() -> None:
    assert by_drift({}) is None
    assert by_drift({"without_drift": None, "drift_capped": None}) == "did not change the decision"
    assert by_drift({"without_drift": "approve", "drift_capped": None}) == "changed the decision: without it approve"
    assert "with it review" in (by_drift({"without_drift": None, "drift_capped": "review"}) or "")


def test_the_example_is_capped_and_its_rules_say_what_they_read_of_drift() -> None:
    pipeline = open_pipeline(example("car_loan") / "pipeline.yaml")
    assert pipeline.plan.capped
    assert pipeline.plan.drift is not None and pipeline.plan.drift.max_extra_review == TENTH
    [body] = [one.body for one in artefacts(pipeline) if one.kind == "plan"]
    archived = read_plan(body)
    assert archived is not None
    [rule] = [rule for rule in archived.file.rules if rule.id == "unsure-in-drift"]
    assert archived.reads[rule.when or ""] >= {"drift_score", "confidence"}


def test_the_limit_is_a_part_of_the_plan_and_its_state_outlives_it(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    shutil.copytree(example("car_loan"), tmp_path, dirs_exist_ok=True)
    text, plans = file.read_text(), {}
    for line in ("  max_extra_review: 10%", "  max_extra_review: 0.1", "  max_extra_review: 20%", ""):
        file.write_text(re.sub(r"  max_extra_review: 10%.*", line, text))
        decide = agents(open_pipeline(file), lanes=1)[0]
        assert TABLE in decide.tables  # a lane could not be restored otherwise, once there is something in it
        plan = open_pipeline(file).plan
        assert (plan.topics.drift in decide.writes) == plan.capped == bool(line)
        plans[line] = plan.hash
    assert len(set(plans.values())) == 3


def test_the_demo_counts_what_drift_changed() -> None:
    plan = capped_plan()
    decided = flat(offline(plan).process(events([50.0] * 300)))["t.decisions"]
    keys, values, headers = map(list, zip(*decided, strict=True))
    numbers = np.arange(300)
    tally = demo.Tally(300, lambda partition, offset, headers: offset)
    demo.add(tally, plan, Records("t.decisions", 0, keys, values, headers, numbers, numbers), 1_700_000_001.0)
    assert not tally.followed_all(plan)
    told = tally._drift()
    assert (told["changed"], told["capped"], told["without"]) == (129, 171, {"approve": 129})


def test_escalations_are_told_apart_by_their_type() -> None:
    effects = offline(capped_plan()).process(events([50.0] * 300))
    [headers] = [headers for _, _, headers in flat(effects)["t.drift"]]
    assert text_headers(headers) == {"sp-type": "drift-escalation", "sp-version": "1"}
