"""What people say to a running pipeline through its control topic, on a real Kafka."""

from __future__ import annotations

import asyncio
import re
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer

from streamproc.core.drift.panes import read as read_panes
from streamproc.demo import free_ports
from streamproc.errors import UserError
from streamproc.kafka.connection import Connection
from streamproc.stream_reference import kept_offsets, newest
from tests.kafka.car_loan import Example, command, loans, make, produce, worker
from tests.kafka.test_drift import make_watched, read
from tests.record_schemas import record_problems

SECONDS = 60.0
OF_THE_STREAM = """
drift:
  reference: {topic: NAME.events, events: 6000}
  false_alarms: 1 per 1000000 events

rules:
"""
SHIFTED = 75_000


def rows(first: int, count: int) -> list[tuple[bytes, bytes | None]]:
    return [(str(row["id"]).encode(), orjson.dumps(row)) for row in loans().slice(first, count).to_dicts()]


def told(made: Example, *arguments: str) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in command(made, "drift", *arguments).stdout.splitlines()]


def eventually(what: Callable[[], Any]) -> Any:
    """The first result that is true."""
    deadline = time.monotonic() + SECONDS
    while not (result := what()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return result


def baselines(made: Example) -> list[str]:
    """The baseline of each panes record, in their order."""
    return [read_panes(record.value).baseline for record in made.read("panes")]


def test_an_incident_is_owned_and_a_new_normal_ends_it(connection: Connection) -> None:
    made, port = make_watched(connection, partitions=2), free_ports(1)
    file = str(made.file)

    def standing(which: str) -> float:
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        found = re.search(rf'streamproc_drift_incidents{{state="{which}"}} (\S+)', page)
        return 0.0 if found is None else float(found[1])

    with worker(made, "--web-port", str(port)):
        produce(connection, made.topic("events"), rows(SHIFTED - 3_000, 8_000))
        read(made, "decisions", 8_000)
        [incident, *_] = eventually(lambda: told(made, "incidents", file, "--json"))
        assert incident["state"] == "open"
        assert incident["owner"] is None
        eventually(lambda: standing("open") >= 1)
        for one in told(made, "incidents", file, "--json"):
            command(made, "drift", "ack", file, one["id"][:8], "--why", "looking", "--owner", "ada", "--by", "bob")
        eventually(lambda: standing("open") == 0 and standing("acknowledged") >= 1)
        command(made, "drift", "ack", file, incident["id"], "--why", "later", "--snooze", "4h")
        [again] = [one for one in told(made, "incidents", file, "--json") if one["id"] == incident["id"]]
        assert (again["state"], again["owner"], again["why"]) == ("snoozed", "ada", "later")
        with pytest.raises(UserError, match="no incident"):
            command(made, "drift", "ack", file, "zzzz", "--why", "x")

        [old] = set(baselines(made))
        result = command(
            made, "drift", "rebase", file, "--why", "prices rose", "--events", "4000", "--keep", file + "l"
        )
        match = re.match(r"baseline (\w{32}) of 4,000 events", result.output)
        assert match is not None
        assert len((made.file.parent / "pipeline.yamll").read_bytes().splitlines()) == 4_000
        assert told(made, "incidents", file, "--json") == []
        before = len(baselines(made))
        produce(connection, made.topic("events"), rows(SHIFTED + 5_000, 10_000))
        decisions = [orjson.loads(record.value) for record in read(made, "decisions", 18_000)]
        after = baselines(made)[before:]
        assert set(after) <= {old, match[1]}
        assert after[-1] == match[1]
        assert standing("acknowledged") == standing("snoozed") == standing("open") == 0
        # what was drift is normal now
        assert decisions[-1]["features"]["drift_score"] == "stable"
        assert decisions[-1]["seen"][f"{made.topic('control')}-0"] > 0
    audit, control = made.read("audit"), made.read("control")
    assert [record.value for record in audit] == [record.value for record in control]  # not compacted so soon
    for record in audit:
        assert record_problems(record.value, record.headers) == []
    said = orjson.loads(audit[-1].value)
    assert (said["kind"], said["why"]) == ("baseline", "prices rose")
    assert sum(place["offset"] for place in said["end"]) - sum(place["offset"] for place in said["start"]) == 4_000

    with worker(made):  # a worker that starts later takes what was said, and goes on
        produce(connection, made.topic("events"), rows(SHIFTED + 15_000, 1_000))
        read(made, "decisions", 19_000)
    assert baselines(made)[-1] == match[1]
    command(made, "drift", "rebase", file, "--why", "that was a mistake", "--undo")
    with worker(made):
        produce(connection, made.topic("events"), rows(SHIFTED + 16_000, 3_000))
        read(made, "decisions", 22_000)
        eventually(lambda: told(made, "incidents", file, "--json"))


def test_the_stream_itself_is_the_reference(connection: Connection) -> None:
    made = make(connection, 2, [("\nrules:\n", OF_THE_STREAM)])
    made.file.write_text(made.file.read_text().replace("NAME", made.name))
    events = made.topic("events")
    produce(connection, events, rows(SHIFTED - 20_000, 4_000))
    with worker(made):
        read(made, "decisions", 4_000)
        assert made.read("panes") == []  # nothing is known yet, and decisions go on
        produce(connection, events, rows(SHIFTED - 16_000, 4_000))
        [record] = read(made, "control", 1)
        produce(connection, events, rows(SHIFTED - 12_000, 3_000))
        produce(connection, events, rows(SHIFTED, 6_000))
        read(made, "decisions", 17_000)
        alarms = [orjson.loads(one.value) for one in read(made, "drift", 3)]
    said = orjson.loads(record.value)
    assert record_problems(record.value, record.headers) == []
    assert (said["by"], said["topic"]) == ("streamproc", events)
    assert {alarm["baseline"] for alarm in alarms} == {said["baseline"]["hash"]}
    assert any(alarm["state"] == "drifting" and alarm["column"] == "car_value" for alarm in alarms)
    assert "not over" in command(made, "drift", "incidents", str(made.file)).output


def test_a_producer_that_stops_is_told_of_and_so_is_that_it_goes_on(connection: Connection) -> None:
    made = make_watched(connection, partitions=2)
    text = made.file.read_text()
    limits = "  volume: {silence: 4s, partitions: {silence: 2s}}\n"
    made.file.write_text(text.replace("  segments: [salary_range]\n", f"  segments: [salary_range]\n{limits}"))
    names = ["volume/silence", "volume/silence [partition = 0]", "volume/silence [partition = 1]"]

    def changes(enough: int) -> list[dict[str, Any]]:
        found = [
            orjson.loads(one.value)
            for one in read(made, "drift", enough)
            if record_problems(one.value, one.headers) == []
        ]
        return [one for one in found if one["column"] == "volume"]

    with worker(made):
        produce(connection, made.topic("events"), rows(0, 500))
        stopped = changes(3)
        assert sorted(one["monitor"] for one in stopped) == names
        assert {one["state"] for one in stopped} == {"drifting"}
        assert all(one["statistic"] > one["threshold"] for one in stopped)
        [incident] = told(made, "incidents", str(made.file), "--json")
        assert sorted(incident["monitors"]) == names
        assert "silence of" in command(made, "drift", "explain", str(made.file)).output
        produce(connection, made.topic("events"), rows(500, 500))
        again = changes(6)[3:]
        assert sorted(one["monitor"] for one in again) == names
        assert {one["state"] for one in again} == {"stable"}


async def _one_by_one(made: Example, events: list[tuple[bytes, bytes | None]]) -> None:
    """Each event in a transaction of its own."""
    producer = AIOKafkaProducer(**made.connection.client_kwargs(), transactional_id=made.name)
    await producer.start()
    try:
        for key, value in events:
            async with producer.transaction():
                await producer.send_and_wait(made.topic("events"), value, key=key)
    finally:
        await producer.stop()


def test_the_newest_events_of_a_topic(connection: Connection) -> None:
    made = make(connection, 3)
    produce(connection, made.topic("events"), rows(0, 3_000))
    assert asyncio.run(kept_offsets(connection, made.topic("events"))) == 3_000
    some = asyncio.run(newest(connection, made.topic("events"), 900))
    assert len(some.records) == 900
    assert all(some.start[record.partition] <= record.offset < some.end[record.partition] for record in some.records)
    stamps = [record.timestamp for record in some.records]
    assert stamps == sorted(stamps)
    transactional = make(connection, 1)
    asyncio.run(_one_by_one(transactional, rows(0, 150)))
    assert asyncio.run(kept_offsets(connection, transactional.topic("events"))) == 300  # marks take offsets too
    assert len(asyncio.run(newest(connection, transactional.topic("events"), 120)).records) == 120
    whole = asyncio.run(newest(connection, made.topic("events"), 50_000))
    assert len(whole.records) == 3_000
    assert {record.offset for record in some.records if record.partition == 1} == set(
        range(some.start[1], whole.end[1])
    )
