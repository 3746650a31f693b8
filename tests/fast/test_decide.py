"""The decide processor on events by hand: what each kind of input becomes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from streamproc.core.contract import DEEPEST_EVENT
from streamproc.core.processor import Answer
from streamproc.core.sensitive import Masker
from streamproc.offline import batch_of
from tests.fast.plans import NOW, SCHEMA, TOPIC, decide, decide_batch, decisions, letters, make_plan, sent

DEFAULT = [("default", None, "approve")]


def nested(levels: int, *, beside: Any = None) -> bytes:
    """A valid event that is ``levels`` deep, with another value beside the deep one."""
    inner = b"[" * (levels - 1) + b"]" * (levels - 1)
    return b'{"id": 1, "beside": %s, "unknown": %s}' % (orjson.dumps(beside), inner)


def test_a_decision_says_everything_about_itself() -> None:
    plan = make_plan(
        [("large", "amount > 100", "review"), ("default", None, "approve")],
        features={"double": "amount * 2"}, inputs=["amount"], confidence="ABS(score)", key="id", time="at",
    )  # fmt: skip
    event = {"id": 7, "amount": 101.5, "at": "2024-05-01T10:00:00+02:00"}
    [decision] = decisions(decide(plan, [event], partition=3, first_offset=40, timestamp=99))
    score = mean_score_of(101.5)
    assert decision == {
        "id": decision["id"],
        "source": {"topic": TOPIC, "partition": 3, "offset": 40, "timestamp": 99},
        "key": "7",
        "time": "2024-05-01T08:00:00.000000Z",
        "decision": "review", "tier": "automatic", "why": "rule", "fallback_reason": None, "rule": "large",
        "scored_by": "m", "would_be": "approve",
        "rules": ["large", "default"], "reasons": ["R-large", "R-default"], "observed": [], "undecided": [],
        "score": score, "scored": True, "score_reason": None, "confidence": abs(score),
        "features": {"double": 203.0, "amount": 101.5, "count": None, "name": None, "ok": None},
        "pipeline": "t", "plan": "0" * 32, "model": "v1", "confidence_hash": None, "seen": {},
    }  # fmt: skip
    assert decision["id"].startswith("3-")


def mean_score_of(total: float) -> float:
    import numpy as np

    return float(np.sin(np.float64(total)))


def test_the_same_bytes_go_to_decisions_and_to_the_action_topic() -> None:
    effects = decide(make_plan(DEFAULT), [{"id": 1}, {"id": 2}])
    by_topic = {output.topic: output.values for output in effects.records}
    assert by_topic["t.decisions"] == by_topic["t.approvals"]


@pytest.mark.parametrize(
    ("value", "reason", "path"),
    [
        (None, "tombstone", ""),
        (b"", "empty", ""),
        (b"{", "not_json", ""),
        (b'{"id": 1} x', "not_json", ""),
        (b'{"id": 1,}', "not_json", ""),
        (b'{"id": 1} // x', "not_json", ""),
        (b'{"id": NaN}', "not_json", ""),
        (b'{"id": 1, "amount": 1e999}', "not_json", ""),
        (b'{"id": 1, "name": "\xff"}', "not_utf8", ""),
        (b'{"id": 1, "name": "\\ud800"}', "not_json", ""),
        (b'{"id": 1, "amount": Infinity}', "not_json", ""),
        (b'{"id": 1, "amount": ' + b"9" * 400 + b"}", "not_json", ""),
        (b'\xef\xbb\xbf{"id": 1}', "not_json", ""),
        (b"  ", "not_json", ""),
        (b'{"id": 1, "unknown": "\\udc00"}', "not_json", ""),
        (b'{"id": 1, "name": "\xed\xa0\x80"}', "not_utf8", ""),
        ('{"id": 1}'.encode("utf-16"), "not_utf8", ""),
        (b"[" * 1025 + b"]" * 1025, "not_json", ""),
        (nested(1025), "not_json", ""),
        (nested(1024), "nested_too_deeply", ""),
        (nested(DEEPEST_EVENT + 1), "nested_too_deeply", ""),
        (nested(DEEPEST_EVENT + 1, beside=[[]] * 300), "nested_too_deeply", ""),
        (b"[]", "contract_type", "$"),
        (b"7", "contract_type", "$"),
        (b'{"amount": 1}', "contract_required", "$"),
        (b'{"id": "x"}', "contract_type", "$.id"),
        (b'{"id": 1, "ok": 0}', "contract_type", "$.ok"),
        (b'{"id": 1, "address": {"city": 5}}', "contract_type", "$.address.city"),
        (b'{"id": 9223372036854775808}', "integer_out_of_range", "$.id"),
        (b'{"id": -9223372036854775809}', "integer_out_of_range", "$.id"),
        (b'{"id": 18446744073709551616}', "integer_out_of_range", "$.id"),
        (b'{"id": 1e30}', "integer_out_of_range", "$.id"),
        (b'{"id": 1.5}', "contract_type", "$.id"),
        (b'{"id": 1, "id": "x"}', "contract_type", "$.id"),
    ],
)
def test_what_cannot_be_taken_is_a_dead_letter_with_its_raw_bytes(value: bytes | None, reason: str, path: str) -> None:
    effects = decide(make_plan(DEFAULT), [{"id": 1}, value, {"id": 2}], first_offset=10, timestamp=5)
    [letter] = letters(effects)
    assert (letter["sp-stage"], letter["sp-reason"], letter["sp-path"]) == ("contract", reason, path)
    assert (letter["sp-topic"], letter["sp-partition"], letter["sp-offset"], letter["sp-timestamp"]) == (
        TOPIC, "0", "11", "5",
    )  # fmt: skip
    assert [output.values for output in effects.records if output.topic == "t.dead-letter"] == [[value]]
    assert [decision["source"]["offset"] for decision in decisions(effects)] == [10, 12]


@pytest.mark.parametrize(
    ("value", "features"),
    [
        (b'{"id": 1, "amount": 1, "amount": 2}', {"amount": 2.0}),
        (b'{"id": "x", "id": 1, "amount": 2}', {"amount": 2.0}),
        (b'{"id": 1, "amount": 18446744073709551617}', {"amount": 18446744073709551616.0}),
        (b'{"id": 1, "amount": -9223372036854775809}', {"amount": -9223372036854775808.0}),
        (b'{"id": 1, "amount": 1e-999}', {"amount": 0.0}),
        (b'{"id": 1, "count": 5.0}', {"count": 5}),
        (b'{"id": 1, "unknown": 18446744073709551617}', {"amount": None}),
        (b' {"id": 1, "name": "a"}\r\n', {"name": "a"}),
        (b'{"id": 1.0, "amount": 9007199254740993}', {"amount": 9007199254740992.0}),
        (b'{"id": 1, "count": 9007199254740993}', {"count": 9007199254740993}),
        (b'{"id": 1, "count": -9223372036854775808}', {"count": -9223372036854775808}),
        (b'{"id": 1, "amount": -0.0}', {"amount": -0.0}),
        (b'{"id": 1, "amount": 5e-324}', {"amount": 5e-324}),
        (b'{"id": 1, "amount": 0.1}', {"amount": 0.1}),
        (b'{"id": 1, "name": ""}', {"name": ""}),
        ('{"id": 1, "name": "é\\u0000\\"\\n😀"}'.encode(), {"name": 'é\x00"\n😀'}),
        (b'{"id": 1, "unknown": {"deep": [1, 2]}}', {"amount": None, "name": None}),
        (b'{"id": 1, "ok": true, "amount": null}', {"ok": True, "amount": None}),
    ],
)
def test_values_keep_their_full_precision(value: bytes, features: dict[str, Any]) -> None:
    [decision] = decisions(decide(make_plan(DEFAULT), [value]))
    found = {name: decision["features"][name] for name in features}
    assert found == features
    assert [type(item) for item in found.values()] == [type(item) for item in features.values()]


def test_a_contract_may_refuse_fields_that_it_does_not_describe() -> None:
    plan = make_plan(DEFAULT, schema={**SCHEMA, "additionalProperties": False})
    [letter] = letters(decide(plan, [{"id": 1}, {"id": 2, "extra": 5}]))
    assert (letter["sp-reason"], letter["sp-path"]) == ("contract_additionalProperties", "$")


@pytest.mark.parametrize(("levels", "beside"), [(DEEPEST_EVENT, 0), (2, [[]] * 1000), (2, "[" * 1000)])
def test_an_event_as_deep_as_is_allowed_reaches_a_person(levels: int, beside: Any) -> None:
    [item] = sent(decide(make_plan([("all", None, "review")]), [nested(levels, beside=beside)]), "t.review")
    assert item["event"]["beside"] == beside


def test_a_megabyte_is_nothing_special() -> None:
    [decision] = decisions(decide(make_plan(DEFAULT), [{"id": 1, "name": "x" * 1_000_000}]))
    assert len(decision["features"]["name"]) == 1_000_000


def test_a_batch_in_which_every_event_is_bad_still_has_effects() -> None:
    effects = decide(make_plan(DEFAULT), [b"{", None, b""])
    assert [letter["sp-reason"] for letter in letters(effects)] == ["not_json", "tombstone", "empty"]
    assert decisions(effects) == []
    assert effects.counts["events", TOPIC] == 3


def test_an_unknown_event_time_is_a_dead_letter_where_the_pipeline_counts_on_it() -> None:
    plan = make_plan(DEFAULT, time="at")
    effects = decide(plan, [{"id": 1, "at": "yesterday"}, {"id": 2}, {"id": 3, "at": "2024-01-01 00:00:00.5"}])
    assert [(letter["sp-reason"], letter["sp-path"]) for letter in letters(effects)] == [("no_event_time", "$.at")] * 2
    assert [decision["time"] for decision in decisions(effects)] == ["2024-01-01T00:00:00.500000Z"]


def test_common_and_rare_forms_of_time_mean_the_same_in_any_company() -> None:
    plan = make_plan(DEFAULT, time="at")
    forms = [
        "2024-01-01 00:00:00.5",
        "2024-01-01T00:00:00.5Z",
        "2024-01-01t01:00:00.5+01:00",
        "2024-01-01T00:00:00.500000000z",
    ]
    alone = [decisions(decide(plan, [{"id": 1, "at": form}]))[0]["time"] for form in forms]
    together = [decision["time"] for decision in decisions(decide(plan, [{"id": 1, "at": form} for form in forms]))]
    assert alone == together == ["2024-01-01T00:00:00.500000Z"] * 4


RULES = [("risky", "amount > 10", "decline"), ("named", "name = 'x'", "review"), ("default", None, "approve")]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"amount": 11, "name": "y"}, ("decline", "automatic", "rule", "risky", ["risky", "default"], [])),
        ({"amount": 9, "name": "x"}, ("review", "automatic", "rule", "named", ["named", "default"], [])),
        ({"amount": 9, "name": "y"}, ("approve", "automatic", "rule", "default", ["default"], [])),
        # a rule that could not be evaluated comes before any that matched: nobody knows, so people decide
        ({"name": "x"}, ("review", "abstain", "undecided", None, ["named", "default"], ["risky"])),
        # one that comes after the rule that decided changes nothing, and is listed
        ({"amount": 11}, ("decline", "automatic", "rule", "risky", ["risky", "default"], ["named"])),
    ],
)
def test_the_first_rule_that_is_not_false_decides(event: dict[str, Any], expected: tuple[Any, ...]) -> None:
    [decision] = decisions(decide(make_plan(RULES), [{"id": 1, **event}]))
    names = ("decision", "tier", "why", "rule", "rules", "undecided")
    assert tuple(decision[name] for name in names) == expected


def test_observing_rules_are_listed_and_never_decide() -> None:
    plan = make_plan([("seen", "amount > 1", "decline"), ("default", None, "approve")], observe=["seen"])
    first, second = decisions(decide(plan, [{"id": 1, "amount": 2}, {"id": 2}]))
    assert (first["decision"], first["rules"], first["observed"]) == ("approve", ["default"], ["seen"])
    assert (second["decision"], second["undecided"]) == ("approve", ["seen"])


def test_without_a_usable_score_the_fallback_chain_decides() -> None:
    plan = make_plan(
        DEFAULT,
        inputs=["amount"],
        fallback=[("small", "count < 5", "approve"), ("rest", "count >= 5", "decline")],
    )
    events = [{"id": 1, "amount": 1}, {"id": 2, "count": 1}, {"id": 3, "count": 9}, {"id": 4}]
    found = [(d["decision"], d["tier"], d["why"], d["scored"]) for d in decisions(decide(plan, events))]
    assert found == [
        ("approve", "automatic", "rule", True),
        ("approve", "fallback:small", "no_score", False),
        ("decline", "fallback:rest", "no_score", False),
        ("review", "abstain", "no_score", False),
    ]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer.nothing(2, "timeout", "v9"), "timeout"),
        (Answer([0.5], [None], "v9"), "wrong_length"),
        (Answer([float("nan"), float("inf")], [None, None], "v9"), "not_finite"),
        (Answer([None, None], ["busy", "busy"], "v9"), "busy"),
        (Answer([0.5, 0.5], ["flagged", "flagged"], "v9"), "flagged"),
    ],
)
def test_an_answer_that_is_none_is_a_reason(answer: Answer, reason: str) -> None:
    plan = make_plan(DEFAULT, inputs=["amount"])
    effects = decide(plan, [{"id": 1, "amount": 1}, {"id": 2, "amount": 2}], answer=lambda ask: answer)
    for decision in decisions(effects):
        assert (decision["decision"], decision["score"], decision["score_reason"]) == ("review", None, reason)
        assert decision["model"] == "v9"
        assert decision["would_be"] is None
    assert effects.counts["unscored", reason] == 2


def test_stale_events_take_the_fallback_path() -> None:
    plan = make_plan(DEFAULT, time="at", max_age=timedelta(hours=1), fallback=[("late", None, "decline")])
    events = [{"id": n, "at": (NOW - timedelta(minutes=m)).isoformat()} for n, m in enumerate((59, 61))]
    batch = batch_of(TOPIC, [orjson.dumps(event) for event in events])
    effects = decide_batch(plan, batch, now=NOW)
    assert [(d["decision"], d["why"]) for d in decisions(effects)] == [
        ("approve", "rule"),
        ("decline", "stale"),
    ]
    assert [d["would_be"] for d in decisions(effects)] == ["approve", None]
    assert effects.counts["stale", TOPIC] == 1


def test_review_items_carry_the_decision_and_the_event() -> None:
    plan = make_plan([("all", None, "review")])
    effects = decide(plan, [{"id": 1, "extra": [1, {"a": None}]}])
    [item], [decision] = sent(effects, "t.review"), decisions(effects)
    whole = {"id": decision["id"], "blind": False, "decision": decision, "event": {"id": 1, "extra": [1, {"a": None}]}}
    assert item == {**whole, "priority": None, "opened": None, "deadline": None}


def test_traces_are_passed_through_and_other_headers_are_not() -> None:
    batch = batch_of(TOPIC, [b'{"id": 1}', b"{"])
    for headers in range(2):
        batch.topics[TOPIC].headers[headers] = (("traceparent", b"00-1-2-01"), ("cookie", b"x"))
    for output in decide_batch(make_plan(DEFAULT), batch).records:
        names = [name for name, _ in output.headers[0]]
        assert names[:3] == ["sp-type", "sp-version", "traceparent"]
        assert "cookie" not in names


def test_sensitive_fields_leave_only_as_keyed_hashes() -> None:
    plan = make_plan([("all", None, "review")], sensitive=frozenset({"name", "address.city"}), key="name")
    object.__setattr__(plan, "sensitive", frozenset({"name"}))
    events = [
        b'{"id": 1, "name": "Ada", "address": {"city": "Paris", "zip": 1}}',
        b'{"id": "bad", "name": "Ada"}',
    ]
    effects = decide_batch(plan, batch_of(TOPIC, events), masker=Masker(b"k" * 32))
    everything = repr([(o.keys, o.values, o.headers) for o in effects.records])
    assert "Ada" not in everything
    assert "Paris" not in everything
    [item] = sent(effects, "t.review")
    assert item["event"]["name"] == item["decision"]["features"]["name"] == item["decision"]["key"]
    assert item["event"]["name"].startswith("hash:")
    assert item["event"]["address"]["zip"] == 1
    [letter] = [o.values[0] for o in effects.records if o.topic == "t.dead-letter"]
    assert orjson.loads(letter or b"")["size"] == len(events[1])
    other = decide_batch(plan, batch_of(TOPIC, events), masker=Masker(b"q" * 32))
    assert sent(other, "t.review")[0]["event"]["name"] != item["event"]["name"]


def test_sensitive_fields_may_be_called_like_parts_of_a_decision() -> None:
    names = ("id", "partition", "offset", "timestamp", "key", "verdict", "score_reason", "provenance")
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
    plan = make_plan([("all", None, "approve")], schema=schema, sensitive=frozenset(names))
    object.__setattr__(plan, "sensitive", frozenset(names))
    object.__setattr__(plan, "recorded", names)
    event = orjson.dumps({name: f"secret {name}" for name in names})
    effects = decide_batch(plan, batch_of(TOPIC, [event], partition=7), masker=Masker(b"k" * 32))
    [decision] = sent(effects, "t.decisions")
    assert decision["id"].startswith("7-")
    assert (decision["source"]["partition"], decision["source"]["offset"], decision["key"]) == (7, 0, None)
    assert all(decision["features"][name].startswith("hash:") for name in names)
    assert len(set(decision["features"].values())) == len(names)


def test_a_review_item_shows_the_value_that_counted() -> None:
    plan = make_plan([("all", None, "review")])
    [item] = sent(decide(plan, [b'{"id": 1, \n"amount": 2, "amount": 3.5}']), "t.review")
    assert item["event"] == {"id": 1, "amount": 3.5}
    assert item["decision"]["features"]["amount"] == 3.5


def test_decision_ids_depend_on_coordinates_alone() -> None:
    def ids(**where: int) -> list[str]:
        return [d["id"] for d in decisions(decide(make_plan(DEFAULT), [{"id": 1}, {"id": 2}], **where))]

    assert ids() == ids()
    assert len({*ids(), *ids(partition=1), *ids(first_offset=2), *ids(timestamp=1)}) == 8
    assert ids(partition=12)[0].startswith("12-")


def test_numbers_are_times_in_milliseconds() -> None:
    schema = {"type": "object", "properties": {"ms": {"type": "integer"}}}
    plan = make_plan(DEFAULT, schema=schema, time="ms")
    object.__setattr__(plan, "recorded", ())
    [decision] = decisions(decide(plan, [{"ms": 1704067200500}]))
    assert datetime.fromisoformat(decision["time"]) == datetime(2024, 1, 1, 0, 0, 0, 500_000, UTC)
