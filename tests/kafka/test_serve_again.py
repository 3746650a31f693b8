"""What is sent again, and what is put on record of callers who have not seen a decision."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from tests.kafka import car_loan
from tests.kafka.car_loan import Example
from tests.kafka.doors import Door, door
from tests.record_schemas import record_problems

DEDUPE = [("  key: id\n", "  key: id\n  id: id\n  dedupe: 24h\n")]
ROWS = [value or b"" for _, value in car_loan.events(10, damaged=False)]
LINES = 2_500


def wait_for(found: Callable[[], list[Any]], count: int = 1) -> list[Any]:
    """Records, as soon as there are so many."""
    until = time.monotonic() + 60
    while len(records := found()) < count:
        assert time.monotonic() < until, f"{len(records)} came, and not {count}"
        time.sleep(0.05)
    return records


async def empty(connection: Any, topic: str) -> None:
    """Delete what stands in a topic of one partition."""
    client = AIOKafkaAdminClient(bootstrap_servers=connection.address)
    await client.start()
    try:
        await client.delete_records({TopicPartition(topic, 0): RecordsToDelete(-1)})
    finally:
        await client.close()


def marks(made: Example) -> list[Any]:
    """What is on record of callers, each according to the schema."""
    records = made.read("unseen")
    assert [problem for one in records for problem in record_problems(one.value, one.headers)] == []
    return [orjson.loads(one.value) for one in records]


def test_a_duplicate_whose_decision_is_not_found_is_put_on_record(connection: Any) -> None:
    forgetful = [*DEDUPE, ("actions:\n", "serve: {look_back: 1ms}\nactions:\n")]
    made = car_loan.make(connection, partitions=1, changes=forgetful)
    with car_loan.worker(made):
        with door(made) as opened:
            first = opened.decide(ROWS[0])
        asyncio.run(empty(connection, made.topic("decisions")))
        with door(made) as second:
            again = second.decide(ROWS[0], "8s")
            late = second.call("GET", "/metrics").body
    assert (first.status, again.status) == (200, 202)
    assert again.json["status"] == "decided" and again.json["decision_id"] == first.json["id"]
    [mark] = marks(made)
    assert (mark["said"], mark["decision_id"]) == ("decided", first.json["id"])
    assert b'streamproc_door_late_total{said="decided"} 1.0' in late


@pytest.mark.parametrize("deadline", ["30s", "10s"])
def test_a_caller_who_had_gone_is_put_on_record(connection: Any, deadline: str) -> None:
    made = car_loan.make(connection, partitions=1)
    car_loan.command(made, "topics", str(made.file), "--create")
    with door(made) as opened:
        leave(opened, ROWS[1], deadline)
        if deadline == "30s":  # it had gone when the decision came
            with car_loan.worker(made):
                [mark] = wait_for(lambda: marks(made))
            [decision] = made.read("decisions")
            assert mark["decision_id"] == orjson.loads(decision.value)["id"]
        else:  # or when the deadline passed
            [mark] = wait_for(lambda: marks(made))
    assert mark["said"] is None and mark["deadline"] == float(deadline[:-1])


def test_a_caller_who_had_gone_is_put_on_record_where_the_decision_was_an_earlier_one(connection: Any) -> None:
    made = car_loan.make(connection, partitions=1, changes=DEDUPE)
    car_loan.command(made, "topics", str(made.file), "--create")
    car_loan.produce(connection, made.topic("events"), car_loan.events(2, damaged=False)[1:])
    with door(made) as opened:
        leave(opened, ROWS[1], "30s")
        with car_loan.worker(made):
            [mark] = wait_for(lambda: marks(made))
    [decision] = made.read("decisions")
    [letter] = made.read("dead-letter")
    assert dict(letter.headers)["sp-reason"] == b"duplicate"
    assert (mark["said"], mark["decision_id"]) == (None, orjson.loads(decision.value)["id"])
    assert mark["source"]["offset"] == int(dict(letter.headers)["sp-offset"])


@pytest.mark.parametrize("safe", [None, "decline"])
def test_who_waits_when_the_door_ends_is_answered_and_put_on_record(connection: Any, safe: str | None) -> None:
    changes = [] if safe is None else [("actions:\n", f"serve: {{on_deadline: {{decide: {safe}}}}}\nactions:\n")]
    made = car_loan.make(connection, partitions=1, changes=changes)
    car_loan.command(made, "topics", str(made.file), "--create")
    with ThreadPoolExecutor() as pool, door(made) as opened:
        asking = pool.submit(opened.decide, ROWS[1], "30s")  # nobody decides it
        wait_until_taken(opened)
        opened.process.terminate()
        answer = asking.result(60)
        assert opened.process.wait(60) == 0
    assert answer.status == (202 if safe is None else 200)
    assert answer.json["status"] == ("pending" if safe is None else "deadline")
    [mark] = marks(made)
    assert mark["said"] == (safe or "pending")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("changes", [DEDUPE, []], ids=["an id of their own", "the key of the request"])
def test_lines_that_were_cut_off_are_sent_again_and_stand_there_once(
    connection: Any, changes: list[tuple[str, str]]
) -> None:
    made = car_loan.make(connection, partitions=2, changes=changes)
    car_loan.command(made, "topics", str(made.file), "--create")
    rows = [orjson.dumps({**orjson.loads(ROWS[number % 10]), "id": number}) for number in range(LINES)]
    body = b"\n".join(rows)
    with door(made) as opened:
        for part, there in ((0.5, 1_000), (0.9, 2_000)):  # lines are written by the thousand
            with begun(opened, "/v1/events", "application/x-ndjson", len(body)) as caller:
                caller.sendall(body[: int(len(body) * part)])
                wait_for(lambda: made.read("events"), there)
        taken = opened.events(*rows, query="?answer=summary", Idempotency_Key="k")
        assert taken.status == 202 and taken.json == {"taken": LINES, "refused": 0}
        assert counted(made.read("events")) == dict.fromkeys(range(LINES), 1)
        places = opened.events(*rows[:1_500], Idempotency_Key="k").json["accepted"]
        others = opened.events(*rows[:10], Idempotency_Key="another").json["accepted"]
    by_place = {(one.partition, one.offset): orjson.loads(one.value)["id"] for one in made.read("events")}
    assert [by_place[place["partition"], place["offset"]] for place in places] == list(range(1_500))
    assert (others == places[:10]) == (changes == DEDUPE)
    if changes == DEDUPE:  # a door that knows nothing of it writes it again, and it is decided once
        with door(made) as second, car_loan.worker(made):
            assert second.events(*rows, query="?answer=summary", Idempotency_Key="k").json["taken"] == LINES
            car_loan.wait_for_results(made, len(made.read("events")))
        assert counted(made.read("decisions"), "key") == {str(number): 1 for number in range(LINES)}


def leave(opened: Door, event: bytes, deadline: str) -> None:
    """Ask for a decision, and go once the event is taken."""
    with begun(opened, f"/v1/decide?deadline={deadline}", "application/json", len(event)) as caller:
        caller.sendall(event)
        wait_until_taken(opened)


def wait_until_taken(opened: Door) -> None:
    """Wait until an event is taken, which takes no time to find out: its caller's deadline does not wait."""
    wait_for(lambda: re.findall(rb"^streamproc_door_events_total\S* 1", opened.call("GET", "/metrics").body, re.M))


def begun(opened: Door, path: str, kind: str, length: int) -> socket.socket:
    """A connection on which a request has begun, with the key ``k``."""
    connection = socket.create_connection(("127.0.0.1", opened.port), timeout=60)
    head = f"POST {path} HTTP/1.1\r\nHost: door\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n"
    connection.sendall(f"{head}Idempotency-Key: k\r\n\r\n".encode())
    return connection


def counted(records: Sequence[Any], name: str = "id") -> dict[Any, int]:
    """How often each event is there."""
    return dict(Counter(orjson.loads(record.value)[name] for record in records))
