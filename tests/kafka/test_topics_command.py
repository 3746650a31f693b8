"""``streamproc topics``: what is there, what is not, and that the ACLs it prints are enough and needed."""

from __future__ import annotations

import asyncio
import shlex
from typing import Any

import orjson
import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import CreateAclsRequest

from streamproc.errors import BrokerUnavailable
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from tests.kafka import car_loan, doors
from tests.kafka.car_loan import Example, command
from tests.kafka.conftest import PASSWORDS, SecureBroker

RESOURCES = {"--topic": 2, "--group": 3, "--transactional-id": 5}
OPERATIONS = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10}
LITERAL, PREFIXED, ALLOW = 3, 4, 3


def topics(made: Example, *more: str, code: int = 0) -> dict[str, dict[str, Any]]:
    out = command(made, "topics", str(made.file), "--json", *more, code=code)
    return {row["role"] + " " + row["topic"].partition(".")[2]: row for row in orjson.loads(out.stdout)["topics"]}


def test_missing_made_and_different(connection: Connection) -> None:
    made = car_loan.make(connection, partitions=3)
    rows = topics(made, code=1)
    assert rows["events events"]["status"] == "ok"
    assert {row["status"] for name, row in rows.items() if name != "events events"} == {"missing"}
    made_now = topics(made, "--create")
    assert {row["status"] for row in made_now.values()} == {"ok"}
    assert {name: row["actual"]["partitions"] for name, row in made_now.items()} == {
        "events events": 3, "decisions decisions": 3, "review review": 3, "dead-letter dead-letter": 3,
        "artefacts artefacts": 1, "action approvals": 3, "action declines": 3, "redriven redriven": 1,
        "changelog decide.changelog": 3, "control control": 1, "audit audit": 1, "unseen unseen": 3,
    }  # fmt: skip
    text = command(made, "topics", str(made.file)).stdout
    assert "30d" in text
    assert "User:WORKER" in text

    other = car_loan.make(connection, partitions=3)
    wrong = [
        admin.TopicSpec(other.topic("decisions"), 5),
        admin.TopicSpec(other.topic("review"), 3, cleanup_policy="compact"),
    ]
    asyncio.run(admin.create(connection, wrong))
    rows = topics(other, "--create", code=1)
    assert (rows["decisions decisions"]["status"], rows["decisions decisions"]["stops"]) == ("differs", False)
    assert (rows["review review"]["status"], rows["review review"]["stops"]) == ("differs", True)
    assert any(
        "cleanup.policy is compact, not delete; no worker runs" in todo for todo in rows["review review"]["todo"]
    )


def test_the_events_topic_is_never_made(connection: Connection) -> None:
    made = car_loan.make(connection)
    asyncio.run(admin.delete_topics(connection, [made.topic("events")]))
    rows = topics(made, code=1)
    assert "its producers own it" in rows["events events"]["todo"][0]
    with pytest.raises(Exception, match="how many partitions"):
        topics(made, "--create")
    made.file.write_text(made.file.read_text() + "\ntopics: {partitions: 2}\n")
    rows = topics(made, "--create", code=1)
    assert rows["events events"]["status"] == "missing"
    assert rows["decisions decisions"]["actual"]["partitions"] == 2


def test_without_a_broker(connection: Connection) -> None:
    made = car_loan.make(connection)
    nowhere = Example(made.name, made.file, Connection(("127.0.0.1:9",)))
    with pytest.raises(BrokerUnavailable):
        topics(nowhere)
    rows = topics(nowhere, "--offline")
    assert {row["status"] for row in rows.values()} == {"unknown"}
    assert rows["events events"]["wanted"]["partitions"] is None
    assert "as events" in command(nowhere, "topics", str(made.file), "--offline").stdout
    assert "leave out --offline" in command(nowhere, "topics", str(made.file), "--offline", "--create", code=2).output


async def grant(connection: Connection, line: str) -> None:
    """Do what a kafka-acls command of ours says."""
    words = iter(shlex.split(line)[1:])
    kind, name, principal, pattern, operations = 0, "", "", LITERAL, []
    for word in words:
        match word:
            case "--add":
                pass
            case "--bootstrap-server":
                next(words)
            case "--allow-principal":
                principal = next(words)
            case "--operation":
                operations.append(OPERATIONS[next(words)])
            case "--resource-pattern-type":
                assert next(words) == "prefixed"
                pattern = PREFIXED
            case _:
                kind, name = RESOURCES[word], next(words)
    client = AIOKafkaClient(**connection.client_kwargs())
    await client.bootstrap()
    try:
        for operation in operations:
            request = CreateAclsRequest(kind, name, pattern, principal, "*", operation, ALLOW)
            answer = await client.send(client.get_random_node(), request)
            assert [code for code, *_ in answer.creation_responses] == [0]
    finally:
        await client.close()


def test_the_acls_are_enough_for_a_worker(secure: SecureBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose principal may do what is printed and nothing else decides events."""
    made = car_loan.make(secure.plain)
    car_loan.produce(secure.plain, made.topic("events"), car_loan.events(20, damaged=False))
    out = command(made, "topics", str(made.file), "--acls", "--worker", "User:alice", "--offline").stdout
    lines = [line for line in out.splitlines() if "User:alice" in line]
    assert [line for line in lines if f"--transactional-id {made.name}- --resource-pattern-type prefixed" in line]
    alice = as_alice(secure, made, lines, monkeypatch)
    with car_loan.worker(alice):
        car_loan.wait_for_results(made, 20)
    log = (made.file.parent / "worker.log").read_text()
    assert "not allowed" not in log
    assert "Authorization" not in log


def as_alice(secure: SecureBroker, made: Example, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> Example:
    """The example as alice sees it, once she may do what these lines say."""
    for line in lines:
        asyncio.run(grant(secure.plain, line))
    monkeypatch.setenv("STREAMPROC_KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("STREAMPROC_KAFKA_SASL_MECHANISM", "PLAIN")
    monkeypatch.setenv("STREAMPROC_KAFKA_USERNAME", "alice")
    monkeypatch.setenv("STREAMPROC_KAFKA_PASSWORD", PASSWORDS["alice"])
    monkeypatch.setenv("STREAMPROC_KAFKA_SSL_CA", str(secure.ca))
    return Example(made.name, made.file, secure.connection("PLAIN", "alice"))


PARTS = "serve: {max_lag: 60s}\noutcomes: {values: [repaid, defaulted]}\nactions:\n"
BY = ("  key: id\n", "  key: id\n  repartition_by: salary_range\n")


@pytest.mark.timeout(240)
def test_the_acls_are_enough_for_a_door(secure: SecureBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A door whose principal may do what is printed and nothing else takes events and outcomes, and answers."""
    made = car_loan.make(secure.plain, changes=[("actions:\n", PARTS), BY])
    out = command(made, "topics", str(made.file), "--acls", "--door", "User:alice", "--offline").stdout
    lines = [line for line in out.splitlines() if "User:alice" in line]
    with car_loan.worker(made, "--kafka", secure.broker.address):
        alice = as_alice(secure, made, lines, monkeypatch)
        with doors.door(alice) as opened:
            (_, value), *_ = car_loan.events(1, damaged=False)
            answer = opened.decide(value or b"")
            assert answer.status == 200
            outcome = {"id": answer.json["id"], "value": "repaid", "time": "2026-01-01T00:00:00Z"}
            assert opened.call("POST", "/v1/outcomes", orjson.dumps(outcome), doors.JSON).status == 202
            assert opened.decide(value or b"", "1ms").status in (200, 202)
            doors.wait_until_ready(opened)
    log = (made.file.parent / "door.log").read_text()
    assert "not allowed" not in log
    assert "Authorization" not in log


def test_the_acls_of_a_door_are_for_pipelines_that_have_one(connection: Connection) -> None:
    without = car_loan.make(connection)
    served = car_loan.make(connection, changes=[("actions:\n", PARTS)])
    acls = [command(one, "topics", str(one.file), "--acls", "--offline").stdout for one in (without, served)]
    assert ["User:DOOR" in one for one in acls] == [False, True]
    asked = command(without, "topics", str(without.file), "--acls", "--offline", "--door", "User:till").stdout
    assert f"--topic {without.topic('unseen')}" in asked and "User:till" in asked
