"""People answer what automation would not, on a real Kafka."""

from __future__ import annotations

import asyncio
import base64
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer

from streamproc.errors import UserError
from streamproc.kafka.connection import Connection
from tests.kafka.car_loan import Example, command, events, make, produce, wait_for_results, worker
from tests.kafka.test_drift import read
from tests.record_schemas import record_problems

REVIEW = """
review:
  ttl: {ttl}
  on_expiry: escalate
  priority: car_value
  audit: 5%
  second_opinion: 20%
  corrections: true
{more}
actions:
  escalate: {{name}}.escalations
"""
OWN = ("review", "review-events", "decisions", "escalations", "approvals", "declines")


def reviewed(connection: Connection, ttl: str = "1h", more: str = "", partitions: int = 2) -> Example:
    """The example with people."""
    made = make(connection, partitions)
    part = REVIEW.format(ttl=ttl, more=more).format(name=made.name)
    text = made.file.read_text()
    made.file.write_text(text.replace("\nactions:\n", part))
    return made


def values(records: list[Any]) -> list[dict[str, Any]]:
    return [orjson.loads(record.value) for record in records]


def say(made: Example, *said: bytes, headers: tuple[tuple[str, bytes], ...] = (), topic: str = "verdicts") -> None:
    """What people say, put anywhere: each in the partition that comes next."""

    async def send() -> None:
        producer = AIOKafkaProducer(**made.connection.client_kwargs())
        await producer.start()
        try:
            for number, value in enumerate(said):
                await producer.send_and_wait(made.topic(topic), value, partition=number % 2, headers=list(headers))
        finally:
            await producer.stop()

    asyncio.run(send())


def test_people_answer_and_what_they_say_is_carried_out(connection: Connection) -> None:
    made = reviewed(connection)
    file = str(made.file)
    produce(made.connection, made.topic("events"), events(1_000, damaged=False))
    with worker(made), worker(made):
        wait_for_results(made, 1_000)
        asked = [one for one in values(made.read("decisions")) if one["decision"] == "review"]
        items = values(read(made, "review", len(asked)))
        listed = command(made, "review", file, "list", "--json", "--limit", "1000").output.splitlines()
        shown = [orjson.loads(line) for line in listed]
        assert {one["id"] for one in shown} == {one["id"] for one in items} >= {one["id"] for one in asked}
        urgent = [one["priority"] for one in shown if not one["blind"]]
        assert urgent == sorted(urgent, reverse=True)
        assert {one["priority"] for one in shown if one["blind"]} == {None}
        first, second, third, *rest = [one["id"] for one in shown if not one["blind"]]
        claimed = orjson.loads(command(made, "review", file, "claim", first, "--by", "ada", "--json").output)
        with pytest.raises(UserError, match="somebody else"):
            command(made, "review", file, "decide", first, "approve", "--by", "bob")
        command(made, "review", file, "decide", first, "approve", "--by", "ada", "--fence", str(claimed["fence"]))
        assert (
            "decided decline by bob" in command(made, "review", file, "decide", second, "decline", "--by", "bob").output
        )
        command(made, "review", file, "cancel", third, "--note", "withdrawn")
        assert (
            "corrected approve by eve"
            in command(made, "review", file, "decide", second, "approve", "--by", "eve").output
        )
        for unknown in ("0-" + "0" * 24, "1-" + "f" * 24):
            with pytest.raises(UserError, match="did not count"):
                command(made, "review", file, "decide", unknown, "approve")
        answers = [orjson.dumps({"id": one, "by": "ada", "decision": "approve", "verdict": f"v-{one}"}) for one in rest]
        say(made, *answers, *answers, b"{", b'{"id": "9-000000000000000000000000", "by": "x", "decision": "approve"}')
        made_by_people = 3 + len(rest)
        read(made, "decisions", 1_000 + made_by_people)
        told = command(made, "decision", "show", second, "--pipeline", file).output
        assert "then decline, reviewer: a person by bob" in told
        assert "then approve, reviewer: a person, otherwise than before by eve" in told
        letters = read(made, "dead-letter", 4)
    decisions = values(made.read("decisions"))
    later = [one for one in decisions if "revision" in one]
    assert Counter(one["tier"] for one in later) == {"reviewer": made_by_people}
    assert sorted((one["decision"], one["revision"]) for one in later if one["id"] == second) == [
        ("approve", 2),
        ("decline", 1),
    ]
    assert {one["id"] for one in later} == {one["id"] for one in asked} - {third}
    acted = values([*made.read("approvals"), *made.read("declines")])
    assert sorted(map(orjson.dumps, acted)) == sorted(
        orjson.dumps(one) for one in decisions if one["decision"] in ("approve", "decline")
    )
    reasons = Counter(dict(letter.headers)["sp-reason"] for letter in letters)
    assert reasons == {b"no_such_item": 2, b"malformed": 1, b"no_such_lane": 1}
    for topic in OWN:
        for record in made.read(topic):
            assert record_problems(record.value, record.headers) == []
            if topic in ("decisions", "review", "review-events"):
                assert record.partition == int(orjson.loads(record.value)["id"].split("-")[0])
                assert dict(record.headers)["traceparent"] == b"00-" + record.key
    steps = Counter((one["kind"], one["step"]) for one in values(made.read("review-events")))
    assert steps["review", "decided"] == len(asked) - 1
    assert steps["audit", "opened"] > 10
    assert steps["second_opinion", "opened"] > 0


def test_what_nobody_answers_is_escalated_in_time(connection: Connection) -> None:
    made = reviewed(connection, ttl="3s")
    produce(made.connection, made.topic("events"), events(400, damaged=False))
    with worker(made):
        wait_for_results(made, 400)
        asked = {one["id"] for one in values(made.read("decisions")) if one["decision"] == "review"}
        assert asked
        escalated = values(read(made, "escalations", len(asked)))
    assert {one["id"] for one in escalated} == asked
    assert {(one["tier"], one["why"]) for one in escalated} == {("expiry", "expired")}


def test_where_signatures_are_wanted_only_those_count(connection: Connection, tmp_path: Path) -> None:
    key = tmp_path / "ada.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(key)], check=True)
    der = subprocess.run(
        ["openssl", "pkey", "-in", str(key), "-pubout", "-outform", "DER"], check=True, capture_output=True
    ).stdout
    public = base64.b64encode(der[-32:]).decode()
    made = reviewed(connection, more=f"  keys: {{{{ada: {public}}}}}\n  require_signature: true\n")
    file = str(made.file)
    produce(made.connection, made.topic("events"), events(300, damaged=False))
    with worker(made):
        wait_for_results(made, 300)
        item = next(one["id"] for one in values(read(made, "review", 1)) if not one["blind"])
        for more, why in (((), "unsigned"), (("--by", "bob", "--sign", str(key)), "unknown key")):
            with pytest.raises(UserError, match=why):
                command(made, "review", file, "decide", item, "approve", "--by", "ada", *more)
        told = command(made, "review", file, "decide", item, "approve", "--by", "ada", "--sign", str(key), "--json")
        assert orjson.loads(told.output)["signed"] is True
    [decision] = [one for one in values(made.read("decisions")) if one.get("revision")]
    assert decision["review"]["signed"] is True


def test_results_of_actions_are_counted(connection: Connection) -> None:
    made = reviewed(connection)
    produce(made.connection, made.topic("events"), events(50, damaged=False))
    with worker(made):
        wait_for_results(made, 50)
        decision = values(made.read("decisions"))[0]["id"]
        say(made, orjson.dumps({"id": decision, "status": "failed"}), b'{"status": "done"}', topic="action-results")
        [letter] = read(made, "dead-letter", 1)
        shown = command(made, "decision", "show", decision, "--pipeline", str(made.file), "--json").output
    [told] = orjson.loads(shown)["action_results"]
    assert (told["id"], told["status"], told["revision"]) == (decision, "failed", 0)
    assert dict(letter.headers)["sp-reason"] == b"malformed"
    assert re.search("id", dict(letter.headers)["sp-detail"].decode())
