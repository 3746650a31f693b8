"""The checks themselves: each finds what it is there for, and finds nothing in a sound run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import orjson
import pytest

from examples.counter.counter import TABLE
from streamproc.core.decide import DecideProcessor
from streamproc.core.processor import NOTHING_SEEN, run
from streamproc.core.records import FIRST, SIGNED, TYPED, lane_of
from streamproc.core.review.desk import TABLES
from streamproc.core.review.processor import MARGIN, ReviewProcessor
from streamproc.core.state import Tables, changelog_key
from streamproc.pipeline import Pipeline, open_pipeline
from streamproc.sample import example
from tests.fast.plans import NOW, flat
from tests.fast.review_lane import said
from tests.kafka import car_loan
from tests.kafka.test_equivalence import batch, offline, source
from tests.torture import checks
from tests.torture.checks import CHECKS, Found, Replayed

TOTALS = "car-loan.totals"
SENT_AT = 1_800_000_000_000
"""The timestamp of records, in milliseconds; those of the review agent's batches have one each."""


@dataclass(frozen=True)
class Record:
    """What the checks read of a record of Kafka."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp: int = SENT_AT


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    pipeline = open_pipeline(example("car_loan") / "pipeline.yaml")
    events = replace(pipeline.plan.events, id="id", dedupe=timedelta(days=1))
    plan = replace(pipeline.plan, events=events)
    loaded = replace(pipeline.loaded, plan=replace(plan, drift=None))
    return replace(pipeline, loaded=loaded, processor=DecideProcessor.of(plan))


@pytest.fixture
def found(pipeline: Pipeline) -> Found:
    """A run in which everything went well."""
    sent = car_loan.events(200)
    sent += sent[20:40]  # again
    events = [Record(number % 2, number // 2, key, value) for number, (key, value) in enumerate(sent)]
    outputs: dict[str, list[Record]] = {}
    for topic, records in offline(pipeline, events, 50).items():
        ordered = sorted(records.values(), key=lambda one: source(one[1], one[2])[1:])
        outputs[topic] = [Record(0, offset, *one) for offset, one in enumerate(ordered)]
    for topic, records in reviewed(pipeline, outputs[pipeline.plan.topics.cases]).items():
        own = outputs.setdefault(topic, [])
        own += [Record(0, len(own) + place, *one) for place, one in enumerate(records)]
    counts: dict[bytes | None, int] = defaultdict(int)
    totals, changelog = [], []
    for offset, record in enumerate(outputs[pipeline.plan.topics.decisions]):
        counts[record.key] += 1
        result = {"count": counts[record.key], "partition": 0, "offset": offset}
        totals.append(Record(0, offset, record.key, orjson.dumps(result)))
        changelog.append(Record(0, offset, changelog_key(TABLE, record.key or b""), b"%d" % counts[record.key]))
    return Found(pipeline, events, outputs | {TOTALS: totals}, changelog, TOTALS, codes=[0, 0, -15])


def reviewed(pipeline: Pipeline, cases: list[Record]) -> dict[str, list[tuple[Any, ...]]]:
    """What the review agent makes of cases, of which half are answered in time."""
    plan, found = pipeline.plan, dict[str, list[tuple[Any, ...]]]()
    assert plan.review is not None
    answers = [said(orjson.loads(record.value or b"")["id"], decision="approve") for record in cases[::2]]
    verdicts = [Record(0, 0, b"", value, (*TYPED["verdict"], (SIGNED, b"0"))) for value in answers]
    for lane in range(2):
        processor, tables = ReviewProcessor(plan.pipeline, plan.review, plan.actions, 2), Tables(TABLES)
        for sent_at, records in enumerate((cases, verdicts, None), SENT_AT):
            own = [one for one in records or () if lane_of(orjson.loads(one.value or b"")["id"]) == lane]
            own = [replace(one, timestamp=int(NOW.timestamp() * 1000)) for one in own]
            whole = batch(plan.topics.cases, lane, own)
            step = processor.process(whole, tables, NOTHING_SEEN, NOW)
            effects = run(step if own else processor.tick(tables, NOTHING_SEEN, NOW + plan.review.ttl + MARGIN), None)
            tables.apply(effects.state)
            for topic, sent in flat(effects).items():
                found.setdefault(topic, []).extend((*one, sent_at) for one in sent)
    return found


def problems(found: Found) -> dict[str, list[str]]:
    return {check.__name__: told for check in CHECKS if (told := list(check(found)))}


def test_a_sound_run_has_no_problems(found: Found) -> None:
    assert problems(found) == {}


def lost(records: list[Any]) -> None:
    del records[7]


def test_a_case_that_ran_out_in_the_batch_that_opened_it_need_not_be_shown(found: Found) -> None:
    topics = found.pipeline.plan.topics
    steps = [orjson.loads(record.value or b"") for record in found.outputs[topics.review_events]]
    over = next(step["item"] for step in steps if step["step"] == "expired")
    shown = found.outputs[topics.review]
    shown[:] = [record for record in shown if orjson.loads(record.value or b"")["id"] != over]
    assert "reviewed" in problems(found)
    events = found.outputs[topics.review_events]
    events[:] = [replace(record, timestamp=SENT_AT) if step["item"] == over else record
                 for record, step in zip(events, steps, strict=True)]  # fmt: skip
    assert problems(found) == {}


def doubled(records: list[Any]) -> None:
    records.append(replace(records[7], offset=len(records)))


def swapped(records: list[Any]) -> None:
    first, second = records[3], records[5]
    records[3], records[5] = replace(second, offset=first.offset), replace(first, offset=second.offset)


def misnamed(records: list[Any]) -> None:
    """A duplicate names another decision."""
    [number, *_] = [number for number, record in enumerate(records) if FIRST in dict(record.headers)]
    headers = tuple((name, b"0-" + b"0" * 24 if name == FIRST else value) for name, value in records[number].headers)
    records[number] = replace(records[number], headers=headers)


def decided_twice(records: list[Any]) -> None:
    """A decision of an event that repeats an id, under an id of its own."""
    value = next(value for record in records if (value := orjson.loads(record.value))["source"]["offset"] == 12)
    again = orjson.dumps(value | {"id": "0-" + "0" * 24, "source": value["source"] | {"offset": 12 + 90}})
    records.append(replace(records[0], offset=len(records), value=again))


def changed(records: list[Any]) -> None:
    records[7] = replace(records[7], value=records[7].value.replace(b'"pipeline"', b'"pipelinE"'))


@pytest.mark.parametrize(
    ("damage", "role", "finders"),
    [
        (lost, "decisions", {"once", "same", "state"}),
        (doubled, "decisions", {"once", "ids", "same", "order", "state"}),
        (swapped, "decisions", {"order"}),
        (changed, "decisions", {"schemas", "same"}),
        (lost, "approvals", {"same"}),
        (doubled, "approvals", {"same", "order"}),
        (lost, "dead-letter", {"once", "same"}),
        (doubled, "dead-letter", {"once", "same", "order"}),
        (misnamed, "dead-letter", {"same", "twice"}),
        (decided_twice, "decisions", {"once", "same", "twice"}),
        (lost, "cases", {"same"}),
        (lost, "escalations", {"reviewed"}),
        (doubled, "escalations", {"reviewed"}),
        (lost, "review", {"reviewed"}),
        (lost, "review-events", {"reviewed"}),
        (doubled, "review-events", {"reviewed"}),
        (lost, "totals", {"state"}),
        (doubled, "totals", {"state"}),
    ],
)
def test_damage_is_found(found: Found, damage: Callable[[list[Any]], None], role: str, finders: set[str]) -> None:
    records = found.outputs[f"car-loan.{role}"]
    assert isinstance(records, list)
    damage(records)
    told = problems(found)
    assert finders <= set(told), told


def test_a_wrong_state_is_found(found: Found) -> None:
    found.changelog = [replace(record, value=b"99") if record.offset == 7 else record for record in found.changelog]
    assert list(problems(found)) == ["state"]


def test_exit_codes_and_faults_that_were_none_are_told(found: Found) -> None:
    told = problems(replace(found, codes=[0, 4], missed=["nothing died"]))
    assert told == {"ends": ["1 exit codes at the end: 4"], "came_about": ["nothing died"]}


def test_answers_come_again_as_they_were(pipeline: Pipeline) -> None:
    """A decision without a score, for a reason of the run alone, is decided the same way again."""
    events = [Record(0, number, key, value) for number, (key, value) in enumerate(car_loan.events(10, damaged=False))]
    decisions = pipeline.plan.topics.decisions
    normal = [orjson.loads(value) for _, value, _ in offline(pipeline, events, 10)[decisions].values()]
    reasons = {normal[2]["id"]: "timeout", normal[5]["id"]: "model_error"}
    again = replace(pipeline, answers=Replayed(pipeline.answers, reasons))
    found = [orjson.loads(value) for _, value, _ in offline(again, events, 10)[decisions].values()]
    assert checks.unscored(found) == reasons
    assert [one for one in found if one["id"] not in reasons] == [one for one in normal if one["id"] not in reasons]
