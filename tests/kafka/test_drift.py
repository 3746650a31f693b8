"""Drift through a real Kafka: alarms are those of an undisturbed run, and decisions follow them."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import orjson

from streamproc.backtest import run_backtest
from streamproc.baselines import baseline_path, watching
from streamproc.core.records import TYPE
from streamproc.kafka.connection import Connection
from streamproc.pipeline import open_pipeline
from tests.kafka.car_loan import Example, command, loans, make, produce, worker
from tests.kafka.processes import Workers
from tests.kafka.records import read_until
from tests.record_schemas import record_problems
from tests.torture.checks import replayed

DRIFT = """
drift:
  reference: reference.parquet
  false_alarms: 1 per 1000000 events
  segments: [salary_range]

rules:
  - {id: doubtful-in-drift, when: drift_score = 'drifting' AND confidence < 0.8, decide: review, reason: D01}
"""
SHIFT = 6_000
"""Of the events that are sent, those from here on are after the shift in the data."""
EVENTS = 14_000
SECONDS = 90.0


def make_watched(connection: Connection, partitions: int) -> Example:
    made = make(connection, partitions, [("\nrules:\n", DRIFT)])
    loans().head(40_000).write_parquet(made.file.parent / "reference.parquet")
    return made


def sent() -> list[tuple[bytes, bytes | None]]:
    rows = loans().slice(75_000 - SHIFT, EVENTS).to_dicts()
    return [(str(row["id"]).encode(), orjson.dumps(row)) for row in rows]


def read(made: Example, role: str, enough: int) -> list[Any]:
    records = asyncio.run(read_until(made.connection, made.topic(role), lambda found: len(found) >= enough, SECONDS))
    assert len(records) >= enough
    return records


def test_alarms_survive_kills_and_are_those_of_an_undisturbed_run(connection: Connection, tmp_path: Path) -> None:
    made = make_watched(connection, partitions=2)
    pipeline = open_pipeline(made.file)
    _, baseline = watching(pipeline)
    assert baseline is not None
    baseline_path(made.file).write_bytes(baseline.dumps())
    events, chance = sent(), random.Random(11)
    command = ["-m", "streamproc", "run", str(made.file), "--kafka", connection.address, "--session-timeout", "6"]
    with Workers(command, 2, tmp_path / "workers.log", {}) as workers:
        for part in range(0, EVENTS, 2_000):
            produce(connection, made.topic("events"), events[part : part + 2_000])
            read(made, "decisions", part + 500)
            workers.kill(chance.randrange(2))
        read(made, "decisions", EVENTS)
        panes = made.read("panes")  # committed with the decisions, so they are all there
        expected = replayed(*watching(pipeline), panes)
        changes = read(made, "drift", len(expected))
    assert [(record.key, record.value) for record in changes] == expected
    alarms = [orjson.loads(record.value) for record in changes]
    assert len({alarm["id"] for alarm in alarms}) == len(alarms)
    assert {alarm["column"] for alarm in alarms if alarm["state"] == "drifting"} >= {
        "car_value",
        "loan_length",
        "score",
    }
    for record in changes:
        assert record_problems(record.value, record.headers) == []
    first = next(alarm for alarm in alarms if alarm["state"] == "drifting")
    assert first["onset"]["offset"] > SHIFT / 2 - 500  # each of two partitions has half of the events


def test_decisions_follow_drift(connection: Connection) -> None:
    made = make_watched(connection, partitions=1)
    events, decisions = sent(), list[dict[str, Any]]()
    deadline = time.monotonic() + SECONDS
    with worker(made):
        produce(connection, made.topic("events"), events)
        while not decisions or decisions[-1]["features"]["drift_score"] != "drifting":
            assert time.monotonic() < deadline
            produce(connection, made.topic("events"), events[-200:])
            decisions = [orjson.loads(record.value) for record in read(made, "decisions", len(decisions) + 200)]
    for record in made.read("drift-state"):
        assert record_problems(record.value, record.headers) == []
    before, after = decisions[:SHIFT], [one for one in decisions if one["features"]["drift_score"] == "drifting"]
    topic = f"{made.topic('drift-state')}-0"
    assert all(one["seen"][topic] > 0 for one in after)
    assert not any(one["rule"] == "doubtful-in-drift" for one in before)
    assert any(one["rule"] == "doubtful-in-drift" for one in after)


CAPPED = """
drift: {reference: reference.parquet, false_alarms: 1 per 1000000 events, watch: [score], max_extra_review: 10%}

rules:
  - {id: all-in-drift, when: drift_score = 'drifting', decide: review, reason: D02}
"""
"""A rule that would send the whole book to people."""


def test_what_drift_changes_is_capped_and_told_once_though_workers_are_killed(
    connection: Connection, tmp_path: Path
) -> None:
    made = make(connection, 2, [("\nrules:\n", CAPPED)])
    loans().head(40_000).write_parquet(made.file.parent / "reference.parquet")
    _, baseline = watching(open_pipeline(made.file))
    assert baseline is not None
    baseline_path(made.file).write_bytes(baseline.dumps())
    rows, chance, count = sent()[SHIFT - 1_000 :], random.Random(5), 0
    run = ["-m", "streamproc", "run", str(made.file), "--kafka", connection.address, "--session-timeout", "6"]
    with Workers(run, 2, tmp_path / "workers.log", {}) as workers:
        deadline, decisions = time.monotonic() + SECONDS, list[dict[str, Any]]()
        while not any(one["without_drift"] for one in decisions):
            assert time.monotonic() < deadline
            produce(connection, made.topic("events"), rows[count : (count := count + 500)])
            decisions = [orjson.loads(record.value) for record in read(made, "decisions", count)]
        for _ in range(4):
            produce(connection, made.topic("events"), rows[count : (count := count + 1_000)])
            read(made, "decisions", count - 700)
            workers.kill(chance.randrange(2))
        decisions = [orjson.loads(record.value) for record in read(made, "decisions", count)]
    lanes = defaultdict[int, list[dict[str, Any]]](list)
    for one in sorted(decisions, key=lambda one: one["source"]["offset"]):
        lanes[one["source"]["partition"]].append(one)
    told = [record for record in made.read("drift") if dict(record.headers)[TYPE] == b"drift-escalation"]
    escalations = {record.key: orjson.loads(record.value) for record in told}
    assert len(decisions) == count
    assert len(told) == len(escalations) == len(lanes) == 2
    for record in [*made.read("drift"), *made.read("decisions")]:
        assert record_problems(record.value, record.headers) == []
    for lane, own in lanes.items():
        first = counted_by_hand(own)
        assert {key: escalations[b"%d" % lane][key] for key in first} == first
        extra = sum(one["without_drift"] is not None for one in own)
        assert 200 < extra <= (1_000 + len(own)) / 10
    assert "of score" in command(made, "drift", "explain", str(made.file)).output  # and trips over no escalation


def counted_by_hand(decisions: list[dict[str, Any]]) -> dict[str, Any]:
    """Hold what drift changed in a lane against a plain count; what the one escalation must say."""
    held, at, since, changed, escalations = Fraction(100), 0, 0, 0, list[dict[str, Any]]()
    for one in decisions:
        if one["without_drift"] is None and one["drift_capped"] is None:
            continue
        offset = one["source"]["offset"]
        held, at = min(Fraction(100), held + Fraction(offset - at, 10)), offset
        if held == 100:
            since, changed = offset, 0
        assert (held >= 1) == (one["without_drift"] is not None) == (one["rule"] == "all-in-drift")
        if held >= 1:
            held, changed = held - 1, changed + 1
        elif not escalations:
            escalations.append({"id": one["id"], "offset": offset, "since": since, "changed": changed, "capped": 1})
    [only] = escalations
    return only


def test_a_backtest_alarms_as_the_worker_does(connection: Connection, tmp_path: Path) -> None:
    made = make_watched(connection, partitions=1)
    pipeline, baseline = watching(open_pipeline(made.file))
    assert baseline is not None
    source = tmp_path / "events.ndjson"
    events = sent()
    source.write_bytes(b"\n".join(value or b"" for _, value in events))
    offline = asyncio.run(run_backtest(pipeline, baseline, str(source)))
    assert offline.alarms
    with worker(made):
        produce(connection, made.topic("events"), events)
        read(made, "decisions", EVENTS)
        changes = [orjson.loads(record.value) for record in read(made, "drift", len(offline.changes))]
    # what is decided moves with drift where the worker sees it, and a backtest does not
    own = {"decision", "would_be"}
    told = [(one["monitor"], one["state"], one["window"]) for one in changes if one["column"] not in own]
    assert told == [
        (one["monitor"], one["state"], one["window"]) for one in offline.changes if one["column"] not in own
    ]
