"""``streamproc dead-letters``: listing, showing, and redriving each event once."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer

from streamproc.core.records import DeadLetter, Source, too_large
from streamproc.core.sensitive import Masker
from streamproc.dead_letters import Letter
from streamproc.errors import ExpressionError, UserError
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.pipeline import SECRET, make_masker, open_pipeline
from streamproc.redrive import Redrive, redrive
from streamproc.topics import redriven_topic
from tests.kafka import car_loan
from tests.kafka.car_loan import Example, command
from tests.kafka.records import read_all
from tests.record_schemas import record_problems

KEY = "0123456789abcdef-key"


def letters(made: Example, *more: str) -> list[dict[str, Any]]:
    out = command(made, "dead-letters", str(made.file), "list", "--json", *more)
    return [orjson.loads(line) for line in out.stdout.splitlines()]


def test_list_and_show(connection: Connection) -> None:
    made = car_loan.decided(connection.address)
    found = letters(made)
    assert len(found) == 30
    assert {letter["reason"] for letter in found} == {
        "not_json", "contract_exclusiveMinimum", "tombstone", "not_utf8", "no_event_time",
    }  # fmt: skip
    assert not any(letter["redriven"] for letter in found)
    below = letters(made, "--reason", "contract_exclusiveMinimum")
    assert len(below) == 6
    assert {letter["path"] for letter in below} == {"$.car_value"}
    odd = letters(made, "--where", "path = '$.car_value' AND partition = 1 AND offset % 2 = 1")
    assert odd == [x for x in below if x["source"]["partition"] == 1 and x["source"]["offset"] % 2 == 1]
    assert len(letters(made, "--limit", "4")) == 4
    assert letters(made, "--since", "2100-01-01") == []
    text = command(made, "dead-letters", str(made.file), "list").stdout
    assert "6  contract_exclusiveMinimum" in text
    assert "30  in all" in text
    shown = command(made, "dead-letters", str(made.file), "show", below[0]["id"]).stdout
    assert '"car_value":-1' in shown
    assert "$.car_value" in shown
    with pytest.raises(ExpressionError, match="unknown column 'resaon'"):
        letters(made, "--where", "resaon = 'x'")
    with pytest.raises(UserError, match="no dead letter 0-999999"):
        command(made, "dead-letters", str(made.file), "show", "0-999999")


def test_redrive_is_once_and_keeps_the_link(connection: Connection) -> None:
    made = car_loan.make(connection)
    rows = car_loan.events(100)
    car_loan.produce(connection, made.topic("events"), rows)
    car_loan.run_worker_until(made, 100)
    redriving = ("dead-letters", str(made.file), "redrive")

    dry = command(made, *redriving, "--dry-run", "--reason", "not_json")
    assert "2  to redrive" in dry.stdout
    with pytest.raises(UserError, match="nothing was changed"):
        command(made, *redriving, "--reason", "not_json", stdin="n\n")
    assert len(made.read("events")) == 100
    assert "2  sent" in command(made, *redriving, "--reason", "not_json", stdin="y\n").stdout
    rest = command(made, *redriving, "--yes").stdout
    assert "8  sent" in rest
    assert "2  left out (redriven before" in rest
    assert "nothing was sent" in command(made, *redriving, "--yes").stdout
    assert all(letter["redriven"] for letter in letters(made))

    redriven = [record for record in made.read("events") if "sp-redriven-from" in dict(record.headers)]
    assert len(redriven) == 10
    sources = {record.key: record for record in made.read("events")[:200] if record not in redriven}
    for record in redriven:
        before = sources[record.key]
        assert (record.value, record.partition, record.timestamp) == (
            before.value, before.partition, before.timestamp,
        )  # fmt: skip
        assert dict(record.headers)["traceparent"] == dict(before.headers)["traceparent"]
    for note in made.read("redriven"):
        assert record_problems(note.value, note.headers) == []

    # the contract is mended: the header arrives in the decision, and other things are dead letters again
    contract = made.file.parent / "event.schema.json"
    contract.write_text(contract.read_text().replace('"exclusiveMinimum": 0', '"minimum": -5'))
    car_loan.run_worker_until(made, 110)
    linked = [d for d in made.read("decisions") if "sp-redriven-from" in dict(d.headers)]
    assert len(linked) == 2
    for decision in linked:
        assert orjson.loads(decision.value)["features"]["car_value"] == -1
        assert dict(decision.headers)["sp-redriven-from"].startswith(made.topic("dead-letter").encode() + b"-")
    again = letters(made)
    assert len(again) == 18
    assert len([letter for letter in again if not letter["redriven"]]) == 8
    one = next(letter for letter in again if letter["redriven"])
    assert "1  sent" in command(made, *redriving, "--id", one["id"], "--again", "--yes").stdout


async def write_letters(connection: Connection, topic: str, rows: list[tuple[bytes | None, Any]]) -> None:
    producer = AIOKafkaProducer(**connection.client_kwargs())
    await producer.start()
    try:
        for value, headers in rows:
            await producer.send_and_wait(topic, value, key=b"k", headers=list(headers), partition=0)
    finally:
        await producer.stop()


def test_what_cannot_be_redriven(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masked, truncated, and encrypted dead letters; these last with the right key, another, and none."""
    made = car_loan.make(
        connection,
        changes=[
            ("time: timestamp", "time: timestamp\n  sensitive: [salary_range]"),
            ("undecided: review", "undecided: review\ndead_letters: {sensitive: encrypted}"),
        ],
    )
    topic = made.topic("dead-letter")
    plan = open_pipeline(made.file, {SECRET: KEY}).plan
    ours, theirs = make_masker(plan, {SECRET: KEY}), make_masker(plan, {SECRET: KEY + "x"})
    assert ours is not None
    assert theirs is not None
    sealed, masked = (
        DeadLetter("contract", "not_json").headers(made.name, Source(made.topic("events"), 1, 0, 77), (), form)
        for form in ("encrypted", "masked")
    )
    cut, cut_headers = too_large(made.topic("review"), b"x" * 9000, ())
    rows = [
        (ours.body(b"{broken", encrypt=True), sealed),
        (theirs.body(b"{broken", encrypt=True), sealed),
        (Masker(b"k" * 32).body(b"{broken", encrypt=False), masked),
        (cut, cut_headers),
    ]
    asyncio.run(admin.create(connection, [admin.TopicSpec(topic, 1)]))
    asyncio.run(write_letters(connection, topic, rows))
    monkeypatch.delenv(SECRET, raising=False)
    with pytest.raises(UserError, match="encrypted, and STREAMPROC_SENSITIVE_KEY is not set"):
        command(made, "dead-letters", str(made.file), "redrive", "--yes")
    assert "--reveal" in command(made, "dead-letters", str(made.file), "show", "0-0").stdout
    monkeypatch.setenv(SECRET, KEY)
    assert "{broken" in command(made, "dead-letters", str(made.file), "show", "0-0", "--reveal").stdout
    said = command(made, "dead-letters", str(made.file), "redrive", "--yes").stdout
    assert "1  left out (encrypted with another key)" in said
    assert "1  left out (masked: only a hash of the event was kept)" in said
    assert "1  left out (truncated: not an event" in said
    assert "1  sent" in said
    [event] = asyncio.run(read_all(connection, made.topic("events")))
    assert (event.value, event.key, event.partition, event.timestamp) == (b"{broken", b"k", 1, 77)


def test_two_redrives_at_once_send_each_event_once(connection: Connection) -> None:
    made = car_loan.make(connection)
    topic = made.topic("dead-letter")
    head = DeadLetter("contract", "not_json").headers(made.name, Source(made.topic("events"), 0, 0, 1))
    asyncio.run(admin.create(connection, [admin.TopicSpec(topic, 1)]))
    asyncio.run(write_letters(connection, topic, [(b"{%d" % n, head) for n in range(1200)]))
    items = [Redrive(Letter.of(record), record.value) for record in made.read("dead-letter")]
    noted = redriven_topic(open_pipeline(made.file).loaded)

    async def both() -> list[Any]:
        one = redrive(connection, made.topic("events"), noted, made.name, items, again=False)
        two = redrive(connection, made.topic("events"), noted, made.name, items, again=False)
        return await asyncio.gather(one, two, return_exceptions=True)

    outcomes = asyncio.run(both())
    assert any(isinstance(outcome, int) for outcome in outcomes), outcomes
    assert all(isinstance(outcome, int | UserError) for outcome in outcomes), outcomes
    asyncio.run(redrive(connection, made.topic("events"), noted, made.name, items, again=False))
    values = [record.value for record in made.read("events")]
    assert sorted(values) == sorted(item.raw or b"" for item in items)
