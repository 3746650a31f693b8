"""What the operators' commands work out without a broker."""

from __future__ import annotations

import doctest
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from aiokafka import TopicPartition

from streamproc import operations
from streamproc.artefacts import artefacts
from streamproc.cli import topics as topics_command
from streamproc.cli.reset import consequences
from streamproc.core.records import BodyForm, DeadLetter, Source, too_large
from streamproc.core.sensitive import Masker
from streamproc.dead_letters import Choice, Letter, open_body, where
from streamproc.errors import ExpressionError, UserError
from streamproc.explain import explain, read_plan
from streamproc.kafka.group import Claim, Committed
from streamproc.operations import moment
from streamproc.pipeline import open_pipeline
from streamproc.redrive import is_noted, place
from streamproc.reset import Move
from streamproc.sample import example

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize("module", [operations, topics_command])
def test_examples(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", datetime(2026, 1, 31, 11, 58, 30, tzinfo=UTC)),
        ("1.5h", datetime(2026, 1, 31, 10, 30, tzinfo=UTC)),
        ("2026-01-30", datetime(2026, 1, 30, tzinfo=UTC)),
        ("2026-01-30T08:00+02:00", datetime(2026, 1, 30, 6, tzinfo=UTC)),
        ("999999999999d", datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_moments(text: str, expected: datetime) -> None:
    assert moment(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "noon", "5", "2026-13-01", "-1h"])
def test_no_moments(text: str) -> None:
    with pytest.raises(UserError, match="is not a time"):
        moment(text, NOW)


MOVE = Move("decide", TopicPartition("t", 0), Committed(50, Claim("o", 3, "id", 4)), 10, 90, 50, "id", 4)


@pytest.mark.parametrize(
    ("change", "skipped", "gone", "repeated"),
    [
        ({}, 0, 0, 0),
        ({"target": 90}, 40, 0, 0),
        ({"target": 10}, 0, 0, 40),
        ({"before": Committed(5, MOVE.before.claim), "target": 20}, 10, 5, 0),
        ({"before": Committed(500, MOVE.before.claim), "target": 80}, 0, 0, 10),
        ({"before": Committed(-1, None), "target": 10}, 0, 0, 0),
        ({"before": Committed(-1, None), "target": 30}, 20, 0, 0),
        ({"topic_id": "other", "target": 10}, 0, 0, 0),
        ({"topic_id": "other", "target": 40}, 30, 0, 0),
    ],
)
def test_what_a_move_loses_and_repeats(change: dict[str, Any], skipped: int, gone: int, repeated: int) -> None:
    move = replace(MOVE, **change)
    assert (move.skipped, move.gone, move.repeated) == (skipped, gone, repeated)
    said = " ".join(consequences(move))
    for count, words in ((skipped, "are skipped"), (gone, "are lost already"), (repeated, "are decided again")):
        assert (f"{count} events {words}" in said) == bool(count)
    assert ("made anew" in said) == (move.topic_id == "other")


def letter(
    reason: str = "not_json",
    path: str = "",
    offset: int = 7,
    value: bytes | None = b"{",
    form: BodyForm = "plain",
) -> Letter:
    headers = DeadLetter("contract", reason, path).headers("t", Source("t.events", 3, offset, 1_000), (), form)
    return Letter.of(record(headers, value, offset))


def record(headers: Any, value: bytes | None, offset: int = 0) -> Any:
    return SimpleNamespace(
        topic="t.dead-letter", partition=1, offset=offset, timestamp=5, key=None, value=value, headers=headers
    )


def test_choosing_dead_letters() -> None:
    value, headers = too_large("t.review", b"x" * 5000, ())
    letters = [letter(), letter("tombstone", offset=8, value=None), Letter.of(record(headers, value, 9))]

    def ids(**choice: Any) -> list[str]:
        return [one.id for one in Choice(**choice).among(letters)]

    assert ids() == ["1-7", "1-8", "1-9"]
    assert ids(reason="tombstone") == ["1-8"]
    assert ids(ids=frozenset({"1-9", "1-7"})) == ["1-7", "1-9"]
    assert ids(where=where("partition = 3 AND offset > 7")) == ["1-8"]
    assert ids(where=where("timestamp < CAST('1970-01-01T00:00:02Z' AS TIMESTAMP)")) == ["1-7", "1-8"]
    assert ids(where=where("topic IS NULL")) == ["1-9"]
    for wrong in ("reason", "now() > timestamp", "rason = 'x'"):
        with pytest.raises(ExpressionError):
            where(wrong)


def test_bodies_that_cannot_be_had() -> None:
    masked = Masker(b"k" * 32).body(b"{broken", encrypt=False)
    assert "masked" in (open_body(letter(value=masked, form="masked"), None).missing or "")
    assert open_body(letter(value=masked), None).raw == masked  # an event that looks like one
    assert "encrypted" in (open_body(letter(form="encrypted"), None).missing or "")
    assert open_body(letter(value=None), None).missing is None
    value, headers = too_large("t.review", b"x" * 5000, ())
    assert "truncated" in (open_body(Letter.of(record(headers, value)), None).missing or "")


def test_a_note_is_of_one_letter() -> None:
    one = letter()
    assert place(one) == "t.dead-letter-1-7"
    assert is_noted(one, {"t.dead-letter-1-7": 5})
    assert not is_noted(one, {"t.dead-letter-1-7": 6})  # of a topic that was there before
    assert not is_noted(one, {})


def test_archived_plans_that_cannot_be_read() -> None:
    [plan, _] = artefacts(open_pipeline(example("car_loan") / "pipeline.yaml"))
    whole = orjson.loads(plan.body)
    found = read_plan(plan.body)
    assert found is not None
    assert found.reads["score < 0.5"] == {"score"}
    assert found.reads["confidence < unsure_below"] == {"confidence", "unsure_below"}
    for change in ({"file": "x: ["}, {"file": "pipeline: p"}, {"file": ""}):
        assert read_plan(orjson.dumps(whole | change)) is None
    assert read_plan(b"{") is None
    assert read_plan(b"{}") is None
    text = whole["file"].replace("score < 0.5", "score <<>> 0.5")
    unknown = read_plan(orjson.dumps(whole | {"file": text}))  # as of a later version's grammar
    assert unknown is not None
    assert "score <<>> 0.5" not in unknown.reads


def test_without_a_plan_only_what_is_named() -> None:
    decision: dict[str, Any] = {
        "rules": ["b"], "observed": ["o"], "undecided": ["a"], "rule": "f", "why": "no_score",
    }  # fmt: skip
    outcomes = [(trace.id, trace.outcome, trace.decided) for trace in explain(decision, None)]
    assert outcomes == [
        ("b", "matched", False),
        ("o", "observed", False),
        ("a", "could not be evaluated", False),
        ("f", "matched", True),
    ]
