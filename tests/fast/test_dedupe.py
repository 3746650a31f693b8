"""Duplicates: a plain loop certifies the stage, whatever the batches, aborts and restarts; what remembering costs."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.core.decide import TABLES, DecideProcessor
from streamproc.core.decide.dedupe import SKEW
from streamproc.core.decide.drift import ACCEPTED, watched_columns
from streamproc.core.dedupe.chunk import Chunk, dumps, loads
from streamproc.core.dedupe.memory import TABLE, Memory
from streamproc.core.drift.budget import Budget
from streamproc.core.plan import DEAD_LETTERS, DriftPlan, Plan
from streamproc.core.processor import NOTHING_SEEN, Batch, Effects, Records, process_lanes, run
from streamproc.core.sensitive import Masker
from streamproc.core.state import Tables
from tests.fast.plans import TOPIC, decisions, letters, make_plan
from tests.record_schemas import record_problems

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
SPAN = 1_000
"""In milliseconds: so long ids are remembered here."""


def plan_of(field: str = "name", **more: Any) -> Plan:
    return make_plan(id=field, dedupe=timedelta(milliseconds=SPAN), **more)


@dataclass(frozen=True)
class Sent:
    """An event as it was sent: ``name`` is its id, and one that is broken is refused by the contract."""

    name: str | None
    stamp: int
    offset: int
    broken: bool = False

    @property
    def value(self) -> bytes:
        return b"{" if self.broken else orjson.dumps({"id": 1, "name": self.name})


def batch_of(events: list[Sent], partition: int) -> Batch:
    columns = [None] * len(events), [one.value for one in events], [()] * len(events)
    offsets = np.array([one.offset for one in events], np.int64)
    stamps = np.array([one.stamp for one in events], np.int64)
    return Batch(partition, {TOPIC: Records(TOPIC, partition, *columns, offsets, stamps)})


def plainly(events: list[Sent]) -> dict[int, int]:
    """The offset of each duplicate, with that of the event that it repeats."""
    clock, accepted, repeats = -(10**18), list[tuple[Sent, int]](), dict[int, int]()
    for one in events:
        time = min(one.stamp, max(clock, NOW_MS + SKEW // timedelta(milliseconds=1)))
        clock = max(clock, time)
        if one.broken or one.name is None:
            continue
        first = [own for own, when in accepted if own.name == one.name and when >= clock - SPAN]
        if first:
            repeats[one.offset] = first[0].offset
        else:
            accepted.append((one, time))
    return repeats


class Lanes:
    """A worker's lanes: what becomes final of each batch is kept."""

    def __init__(self, plan: Plan, count: int) -> None:
        self.plan, self.processor = plan, DecideProcessor.of(plan)
        self.tables = [Tables(TABLES) for _ in range(count)]
        self.first = [dict[int, str]() for _ in range(count)]
        self.named = [dict[int, str]() for _ in range(count)]

    def compute(self, batches: list[Batch]) -> list[Effects]:
        states = [self.tables[batch.partition] for batch in batches]
        return run(process_lanes(self.processor, batches, states, NOTHING_SEEN, NOW), None)

    def commit(self, batches: list[Batch]) -> None:
        for batch, effects in zip(batches, self.compute(batches), strict=True):
            self.tables[batch.partition].apply(effects.state)
            self.first[batch.partition] |= {one["source"]["offset"]: one["id"] for one in decisions(effects)}
            for letter in letters(effects):
                if letter["sp-reason"] == "duplicate":
                    self.named[batch.partition][int(letter["sp-offset"])] = letter["sp-first"]


def streams(seed: int, count: int) -> list[Sent]:
    """Events of few ids, some late, some far ahead, some broken, some without an id."""
    chance = np.random.default_rng(seed)
    start = NOW_MS - int(chance.choice([0, 10 * SPAN, 10**9]))
    steps = np.cumsum(chance.choice([0, 1, 40, SPAN + 1], count, p=[0.6, 0.3, 0.09, 0.01]))
    events, offset = [], 0
    for step in steps.tolist():
        offset += int(chance.choice([1, 1, 1, 70_000]))
        odd, late = chance.random(), int(chance.choice([0, 0, 0, SPAN // 2, 2 * SPAN]))
        stamp = start + step - late
        if odd < 0.01:
            stamp = NOW_MS + 10**10
        name = None if 0.01 < odd < 0.05 else f"n{chance.integers(40)}"
        events.append(Sent(name, stamp, offset, broken=0.05 < odd < 0.1))
    return events


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 400), most=st.sampled_from([1, 7, 200, 1_000]))
def test_the_stage_finds_what_a_plain_loop_finds(seed: int, count: int, most: int) -> None:
    chance = np.random.default_rng(seed)
    events = [streams(seed, count), streams(seed + 1, count)]
    lanes, at = Lanes(plan_of(), 2), [0, 0]
    while any(at[lane] < count for lane in (0, 1)):
        batches = []
        for lane in (0, 1):
            end = at[lane] + int(chance.integers(1, most + 1))
            if at[lane] < count and chance.random() < 0.8:
                batches.append(batch_of(events[lane][at[lane] : end], lane))
                at[lane] = end
        if not batches:
            continue
        if chance.random() < 0.2:
            lanes.compute(batches)  # it is aborted, and run again
        if chance.random() < 0.1:
            lanes.processor = DecideProcessor.of(lanes.plan)  # another worker has the lanes
        lanes.commit(batches)
    for lane in (0, 1):
        repeats = plainly(events[lane])
        assert lanes.named[lane] == {own: lanes.first[lane][first] for own, first in repeats.items()}
        sound = {one.offset for one in events[lane] if not one.broken}
        assert set(lanes.first[lane]) == sound - set(repeats)


def test_large_batches_make_chunks_and_the_first_of_thousands_is_named() -> None:
    lanes, count = Lanes(plan_of(), 1), 10_000
    for first in (0, count, 2 * count):
        lanes.commit([batch_of([Sent(f"n{number}", NOW_MS, first + number) for number in range(count)], 0)])
    assert len(lanes.first[0]) == count
    assert lanes.named[0] == {row + more: lanes.first[0][row] for row in range(count) for more in (count, 2 * count)}


def test_ids_of_chunks_that_are_old_leave_the_state() -> None:
    lanes = Lanes(plan_of(), 1)
    for turn in range(50):
        offsets = range(100 * turn, 100 * turn + 100)
        lanes.commit([batch_of([Sent(f"n{at}", NOW_MS - 10**7 + turn * 500, at) for at in offsets], 0)])
    kept = sum(len(loads(value)) for key, value in lanes.tables[0].items(TABLE) if key[:1] == b"c")
    assert 300 <= kept <= 300 + 2 * 228  # a chunk goes when all of it is old
    assert len(lanes.first[0]) == 5_000


def test_after_a_reset_an_event_is_no_duplicate_of_itself() -> None:
    lanes = Lanes(plan_of(), 1)
    events = [Sent(f"n{number % 300}", NOW_MS + number, number) for number in range(900)]
    for first in range(0, 900, 90):
        lanes.commit([batch_of(events[first : first + 90], 0)])
    before = dict(lanes.named[0])
    lanes.commit([batch_of(events[200:], 0)])
    assert lanes.named[0] == before
    lanes.commit([batch_of(events, 0)])
    assert lanes.named[0] == before
    assert set(lanes.first[0]) == set(range(300))


def test_a_worker_whose_clock_is_slow_remembers_too() -> None:
    lanes = Lanes(plan_of(), 1)
    for offset, slow in enumerate([timedelta(), timedelta(days=1), timedelta(days=1), timedelta()]):
        [effects] = run(
            lanes.processor.process_lanes(
                [batch_of([Sent(f"n{offset // 2}", NOW_MS + offset, offset)], 0)],
                lanes.tables,
                NOTHING_SEEN,
                NOW - slow,
            ),
            None,
        )
        lanes.tables[0].apply(effects.state)
        assert len(letters(effects)) == offset % 2


def test_the_dead_letter_says_what_it_is_and_drift_does_not_count_it_as_broken() -> None:
    budget = Budget(1, 1_000_000, None)
    plan = replace(plan_of("id"), drift=DriftPlan((DEAD_LETTERS,), budget))
    events = [Sent(None, NOW_MS, 0), Sent(None, NOW_MS, 1), Sent(None, NOW_MS, 2, broken=True)]
    processor, tables = DecideProcessor.of(plan), Tables(TABLES)
    [effects] = run(processor.process_lanes([batch_of(events, 0)], [tables], NOTHING_SEEN, NOW), None)
    [output] = [output for output in effects.records if output.topic == plan.topics.dead_letters]
    for value, headers in zip(output.values, output.headers, strict=True):
        assert not list(record_problems(value, headers))
    letter = letters(effects)[0]
    assert (letter["sp-stage"], letter["sp-reason"], letter["sp-path"]) == ("dedupe", "duplicate", "$.id")
    assert letter["sp-first"] == decisions(effects)[0]["id"]
    assert effects.counts["dead_letters", "duplicate"] == 1
    frame, _ = run(processor.judge([batch_of(events, 0)], NOTHING_SEEN, NOW, [tables]), None)
    letters_watched = watched_columns(plan, frame).record_columns[DEAD_LETTERS].to_list()
    assert letters_watched == [ACCEPTED, ACCEPTED, "not_json"]


def test_sensitive_ids_are_digested_with_the_key() -> None:
    kept = []
    for key in (b"k" * 16, b"l" * 16, b"k" * 16):
        plan = plan_of("id", sensitive=frozenset({"id"}))
        tables, batch = Tables(TABLES), batch_of([Sent(None, NOW_MS, 0)], 0)
        [effects] = run(DecideProcessor.of(plan, Masker(key)).process_lanes([batch], [tables], NOTHING_SEEN, NOW), None)
        kept.append(effects.state[TABLE])
    assert kept[0] == kept[2] != kept[1]


@given(st.lists(st.tuples(st.binary(min_size=12, max_size=12), *[st.integers(0, 2**62)] * 2), min_size=1, max_size=9))
def test_chunks_are_read_back(rows: list[tuple[bytes, int, int]]) -> None:
    offsets = np.sort(np.array([offset for _, offset, _ in rows], np.int64))
    times = np.array([time for _, _, time in rows], np.int64)
    for stamps in (times, times + np.arange(len(rows)) * 10**9):
        chunk = Chunk(b"".join(digest for digest, _, _ in rows), offsets, times, stamps)
        again = loads(dumps(chunk))
        assert again.digests == chunk.digests
        for name in ("offsets", "times", "stamps"):
            assert getattr(again, name).tolist() == getattr(chunk, name).tolist()


@pytest.mark.parametrize("batch", [100, 1_000])
def test_a_remembered_id_takes_at_most_40_bytes(batch: int) -> None:
    """All in: the lane's table, and what the memory holds beside it. An hour of 300 events/s, and then another."""
    chance, rows, rate = np.random.default_rng(7), 200_000, 300
    span = rows * 1000 // rate
    tracemalloc.start()
    try:
        memory, tables, most = Memory(), Tables([TABLE]), 0.0
        before = tracemalloc.get_traced_memory()[0]
        for first in range(0, 2 * rows, batch):
            offsets = np.arange(first, first + batch)
            times = NOW_MS + offsets * 1000 // rate
            memory.begin(tables, first)
            memory.take(Chunk(chance.bytes(12 * batch), offsets, times, times), times, span)
            tables.apply({TABLE: memory.end(int(times[-1]), first + batch, int(times[-1]) - span)})
            if first >= rows // 2:
                kept = min(first + batch, rows)
                most = max(most, (tracemalloc.get_traced_memory()[0] - before) / kept)
    finally:
        tracemalloc.stop()
    assert most <= 40
