"""Kafka = batch: for the same events, coordinates, Seen and answers the same bytes come out."""

from __future__ import annotations

import asyncio
import math
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import yaml

from streamproc.core.decide import TABLES
from streamproc.core.processor import NOTHING_SEEN, Batch, Records, Seen
from streamproc.demo import free_ports
from streamproc.offline import Offline
from streamproc.pipeline import Pipeline, open_pipeline
from tests.fast.plans import flat
from tests.kafka import car_loan
from tests.kafka.records import read_all


def nothing_said(pipeline: Pipeline) -> Seen:
    """What a worker sees where nobody has said anything on the control topic."""
    return Seen({}, {f"{pipeline.plan.topics.control}-0": 0})


def offline(pipeline: Pipeline, records: list[Any], rows: int, seen: Seen = NOTHING_SEEN) -> dict[str, dict[Any, Any]]:
    """What an offline run makes of records with their coordinates, a few at a time."""
    topic = pipeline.plan.events.topic
    found: dict[str, dict[Any, Any]] = defaultdict(dict)
    run = Offline(pipeline.processor, pipeline.answers.now, tables=TABLES, seen=seen)
    by_partition: dict[int, list[Any]] = defaultdict(list)
    for record in records:
        by_partition[record.partition].append(record)
    for partition, own in by_partition.items():
        for first in range(0, len(own), rows):
            for name, sent in flat(run.process(batch(topic, partition, own[first : first + rows]))).items():
                found[name] |= {source(value, headers): (key, value, headers) for key, value, headers in sent}
    return found


def batch(topic: str, partition: int, records: list[Any]) -> Batch:
    columns = Records(
        topic, partition,
        [record.key for record in records], [record.value for record in records],
        [record.headers for record in records],
        np.array([record.offset for record in records], np.int64),
        np.array([record.timestamp for record in records], np.int64),
    )  # fmt: skip
    return Batch(partition, {topic: columns})


def source(value: bytes | None, headers: Any) -> tuple[str, int, int]:
    """The coordinates of the event that a record comes from."""
    named = dict(headers)
    if "sp-offset" in named:
        return "letter", int(named["sp-partition"]), int(named["sp-offset"])
    content = orjson.loads(value or b"")
    where = content.get("source") or content["decision"]["source"]
    return "decided", where["partition"], where["offset"]


@pytest.mark.timeout(180)
def test_what_a_worker_wrote_is_what_a_batch_run_makes_of_the_same_events(connection: Any) -> None:
    made = car_loan.make(connection, partitions=3)
    rows = car_loan.events(2_000)
    car_loan.produce(connection, made.topic("events"), rows)
    car_loan.run_worker_until(made, len(rows))
    pipeline = open_pipeline(made.file)
    events = asyncio.run(read_all(connection, pipeline.plan.events.topic))
    assert len(events) == len(rows)
    for size in (1, 700):
        expected = offline(pipeline, events if size > 1 else events[:300], size, nothing_said(pipeline))
        assert set(expected) == set(pipeline.plan.written)
        for topic, records in expected.items():
            written = asyncio.run(read_all(connection, topic))
            found = {source(r.value, r.headers): (r.key, r.value, tuple(r.headers)) for r in written}
            assert len(found) == len(written), f"something is twice on {topic}"
            if size > 1:
                assert found == records
            else:
                assert {place: found[place] for place in records} == records


RANDOM = """
pipeline: {name}
events: {{topic: {name}.events, schema: event.schema.json, key: id}}
features:
{features}
rules:
{rules}
actions: {{approve: {name}.approvals}}
"""


def quoted(text: str) -> str:
    """As YAML on one line: unlike in JSON, control characters beyond ASCII must be escaped there."""
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf).strip()


@pytest.mark.timeout(240)
def test_random_expressions_mean_the_same_through_kafka(connection: Any, tmp_path: Path) -> None:
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    from streamproc.core.contract import Contract
    from streamproc.kafka import admin
    from tests.fast.expression_strategies import expressions
    from tests.fast.plans import SCHEMA
    from tests.fast.test_decide_properties import EVENTS, dump

    columns = Contract(SCHEMA).columns
    texts = st.tuples(st.lists(expressions(columns), min_size=2, max_size=3), expressions(columns, "boolean"))

    some = st.one_of(EVENTS.map(dump), EVENTS.map(dump), st.binary(max_size=6), st.none())

    @settings(max_examples=3, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(text=texts, values=st.lists(some, min_size=60, max_size=60))
    def check(text: tuple[list[str], str], values: list[bytes | None]) -> None:
        features, rule = text
        made = car_loan.make(connection)
        folder, name = made.file.parent, made.name
        (folder / "event.schema.json").write_bytes(orjson.dumps(SCHEMA))
        lines = "\n".join(f"  f{number}: {quoted(one)}" for number, one in enumerate(features))
        condition = quoted(f"id >= 0 AND ({rule})")
        rules = f"  - {{id: a, when: {condition}, decide: review}}\n  - {{id: b, decide: approve}}"
        made.file.write_text(RANDOM.format(name=name, features=lines, rules=rules))
        rows = [(b"%d" % number, value) for number, value in enumerate(values)]
        car_loan.produce(connection, f"{name}.events", rows)
        car_loan.run_worker_until(made, len(rows))
        pipeline = open_pipeline(made.file)
        sent = asyncio.run(read_all(connection, f"{name}.events"))
        expected = offline(pipeline, sent, 50, nothing_said(pipeline))
        for topic, records in expected.items():
            written = asyncio.run(read_all(connection, topic))
            assert {source(r.value, r.headers): (r.key, r.value, tuple(r.headers)) for r in written} == records
        asyncio.run(admin.delete_topics(connection, [*pipeline.plan.written, f"{name}.events"]))

    check()


@pytest.mark.timeout(180)
def test_large_events_are_taken_a_few_at_a_time(connection: Any) -> None:
    """Batches are bounded in bytes: of events of 900 kB only a few are taken at once, however many there are."""
    made = car_loan.make(connection)
    row = orjson.loads(car_loan.events(1, damaged=False)[0][1] or b"{}")
    rows = [(b"%d" % n, orjson.dumps({**row, "id": n, "note": "x" * 900_000})) for n in range(60)]
    car_loan.produce(connection, made.topic("events"), rows)
    port = free_ports(1)
    with car_loan.worker(made, "--web-port", str(port)):
        car_loan.wait_for_results(made, len(rows))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
            text = response.read().decode()
    sizes = {line.split("le=")[1].split('"')[1]: float(line.rsplit(" ", 1)[1])
             for line in text.splitlines() if line.startswith("streamproc_batch_events_bucket")}  # fmt: skip
    assert sizes["10.0"] == sizes["+Inf"] >= len(rows) / 10
    assert len(made.read("decisions")) == len(rows)
