"""Batch = row by row: whatever the events, the expressions and the cuts, the same bytes come out."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import orjson
import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamproc.core.contract import Contract
from streamproc.core.decide import DecideProcessor
from streamproc.core.plan import EVENT_TIME, SCORE, Plan
from streamproc.core.processor import NOTHING_SEEN, Batch, Records, run
from streamproc.core.state import Tables
from streamproc.offline import EPOCH, Offline, batch_of
from tests.fast.expression_strategies import expressions
from tests.fast.plans import SCHEMA, TOPIC, flat, make_plan, mean_score

COLUMNS = {**Contract(SCHEMA).columns, EVENT_TIME: pl.Datetime("us", "UTC")}
DECISIONS = st.sampled_from(["approve", "decline", "review"])

EVENTS = st.fixed_dictionaries(
    {"id": st.integers(0, 2**63 - 1)},
    optional={
        "amount": st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70),
        "count": st.none() | st.integers(-(2**64), 2**64),
        "name": st.none() | st.text(max_size=8),
        "ok": st.none() | st.booleans(),
        "at": st.none() | st.sampled_from(["2024-01-01 00:00:00", "2024-01-01T00:00:00Z", "2024-02-30", "x", ""]),
        "address": st.fixed_dictionaries({}, optional={"city": st.text(max_size=3) | st.integers(0, 9)}),
        "other": st.lists(st.none() | st.integers(-9, 9), max_size=2),
    },
)


def _within(event: dict[str, Any]) -> dict[str, Any]:
    """orjson writes no integers beyond 64 bits; such numbers become doubles, as many producers write them."""
    return {
        name: float(item) if type(item) is int and not -(2**63) <= item < 2**64 else item
        for name, item in event.items()
    }


def dump(event: dict[str, Any]) -> bytes:
    return orjson.dumps(_within(event))


VALUES = st.lists(st.one_of(EVENTS.map(dump), EVENTS.map(dump), st.binary(max_size=6), st.none()), max_size=12)


@st.composite
def plans(draw: Any) -> Plan:
    """A plan of random, well-typed, allowed expressions."""
    features = {f"f{n}": draw(expressions(COLUMNS)) for n in range(draw(st.integers(0, 2)))}
    scored = draw(st.booleans())
    seen = {**COLUMNS, **({SCORE: pl.Float64()} if scored else {})}
    count = draw(st.integers(1, 3))
    rules = [(f"r{n}", draw(expressions(seen, "boolean")), draw(DECISIONS)) for n in range(count)]
    fallback = [("fb", draw(expressions(COLUMNS, "boolean")), draw(DECISIONS))] if draw(st.booleans()) else []
    return make_plan(
        rules,
        features=features,
        inputs=["amount", "count"] if scored else [],
        fallback=fallback,
        observe=["r1"] if draw(st.booleans()) else [],
        key=draw(st.sampled_from([None, "id", "name"])),
        time=draw(st.sampled_from([None, "at"])),
    )


def cut(batch: Batch, first: int, last: int) -> Batch:
    whole = batch.topics[TOPIC]
    part = Records(
        TOPIC, 0, whole.keys[first:last], whole.values[first:last], whole.headers[first:last],
        whole.offsets[first:last], whole.timestamps[first:last],
    )  # fmt: skip
    return Batch(0, {TOPIC: part})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(plan=plans(), values=VALUES, cuts=st.sets(st.integers(1, 11), max_size=3))
def test_a_batch_is_the_concatenation_of_its_parts(plan: Plan, values: list[Any], cuts: set[int]) -> None:
    whole = batch_of(TOPIC, values, first_offset=5, timestamp=1_700_000_000_000)
    process = Offline(DecideProcessor.of(plan), mean_score).process
    expected = flat(process(whole))
    edges = [0, *sorted(edge for edge in cuts if edge < len(values)), len(values)]
    rows = list(range(len(values) + 1))
    for borders in (edges, rows):
        joined: dict[str, list[Any]] = {}
        for first, last in pairwise(borders):
            for topic, records in flat(process(cut(whole, first, last))).items():
                joined.setdefault(topic, []).extend(records)
        assert joined == expected


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(plan=plans(), lanes=st.lists(VALUES.filter(len), min_size=1, max_size=4))
def test_lanes_are_decided_together_as_each_alone(plan: Plan, lanes: list[list[Any]]) -> None:
    processor = DecideProcessor.of(plan)
    batches = [
        batch_of(TOPIC, values, partition=3 * lane, first_offset=lane, timestamp=1_700_000_000_000 + lane)
        for lane, values in enumerate(lanes)
    ]
    states = [Tables([]) for _ in batches]
    together = run(processor.process_lanes(batches, states, NOTHING_SEEN, EPOCH), mean_score)
    alone = [
        run(processor.process(*pair, NOTHING_SEEN, EPOCH), mean_score) for pair in zip(batches, states, strict=True)
    ]
    assert [flat(one) for one in together] == [flat(one) for one in alone]
    assert sum((Counter(one.counts) for one in together), Counter()) == sum(
        (Counter(one.counts) for one in alone), Counter()
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=plans(), values=VALUES)
def test_every_event_is_decided_or_dead_lettered_and_followed_up_once(plan: Plan, values: list[Any]) -> None:
    found = flat(Offline(DecideProcessor.of(plan), mean_score).process(batch_of(TOPIC, values)))
    decided = [orjson.loads(value) for _, value, _ in found.get("t.decisions", [])]
    offsets = [decision["source"]["offset"] for decision in decided]
    offsets += [int(dict(headers)["sp-offset"]) for _, _, headers in found.get("t.dead-letter", [])]
    assert sorted(offsets) == list(range(len(values)))
    followed = [len(found.get(topic, [])) for topic in ("t.approvals", "t.declines", "t.review", "t.abstained")]
    assert sum(followed) == len(decided)
    for decision in decided:
        assert decision["scored"] == (decision["score"] is not None)
