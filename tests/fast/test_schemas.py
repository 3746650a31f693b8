"""What the decide processor sends satisfies schemas/, with whatever is missing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema_rs
import orjson
import pytest

from streamproc.core.processor import Answer, Ask, Effects
from streamproc.core.records import VERSIONS, DeadLetter, Source, text_headers, too_large
from streamproc.core.sensitive import Masker
from streamproc.offline import batch_of
from tests.fast.plans import TOPIC, decide, decide_batch, make_plan
from tests.record_schemas import SCHEMAS, problems, record_problems

RULES = [
    ("odd", "count > 10 AND ok", "decline"),
    ("seen", "name LIKE 'a%'", "review"),
    ("unsure", "trust < 0.1", "review"),
    ("large", "amount > 100", "decline"),
]
FEATURES = {
    "trust": "amount / 1000",
    "ratio": "amount / count",
    "big": "amount * 1e300 * 1e300",
    "root": "SQRT(amount)",
    "day": "CAST(at AS TIMESTAMP)",
    "label": "COALESCE(name, 'none')",
    "flag": "amount > 5",
}
EVENTS: list[Any] = [
    {"id": 1},
    {"id": 2, "amount": None, "count": None, "name": None, "ok": None, "at": None},
    {"id": 3, "amount": 1e308, "count": 0, "name": "", "ok": True, "at": "2024-01-01"},
    {"id": 4, "amount": -1.5, "count": 2**62, "name": 'quo"te \\ \u2028 \x00 é', "ok": False, "at": "x"},
    {"id": 5, "amount": 200.25, "count": 11, "name": "abc", "ok": True, "extra": {"deep": [1, None]}},
    {"id": "six"},
    {},
    b"{",
    b"\xff",
    b"[]",
    b"",
    None,
]


def checked(effects: Effects) -> dict[str, int]:
    """Validate every record; how many there were of each type."""
    counts: dict[str, int] = {}
    for output in effects.records:
        for value, headers in zip(output.values, output.headers, strict=True):
            assert record_problems(value, headers) == [], (output.topic, value)
            name = dict(headers)["sp-type"].decode()
            counts[name] = counts.get(name, 0) + 1
    return counts


def no_score(ask: Ask) -> Answer:
    return Answer.nothing(len(ask.ids), "timeout")  # type: ignore[union-attr]


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_schemas_and_name_their_version(name: str) -> None:
    schema = SCHEMAS[name]
    jsonschema_rs.meta.validate(schema)
    assert schema["$id"] == f"urn:streamproc:{name}:{VERSIONS.get(name, 1)}"
    assert schema["description"]


def test_every_record_type_has_a_schema() -> None:
    # panes are not JSON, and for the drift agent alone; cases are for the review agent alone
    assert set(VERSIONS) - {"panes", "case"} <= set(SCHEMAS)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"inputs": ["amount"]},
        {"inputs": ["amount"], "confidence": "ABS(score)", "key": "id"},
        {"inputs": ["amount"], "fallback": [("small", "amount < 5", "approve"), ("rest", None, "review")]},
        {"key": "name", "time": "at"},
        {"max_age": timedelta(days=1), "time": "at", "fallback": [("old", None, "decline")]},
    ],
)
@pytest.mark.parametrize("answer", ["score", "no score"])
def test_whatever_is_missing(options: dict[str, Any], answer: str) -> None:
    plan = make_plan(RULES, features=FEATURES, observe=["odd"], **options)
    batch = batch_of(TOPIC, [e if e is None or isinstance(e, bytes) else orjson.dumps(e) for e in EVENTS], timestamp=1)
    more: dict[str, Any] = {} if answer == "score" else {"answer": no_score}
    counts = checked(decide_batch(plan, batch, now=datetime(2024, 1, 1, 12, tzinfo=UTC), **more))
    assert counts["decision"] + counts["dead-letter"] - counts.get("review-item", 0) >= 7
    assert counts["dead-letter"] >= 6


def test_sensitive_fields_and_masked_dead_letters() -> None:
    plan = make_plan(RULES, features=FEATURES, sensitive=frozenset({"name", "id"}), key="id")
    batch = batch_of(TOPIC, [orjson.dumps(EVENTS[4]), b"{"], timestamp=1)
    counts = checked(decide_batch(plan, batch, masker=Masker(b"k" * 32)))
    assert counts["dead-letter"] == 1


def test_headers_that_pass_through_belong_to_every_type() -> None:
    passed = (("traceparent", b"00-1"), ("tracestate", b"a=b"), ("sp-redriven-from", b"t.dead-letter-3-17"))
    letter = DeadLetter("contract", "not_json", "$.x", "detail").headers("t", Source("e", 1, 2, 3), passed)
    assert problems("dead-letter", text_headers(letter)) == []
    _, large = too_large("t.review", b"x" * 9000, passed)
    assert problems("dead-letter", text_headers(large)) == []


def test_strict() -> None:
    decision = orjson.loads(decide(make_plan(), [{"id": 1}]).records[0].values[0] or b"")
    assert problems("decision", decision) == []
    for change in (
        {"more": 1},
        {"tier": "magic"},
        {"id": "abc"},
        {"score": 0.5},
        {"rules": [1]},
        {"source": {"topic": "t"}},
        {"features": {"a": {}}},
    ):
        assert problems("decision", decision | change), change
    for name in decision:
        assert problems("decision", {key: value for key, value in decision.items() if key != name}), name
