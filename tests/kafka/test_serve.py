"""The door for HTTP: events in, decisions out, over real sockets and a real broker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from streamproc.core.partitioner import partitions
from tests.kafka import car_loan
from tests.kafka.car_loan import Example
from tests.kafka.doors import JSON, Door, door
from tests.record_schemas import record_problems

DEDUPE = [("  key: id\n", "  key: id\n  id: id\n  dedupe: 24h\n")]
ROWS = car_loan.events(400, damaged=False)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def served(connection: Any) -> Iterator[tuple[Example, Door]]:
    """The example with dedupe, its worker and a door."""
    made = car_loan.make(connection, partitions=3, changes=DEDUPE)
    with car_loan.worker(made), door(made) as opened:
        assert opened.decide(ROWS[0][1] or b"").status == 200  # all is warm
        yield made, opened


def decisions(made: Example) -> list[Any]:
    return [orjson.loads(record.value) for record in made.read("decisions")]


def test_an_event_comes_in_and_its_decision_goes_out(served: tuple[Example, Door]) -> None:
    made, opened = served
    key, value = ROWS[1]
    answer = opened.decide(value or b"", traceparent=TRACE)
    assert answer.status == 200
    assert answer.json["decision"] in ("approve", "decline", "review")
    assert answer.json["key"] == key.decode() == answer.headers["Streamproc-Event"]
    [record] = [one for one in made.read("decisions") if one.key == key]
    assert record.value == answer.body
    assert dict(record.headers)["traceparent"] == TRACE.encode()
    again = opened.call("GET", f"/v1/decisions/{answer.json['id']}")
    assert (again.status, again.body) == (200, answer.body)
    by_event = opened.call("GET", f"/v1/decisions?event={key.decode()}")
    assert (by_event.status, by_event.body) == (200, answer.body)


def test_an_event_stands_where_javas_clients_put_it(served: tuple[Example, Door]) -> None:
    made, opened = served
    answer = opened.events(*(value or b"" for _, value in ROWS[2:62]))
    assert answer.status == 202 and answer.json["taken"] == 60
    of_door = {one["id"]: one for one in answer.json["accepted"]}
    records = {record.key.decode(): record for record in made.read("events")}
    assert len(of_door) == 60
    for key, place in of_door.items():
        record = records[key]
        assert record.partition == partitions([key.encode()], 3, 0)[0]
        where = (place["partition"], place["offset"], place["timestamp"])
        assert where == (record.partition, record.offset, record.timestamp)


def test_bad_lines_are_told_and_good_ones_go_on(served: tuple[Example, Door]) -> None:
    _, opened = served
    good = [value or b"" for _, value in ROWS[62:66]]
    worse = orjson.dumps({**orjson.loads(good[0]), "id": 1_000_001, "car_value": -1})
    answer = opened.events(good[0], b"{", good[1], b"", worse, good[2], b"[]", good[3])
    assert answer.status == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    told = answer.json
    assert (told["status"], told["taken"], told["refused"]) == (422, 4, 3)
    assert [(one["line"], one["path"], one["reason"]) for one in told["errors"]] == [
        (2, "$", "not_json"),
        (5, "$.car_value", "contract_exclusiveMinimum"),
        (7, "$", "contract_type"),
    ]
    assert [one["line"] for one in told["accepted"]] == [1, 3, 6, 8]
    for one in told["accepted"]:
        found = opened.decide(good[[1, 3, 6, 8].index(one["line"])])
        assert found.status == 200 and found.json["id"] == one["decision_id"]


def test_a_repeated_event_is_answered_as_the_first_was(served: tuple[Example, Door]) -> None:
    made, opened = served
    key, value = ROWS[70]
    answers = [opened.decide(value or b"") for _ in range(3)]
    assert {answer.body for answer in answers} == {answers[0].body}
    assert [answer.headers.get("Idempotent-Replayed") for answer in answers] == [None, "true", "true"]
    places = [opened.events(value or b"").json["accepted"] for _ in range(2)]
    assert places[0] == places[1]
    assert places[0][0]["decision_id"] == answers[0].json["id"]
    assert sum(record.key == key for record in made.read("events")) == 1


def test_a_door_that_was_just_started_answers_as_the_other_did(served: tuple[Example, Door]) -> None:
    made, opened = served
    value = ROWS[71][1] or b""
    first = opened.decide(value)
    with door(made) as second:
        place = second.call("POST", "/v1/events", value, JSON)  # nothing is written
        source = orjson.loads(first.body)["source"]
        assert [place.json[name] for name in ("partition", "offset")] == [source["partition"], source["offset"]]
        again = second.decide(value)
    assert (again.status, again.body) == (200, first.body)


def test_what_was_decided_long_ago_is_found_by_the_duplicates_dead_letter(connection: Any) -> None:
    forgetful = [*DEDUPE, ("actions:\n", "serve: {look_back: 1ms}\nactions:\n")]
    made = car_loan.make(connection, partitions=2, changes=forgetful)
    value = ROWS[72][1] or b""
    with car_loan.worker(made):
        with door(made) as opened:
            first = opened.decide(value)
        with door(made) as second:
            again = second.decide(value)
    assert first.status == 200
    assert (again.status, again.body) == (200, first.body)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len(decisions(made)) == 1
    [letter] = made.read("dead-letter")
    assert dict(letter.headers)["sp-reason"] == b"duplicate"


def test_an_idempotency_key_is_the_id_of_an_event_without_one(connection: Any) -> None:
    made = car_loan.make(connection, partitions=3)
    value = ROWS[73][1] or b""
    with car_loan.worker(made), door(made) as opened:
        first = opened.decide(value, Idempotency_Key="order-7")
        again = opened.decide(value, Idempotency_Key="order-7")
        other = opened.decide(value, Idempotency_Key="order-8")
        bare = opened.decide(value)
        assert opened.decide(value, Idempotency_Key="x" * 201).status == 400
        found = opened.call("GET", "/v1/decisions?event=order-7")
    assert again.body == first.body == found.body
    assert len({one.json["id"] for one in (first, other, bare)}) == 3
    assert len(decisions(made)) == 3


def test_a_pipeline_that_repartitions_answers_too(connection: Any) -> None:
    by = [("  key: id\n", "  key: id\n  repartition_by: salary_range\n")]
    made = car_loan.make(connection, partitions=2, changes=by)
    with car_loan.worker(made), door(made) as opened:
        answer = opened.decide(ROWS[74][1] or b"")
        taken = opened.call("POST", "/v1/events", ROWS[75][1] or b"", JSON)
        made_of_it = opened.decide(ROWS[75][1] or b"", Idempotency_Key="it")
    assert answer.status == 200 and answer.json["source"]["topic"] == f"{made.name}.repartitioned"
    assert taken.status == 202 and taken.json["decision_id"] is None
    assert made_of_it.status == 200
    assert {record.topic for record in made.read("events")} == {f"{made.name}.events"}


def test_what_the_pipeline_refuses_is_told(connection: Any) -> None:
    made = car_loan.make(connection, partitions=1)
    row = {**orjson.loads(ROWS[76][1] or b""), "timestamp": "yesterday or so"}
    with car_loan.worker(made), door(made) as opened:
        answer, again = (opened.decide(orjson.dumps(row), Idempotency_Key="k") for _ in range(2))
        mended = opened.decide(ROWS[76][1] or b"", Idempotency_Key="k")
    assert (answer.status, again.status, mended.status) == (422, 422, 200)
    assert answer.json["errors"][0]["path"] == again.json["errors"][0]["path"] == "$.timestamp"


def test_a_deadline_that_passes_is_answered_and_put_on_record(connection: Any) -> None:
    safe = [("actions:\n", "serve: {on_deadline: {decide: decline}}\nactions:\n")]
    pending, deciding = (car_loan.make(connection, partitions=1, changes=change) for change in ([], safe))
    value = ROWS[77][1] or b""
    for made in (pending, deciding):
        car_loan.command(made, "topics", str(made.file), "--create")
        with door(made) as opened:  # nobody decides yet
            answer = opened.decide(value, "150ms")
            if made is pending:
                assert answer.status == 202 and answer.json["status"] == "pending"
            else:
                assert answer.status == 200
                assert (answer.json["decision"], answer.json["tier"]) == ("decline", "deadline")
            with car_loan.worker(made):
                car_loan.wait_for_results(made, 1)
                until = opened.call("GET", answer.json["href"])
                assert until.status in (200, 404)
            [decision] = decisions(made)
            assert decision["id"] == answer.json["decision_id"]
            [mark] = made.read("unseen")
        said = orjson.loads(mark.value)
        assert record_problems(mark.value, mark.headers) == []
        assert said["decision_id"] == decision["id"] and said["source"] == decision["source"]
        assert said["said"] == ("pending" if made is pending else "decline")


def test_fields_of_the_decision_may_be_all_that_is_told(connection: Any) -> None:
    few = [("actions:\n", "serve: {answer: [id, decision, reasons]}\nactions:\n")]
    made = car_loan.make(connection, partitions=1, changes=few)
    with car_loan.worker(made), door(made) as opened:
        answer = opened.decide(ROWS[78][1] or b"")
    assert list(answer.json) == ["id", "decision", "reasons"]


def test_many_lines_are_answered_as_they_are_taken(served: tuple[Example, Door]) -> None:
    _, opened = served
    base = orjson.loads(ROWS[80][1] or b"")
    rows = [orjson.dumps({**base, "id": 2_000_000 + number}) for number in range(5_000)]
    rows[4_321] = b"nothing"
    answer = opened.events(*rows)
    told = [orjson.loads(line) for line in answer.body.splitlines()]
    assert answer.status == 202
    assert told[-1] == {"taken": 4_999, "refused": 1}
    assert Counter("error" in one for one in told[:-1]) == {False: 4_999, True: 1}
    assert sorted(one["line"] for one in told[:-1]) == list(range(1, 5_001))
    short = opened.events(*rows, query="?answer=summary")
    assert short.status == 422 and (short.json["taken"], short.json["refused"]) == (4_999, 1)
    assert "accepted" not in short.json and short.json["errors"][0]["line"] == 4_322
