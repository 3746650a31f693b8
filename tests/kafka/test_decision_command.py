"""``streamproc decision`` on decisions that a real worker made."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer

from streamproc.artefacts import artefacts, to_directory, to_topic
from streamproc.errors import UserError
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.pipeline import open_pipeline
from tests.kafka import car_loan
from tests.kafka.car_loan import Example, command


@pytest.fixture
def made(connection: Connection) -> Example:
    return car_loan.decided(connection.address)


def search(made: Example, *more: str) -> list[dict[str, Any]]:
    out = command(made, "decision", "search", "--topic", made.topic("decisions"), "--json", *more)
    return [orjson.loads(line) for line in out.stdout.splitlines()]


def show(made: Example, decision_id: str, *more: str) -> dict[str, Any]:
    shown = command(made, "decision", "show", decision_id, "--pipeline", str(made.file), "--json", *more)
    found: dict[str, Any] = orjson.loads(shown.stdout)
    return found


def test_search(made: Example) -> None:
    assert len(search(made, "--limit", "1000")) == 270
    [one] = search(made, "--key", "50071")
    assert one["key"] == "50071"
    reviews = search(made, "--decision", "review", "--limit", "1000")
    assert {row["decision"] for row in reviews} == {"review"}
    undecided = search(made, "--rule", "large-new-driver", "--limit", "1000")
    assert [row for row in undecided if row["why"] == "undecided"]
    assert all("large-new-driver" in (*row["rules"], *row["undecided"], *row["observed"]) for row in undecided)
    youngest = search(made, "--limit", "3")
    assert len(youngest) == 3
    assert search(made, "--since", "2100-01-01") == []
    assert len(search(made, "--since", "1h", "--limit", "1000")) == 270
    text = command(made, "decision", "search", "--pipeline", str(made.file), "--key", "50071")
    assert one["id"] in text.stdout


def test_show_explains(made: Example) -> None:
    [wanted] = search(made, "--rule", "unsure", "--limit", "1")
    shown = show(made, wanted["id"])
    assert shown["decision"] == wanted
    assert shown["archived"] is True
    assert shown["event"]["id"] == int(wanted["key"])
    rules = {rule["id"]: rule for rule in shown["rules"]}
    assert list(rules) == [
        "large-new-driver",
        "very-large",
        "unsure",
        "heavy-debt",
        "low-score",
        "rate-too-high",
        "good",
    ]
    assert rules["unsure"]["outcome"] == "matched"
    assert rules["unsure"]["decided"]
    assert rules["unsure"]["when"] == "confidence < unsure_below"
    assert rules["unsure"]["values"] == {"confidence": wanted["confidence"], "unsure_below": 0.4}
    assert rules["good"]["when"] is None
    text = command(made, "decision", "show", wanted["id"], "--topic", made.topic("decisions")).stdout
    for part in (wanted["plan"], "confidence < unsure_below", "car_value", f"{made.topic('events')}-"):
        assert part in text


def test_show_says_what_could_not_be_evaluated(made: Example) -> None:
    rows = search(made, "--rule", "large-new-driver", "--limit", "1000")
    wanted = next(row for row in rows if row["why"] == "undecided")
    rules = {rule["id"]: rule for rule in show(made, wanted["id"])["rules"]}
    assert rules["large-new-driver"]["outcome"] == "could not be evaluated"
    assert rules["large-new-driver"]["values"]["driver_tenure"] is None


def test_what_is_not_there(made: Example, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no decision's id"):
        show(made, "0-0000")
    assert "--topic NAME or --pipeline FILE" in command(made, "decision", "search", code=2).output
    [wanted] = search(made, "--limit", "1")
    unarchived = show(made, wanted["id"], "--artefacts", str(tmp_path))
    assert unarchived["archived"] is False
    assert "--reveal" in unarchived["event"]
    assert {rule["when"] for rule in unarchived["rules"]} == {None}
    assert show(made, wanted["id"], "--artefacts", str(tmp_path), "--reveal")["event"]["id"]
    to_directory(artefacts(open_pipeline(made.file)), tmp_path)
    assert show(made, wanted["id"], "--artefacts", str(tmp_path))["archived"] is True


def test_an_event_that_is_gone_and_sensitive_fields(connection: Connection) -> None:
    """A decision whose source topic has been made anew since, and one with a hidden field."""
    made = car_loan.make(connection, changes=[("time: timestamp", "time: timestamp\n  sensitive: [salary_range]")])
    name = made.topic("events")
    event = dict(orjson.loads(car_loan.events(1)[0][1] or b""))

    async def prepare() -> None:
        pipeline = open_pipeline(made.file, {"STREAMPROC_SENSITIVE_KEY": "k" * 16})
        decisions, kept = made.topic("decisions"), made.topic("artefacts")
        specs = [admin.TopicSpec(decisions, 1), admin.TopicSpec(kept, 1, cleanup_policy="compact")]
        await admin.create(connection, specs)
        await to_topic(artefacts(pipeline), connection, kept)
        producer = AIOKafkaProducer(**connection.client_kwargs())
        await producer.start()
        try:
            await producer.send_and_wait(name, orjson.dumps(event), partition=0, timestamp_ms=5)
            for number, stamp in enumerate((5, 6)):
                source = {"topic": name, "partition": 0, "offset": 0, "timestamp": stamp}
                record = dict(SAMPLE, id=f"0-{number:024x}", source=source, pipeline=made.name)
                record["plan"] = pipeline.plan.hash
                await producer.send_and_wait(decisions, orjson.dumps(record), headers=[("sp-type", b"decision")])
        finally:
            await producer.stop()

    asyncio.run(prepare())
    first, second = (f"0-{number:024x}" for number in range(2))
    shown = show(made, first)
    outcomes = {rule["id"]: (rule["outcome"], rule["fallback"]) for rule in shown["rules"]}
    assert outcomes["no-score-small"] == ("matched", True)
    assert outcomes["no-score"] == ("not known", True)
    assert shown["event"] == event | {"salary_range": "(sensitive)"}
    assert show(made, first, "--reveal")["event"] == event
    assert "the topic was made anew" in show(made, second)["event"]


SAMPLE: dict[str, Any] = {
    "id": "", "source": {}, "key": None, "time": "2024-01-01T00:00:00.000000Z", "decision": "approve",
    "tier": "fallback:no-score-small", "why": "no_score", "rule": "no-score-small", "would_be": None, "rules": [],
    "reasons": [], "observed": [], "undecided": [], "score": None, "scored": False, "score_reason": "timeout",
    "confidence": None, "features": {}, "pipeline": "", "plan": "", "model": None, "seen": {},
}  # fmt: skip
