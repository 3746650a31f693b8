"""Cases of review: what people say about them, what time does, and what follows."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from streamproc.core.review.desk import AT_ONCE
from streamproc.core.review.policy import Allowance
from streamproc.core.review.processor import MARGIN
from streamproc.core.review.sample import chosen
from tests.fast.review_lane import BEGIN, HOUR, PLAN, Lane, case, decided, decision, decision_id, said, steps

MINUTE = timedelta(minutes=1)


def test_a_case_is_shown_with_its_decision_its_priority_and_its_deadline() -> None:
    sent = Lane().give(case(1, priority=2.5))
    [item] = sent["t.review"]
    assert item == {
        "id": decision_id(1),
        "blind": False,
        "decision": decision(1),
        "event": {"id": 1},
        "priority": 2.5,
        "opened": "2026-01-01T00:00:00Z",
        "deadline": "2026-01-01T04:00:00Z",
    }
    assert steps(sent) == ["opened"]


def test_a_verdict_becomes_an_action_once() -> None:
    lane = Lane()
    lane.give(case(1))
    lane.wait(MINUTE)
    sent = lane.give(said(1, decision="decline", verdict="v1", note="no income"), signed=True)
    [made] = sent["t.decisions"]
    assert sent["t.declines"] == [made]
    told = {"decision": "decline", "tier": "reviewer", "why": "verdict", "rule": None, "revision": 1}
    assert made == {
        **decision(1),
        **told,
        "supersedes": {"decision": "review", "tier": "automatic", "revision": 0},
        "review": {
            "item": decision_id(1),
            "by": "ada",
            "verdict": "v1",
            "signed": True,
            "opened": "2026-01-01T00:00:00Z",
            "decided": "2026-01-01T00:01:00Z",
            "note": "no income",
        },
    }
    again = lane.give(said(1, decision="decline", verdict="v1"), said(1, decision="approve", verdict="v1"))
    assert not again
    assert not lane.wait(10 * HOUR).get("t.decisions")


def test_a_verdict_without_an_id_is_known_again_too() -> None:
    lane = Lane()
    lane.give(case(1))
    assert decided(lane.give(said(1, decision="approve"), said(1, decision="approve"))) == [
        ("approve", "reviewer", "verdict")
    ]
    assert lane.steps() == ["opened", "decided"]


def test_a_different_verdict_on_a_closed_case_is_a_disagreement() -> None:
    lane = Lane()
    lane.give(case(1), said(1, decision="approve"))
    assert steps(lane.give(said(1, by="bob", decision="decline"))) == ["disagreed"]
    assert steps(lane.give(said(1, by="eve", decision="approve"))) == ["confirmed"]
    assert len(lane.sent["t.decisions"]) == 1


def test_with_corrections_it_becomes_an_action_that_names_what_it_supersedes() -> None:
    lane = Lane(replace(PLAN, corrections=True))
    lane.give(case(1), said(1, decision="approve"))
    sent = lane.give(said(1, by="bob", decision="decline"))
    [made] = sent["t.declines"]
    assert (made["why"], made["revision"]) == ("correction", 2)
    assert made["supersedes"] == {"decision": "approve", "tier": "reviewer", "revision": 1}
    assert steps(sent) == ["corrected"]
    assert steps(lane.give(said(1, by="eve", decision="decline"))) == ["confirmed"]


def test_time_passes_and_what_nobody_answered_is_decided_by_expiry() -> None:
    lane = Lane()
    lane.give(case(1))
    lane.wait(HOUR)
    lane.give(case(2))
    assert not decided(lane.wait(3 * HOUR + MARGIN / 2))
    sent = lane.wait(MARGIN)
    assert decided(sent) == [("escalate", "expiry", "expired")]
    assert sent["t.escalations"][0]["id"] == decision_id(1)
    assert sent["t.escalations"][0]["review"]["by"] is None
    assert [one["id"] for one in lane.wait(HOUR)["t.decisions"]] == [decision_id(2)]


def test_a_verdict_that_was_in_time_counts_however_late_it_is_read() -> None:
    lane = Lane()
    lane.give(case(1))
    lane.now = BEGIN + 4 * HOUR - MINUTE
    in_time = lane.now
    lane.now = BEGIN + 4 * HOUR + MARGIN / 2
    assert not lane.tick()
    lane.now = in_time  # as the broker dated it
    assert decided(lane.give(said(1, decision="approve"))) == [("approve", "reviewer", "verdict")]


def test_much_that_falls_due_at_once_ends_in_parts() -> None:
    lane = Lane()
    count = 2 * AT_ONCE + 10
    lane.give(*(case(number) for number in range(1, count + 1)))
    lane.now = BEGIN + 5 * HOUR
    assert len(lane.tick()["t.decisions"]) == AT_ONCE
    assert lane.wake_at is not None and lane.wake_at < lane.now
    sent = lane.give(said(count, decision="approve"))  # its turn has not come, and it is too late all the same
    assert steps(sent)[-2:] == ["expired", "disagreed"]
    assert len(lane.wait(MINUTE)["t.decisions"]) + len(sent["t.decisions"]) == count - AT_ONCE
    assert len({one["id"] for one in lane.sent["t.decisions"]}) == count


def test_a_verdict_after_that_is_a_disagreement_or_a_correction() -> None:
    for corrections, expected in ((False, "disagreed"), (True, "corrected")):
        lane = Lane(replace(PLAN, corrections=corrections))
        lane.give(case(1))
        lane.wait(5 * HOUR)
        assert steps(lane.give(said(1, decision="approve"))) == [expected]
        assert len(lane.sent["t.approvals"]) == corrections


def test_a_verdict_that_comes_at_the_deadline_is_late_even_before_the_tick() -> None:
    lane = Lane()
    lane.give(case(1))
    lane.now = BEGIN + 4 * HOUR
    assert steps(lane.give(said(1, decision="approve"))) == ["expired", "disagreed"]


def test_a_claim_is_a_lease_with_a_fence() -> None:
    lane = Lane()
    lane.give(case(1))
    [claimed] = lane.give(said(1, kind="claim", lease=300))["t.review-events"]
    assert (claimed["fence"], claimed["until"], claimed["by"]) == (1, "2026-01-01T00:05:00Z", "ada")
    [refused] = lane.give(said(1, kind="claim", by="bob"))["t.review-events"]
    assert (refused["step"], refused["reason"]) == ("refused", "claimed")
    [refused] = lane.give(said(1, by="bob", decision="approve"))["t.review-events"]
    assert refused["reason"] == "claimed"
    assert decided(lane.give(said(1, fence=1, decision="approve"))) == [("approve", "reviewer", "verdict")]


def test_whoever_claims_again_goes_on_under_the_same_number() -> None:
    lane = Lane()
    lane.give(case(1), said(1, kind="claim"))
    lane.wait(10 * MINUTE)
    [claimed] = lane.give(said(1, kind="claim"))["t.review-events"]
    assert (claimed["fence"], claimed["until"]) == (1, "2026-01-01T00:25:00Z")
    assert decided(lane.give(said(1, fence=1, decision="approve"))) == [("approve", "reviewer", "verdict")]


def test_verdicts_are_known_by_who_gave_them() -> None:
    lane = Lane(replace(PLAN, corrections=True))
    lane.give(case(1), said(1, by="ada", decision="approve", verdict="1"))
    assert steps(lane.give(said(1, by="bob", decision="decline", verdict="1"))) == ["corrected"]
    assert not lane.give(said(1, by="ada", decision="approve", verdict="1"))


def test_an_answer_under_a_lost_lease_is_refused() -> None:
    lane = Lane()
    lane.give(case(1), said(1, kind="claim"))
    lane.wait(15 * MINUTE)
    [refused] = lane.give(said(1, fence=1, decision="approve"))["t.review-events"]
    assert refused["reason"] == "lease_lost"
    [claimed] = lane.give(said(1, kind="claim", by="bob"))["t.review-events"]
    assert claimed["fence"] == 2
    assert lane.give(said(1, fence=1, decision="approve"))["t.review-events"][0]["reason"] == "lease_lost"
    assert decided(lane.give(said(1, by="bob", fence=2, decision="decline"))) == [("decline", "reviewer", "verdict")]


def test_a_claim_ends_with_the_case_or_is_given_back() -> None:
    lane = Lane()
    lane.give(case(1))
    lane.wait(4 * HOUR - 5 * MINUTE)
    [claimed] = lane.give(said(1, kind="claim", lease=1e9))["t.review-events"]
    assert claimed["until"] == "2026-01-01T04:00:00Z"
    assert lane.give(said(1, kind="release", by="bob"))["t.review-events"][0]["reason"] == "claimed"
    assert steps(lane.give(said(1, kind="release"))) == ["released"]
    assert lane.give(said(1, kind="release"))["t.review-events"][0]["reason"] == "not_claimed"
    assert steps(lane.give(said(1, by="bob", decision="approve"))) == ["decided"]
    for kind in ("claim", "release", "cancel"):
        assert lane.give(said(1, kind=kind))["t.review-events"][0]["reason"] == "closed"


def test_a_cancelled_case_is_over_without_a_decision() -> None:
    lane = Lane(replace(PLAN, corrections=True))
    lane.give(case(1))
    assert steps(lane.give(said(1, kind="cancel", note="withdrawn"))) == ["cancelled"]
    assert lane.give(said(1, decision="approve"))["t.review-events"][0]["reason"] == "closed"
    lane.wait(5 * HOUR)
    assert not lane.sent["t.decisions"]


def test_only_decisions_that_the_pipeline_knows_count() -> None:
    lane = Lane()
    lane.give(case(1))
    for unknown in ("review", "aprove"):
        assert lane.give(said(1, decision=unknown))["t.review-events"][0]["reason"] == "no_such_decision"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"{", b"malformed"),
        (b"", b"malformed"),
        (said(1, decision="approve", version=2), b"malformed"),
        (said(2, decision="approve"), b"no_such_item"),
    ],
)
def test_what_is_about_no_case_is_a_dead_letter(value: bytes, reason: bytes) -> None:
    lane = Lane()
    lane.give(case(1))
    [letter] = lane.give(value, headers=(("sp-from", b"t.verdicts 2 17 5"),))["t.dead-letter"]
    assert letter["sp-reason"] == reason
    assert letter["sp-stage"] == b"review"
    if value:
        assert (letter["sp-topic"], letter["sp-offset"]) == (b"t.verdicts", b"17")


def test_a_closed_case_is_remembered_for_a_while() -> None:
    lane = Lane(replace(PLAN, keep=10 * HOUR))
    lane.give(case(1), said(1, decision="approve"))
    lane.wait(10 * HOUR - MINUTE)
    assert steps(lane.give(said(1, by="bob", decision="approve"))) == ["confirmed"]
    lane.wait(MINUTE)
    assert "t.dead-letter" in lane.give(said(1, by="bob", decision="approve"))
    assert not len(lane.tables)


def test_an_event_that_is_decided_again_opens_no_second_case() -> None:
    lane = Lane()
    lane.give(case(1), said(1, decision="approve"))
    assert not lane.give(case(1))
    assert lane.counts["review_refused", "opened_again"] == 1


def test_an_audit_is_blind_and_holds_nothing_up() -> None:
    lane = Lane(replace(PLAN, hidden=frozenset({"drift_score"})))
    shown = {"amount": 12.5, "drift_score": "stable"}
    sent = lane.give(case(1, kind="audit", share=0.01, decided="approve", priority=7.0, features=shown))
    [item] = sent["t.review"]
    assert (item["blind"], item["decision"], item["features"]) == (True, None, {"amount": 12.5})
    assert item["priority"] is None
    assert "t.decisions" not in sent
    [event] = lane.give(said(1, decision="decline"))["t.review-events"]
    assert (event["step"], event["was"], event["decision"], event["share"]) == ("decided", "approve", "decline", 0.01)
    assert not lane.sent["t.decisions"]
    lane.give(case(2, kind="audit", share=0.01, decided="approve"))
    assert steps(lane.wait(5 * HOUR)) == ["expired"]
    assert not lane.sent["t.decisions"]


def test_an_audit_that_differs_is_a_correction_where_those_are_wanted() -> None:
    lane = Lane(replace(PLAN, corrections=True))
    lane.give(case(1, kind="audit", share=0.01, decided="approve"))
    sent = lane.give(said(1, decision="decline"))
    assert steps(sent) == ["decided", "corrected"]
    assert sent["t.declines"][0]["supersedes"] == {"decision": "approve", "tier": "automatic", "revision": 0}


def test_a_share_of_what_people_decide_is_shown_to_somebody_else() -> None:
    share = 300_000
    lane = Lane(replace(PLAN, second_opinion=share))
    ids = [decision_id(number) for number in range(1, 41)]
    asked = {one for one, taken in zip(ids, chosen(ids, share, "second_opinion").tolist(), strict=True) if taken}
    for number in range(1, 41):
        lane.give(case(number))
        lane.give(said(number, decision="approve"))
    second = [item for item in lane.sent["t.review"] if item["blind"]]
    assert {item["id"] for item in second} == {f"{one}.2" for one in asked}
    item = f"{min(asked)}.2"
    assert lane.give(said(item, decision="approve"))["t.review-events"][0]["reason"] == "same_person"
    [event] = lane.give(said(item, by="bob", decision="decline"))["t.review-events"]
    told = (event["kind"], event["step"], event["was"], event["decision"], event["share"])
    assert told == ("second_opinion", "decided", "approve", "decline", 0.3)
    assert len(lane.sent["t.decisions"]) == 40


def test_what_is_more_than_people_can_answer_is_shed_the_least_urgent_first() -> None:
    lane = Lane(replace(PLAN, ttl=HOUR, capacity=Allowance(12, HOUR)))
    lane.give(
        *(case(number, priority=float(number)) for number in (5, 1, 4)),
        case(9, kind="audit", share=0.01, decided="approve"),
    )
    assert [one["id"] for one in lane.sent["t.decisions"]] == [decision_id(1)]
    assert {item["id"] for item in lane.sent["t.review"]} == {decision_id(number) for number in (4, 5, 9)}
    sent = lane.give(case(3, priority=3.0), case(6, priority=6.0), case(7))
    assert decided(sent) == [("escalate", "expiry", "shed")] * 3
    assert {one["id"] for one in sent["t.decisions"]} == {decision_id(number) for number in (3, 4, 7)}
    lane.give(said(5, kind="claim"))
    sent = lane.give(case(8, priority=8.0))
    assert {one["id"] for one in sent["t.decisions"]} == {decision_id(6)}, "somebody works on 5"


def test_samples_take_half_of_what_people_can_answer_and_not_more() -> None:
    lane = Lane(replace(PLAN, ttl=HOUR, capacity=Allowance(16, HOUR)))
    lane.give(*(case(number, kind="audit", share=0.01, decided="approve") for number in range(1, 7)))
    assert steps(lane.give(case(11, priority=1.0), case(12, priority=2.0))) == ["opened", "opened"]
    assert steps(lane.give(case(13, priority=3.0))) == ["opened", "shed"]


def test_a_capacity_that_is_stated_later_sheds_the_least_urgent_too() -> None:
    lane = Lane(replace(PLAN, ttl=HOUR))
    lane.give(*(case(number, priority=0.0) for number in range(1, 4)))
    lane.plan = replace(lane.plan, capacity=Allowance(8, HOUR))
    sent = lane.give(case(9, priority=1e9))
    assert [item["id"] for item in sent["t.review"]] == [decision_id(9)]
    assert len(sent["t.decisions"]) == 2


@pytest.mark.parametrize(
    "value",
    [
        b'{"version": 1, "id": "zz", "kind": "review", "share": null, "priority": null, "decision": {}, "event": {}}',
        case(1).replace(decision_id(1).encode(), b"zz"),
        case(1).replace(b'"score":0.5', b'"score":1e999'),
        case(1).replace(b'"version":1', b'"version":9', 1),
        case(1).replace(b'{"id":1}}', b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ],
)
def test_what_a_stranger_writes_to_the_topic_of_cases_is_a_dead_letter(value: bytes) -> None:
    [letter] = Lane().give(value)["t.dead-letter"]
    assert letter["sp-reason"] == b"malformed"


def test_lanes_share_the_capacity() -> None:
    plan = replace(PLAN, ttl=2 * HOUR, capacity=Allowance(5, HOUR))
    assert [plan.most_open(lane, 4) for lane in range(4)] == [3, 3, 2, 2]
    assert PLAN.most_open(0, 4) is None
    assert replace(plan, ttl=HOUR / 5).most_open(3, 4) == 1


def test_a_new_plan_may_wait_for_another_time() -> None:
    lane = Lane()
    lane.give(case(1))
    lane.plan = replace(PLAN, ttl=HOUR)
    lane.give(case(2))
    assert [one["id"] for one in lane.wait(HOUR + MARGIN)["t.decisions"]] == [decision_id(2)]
    assert [one["id"] for one in lane.wait(3 * HOUR)["t.decisions"]] == [decision_id(1)]


def test_traces_are_passed_on() -> None:
    lane = Lane()
    lane.give(case(1), headers=(("traceparent", b"00-1-2-01"), ("cookie", b"x")))
    lane.give(said(1, decision="approve"))
    for topic in ("t.review", "t.review-events", "t.decisions", "t.approvals"):
        for headers in lane.headers[topic]:
            assert headers["traceparent"] == b"00-1-2-01"
            assert "cookie" not in headers
