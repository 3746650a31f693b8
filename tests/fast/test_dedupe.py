"""Duplicates: a plain loop certifies the stage, whatever the batches, aborts and restarts; what remembering costs."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.core.decide import TABLES, DecideProcessor
from streamproc.core.decide.drift import ACCEPTED, watched_columns
from streamproc.core.dedupe.chunk import Chunk, dumps, loads
from streamproc.core.dedupe.clock import AHEAD, NEVER, advance
from streamproc.core.dedupe.memory import META, TABLE, Memory
from streamproc.core.drift.budget import Budget
from streamproc.core.plan import DEAD_LETTERS, DriftPlan, Plan
from streamproc.core.processor import NOTHING_SEEN, Batch, Effects, Records, process_lanes, run
from streamproc.core.sensitive import Masker
from streamproc.core.state import Overlay, Tables
from tests.fast.plans import TOPIC, decisions, letters, make_plan
from tests.record_schemas import record_problems

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
SPAN = 1_000
"""In milliseconds: so long an id counts here."""
REACH = SPAN + AHEAD
"""So long ids are remembered by the lane's clock."""


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


def plainly(events: list[Sent], most: int = 10**9) -> dict[int, int]:
    """The offset of each duplicate, with that of the event that it repeats."""
    clock, remembered, repeats = None, list[tuple[Sent, int]](), dict[int, int]()
    for one in events:
        if one.broken:
            continue
        latest = NOW_MS + AHEAD
        time = min(one.stamp, latest if clock is None else max(clock, latest))
        clock = time if clock is None else max(clock, min(time, clock + AHEAD))
        if one.name is None:
            continue
        since = max(time - SPAN, clock - REACH)
        before = [own for own, when in remembered[-most:] if own.name == one.name and when >= since]
        if before:
            repeats[one.offset] = before[-1].offset
        elif time >= clock - REACH:
            remembered.append((one, time))
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
    jumps = [0, 1, 40, SPAN + 1, AHEAD // 3, 2 * AHEAD, 20 * AHEAD]
    steps = np.cumsum(chance.choice(jumps, count, p=[0.57, 0.3, 0.09, 0.01, 0.02, 0.007, 0.003]))
    events, offset = [], 0
    for step in steps.tolist():
        offset += int(chance.choice([1, 1, 1, 70_000]))
        odd, late = chance.random(), int(chance.choice([0, 0, 0, 0, SPAN // 2, 2 * SPAN, -AHEAD, REACH + 1]))
        stamp = start + step - late
        if odd < 0.01:
            stamp = NOW_MS + 10**10
        name = None if 0.01 < odd < 0.05 else f"n{chance.integers(40)}"
        events.append(Sent(name, stamp, offset, broken=0.05 < odd < 0.1))
    return events


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 400),
    most=st.sampled_from([1, 7, 200, 1_000]),
    ids=st.sampled_from([3, 20, 10**9]),
)
def test_the_stage_finds_what_a_plain_loop_finds(seed: int, count: int, most: int, ids: int) -> None:
    chance = np.random.default_rng(seed)
    events = [streams(seed, count), streams(seed + 1, count)]
    lanes, at = Lanes(plan_of(max_ids=ids), 2), [0, 0]
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
        repeats = plainly(events[lane], ids)
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
        lanes.commit([batch_of([Sent(f"n{at}", NOW_MS - 10**8 + turn * REACH // 2, at) for at in offsets], 0)])
    assert 300 <= kept_in(lanes.tables[0]) <= 300 + 2 * 228  # a chunk goes when all of it is old
    assert len(lanes.first[0]) == 5_000


def test_of_a_lane_whose_time_stands_still_the_oldest_ids_leave_and_are_counted() -> None:
    lanes, left = Lanes(plan_of(max_ids=1_000), 1), 0
    for first in range(0, 5_000, 100):
        batch = batch_of([Sent(f"n{at}", NOW_MS, at) for at in range(first, first + 100)], 0)
        left += lanes.compute([batch])[0].counts.get(("ids_left", TOPIC), 0)
        lanes.commit([batch])
    assert 1_000 <= kept_in(lanes.tables[0]) == 5_000 - left <= 1_000 + 228
    again = [Sent(f"n{4_000 - 1}", NOW_MS, 5_000), Sent("n4999", NOW_MS, 5_001)]
    lanes.commit([batch_of(again, 0)])
    assert lanes.named[0] == {5_001: lanes.first[0][4_999]}


def kept_in(tables: Tables) -> int:
    return sum(len(loads(value)) for key, value in tables.items(TABLE) if key[:1] == b"c")


@pytest.mark.parametrize("ahead", [AHEAD, 100 * AHEAD])
@pytest.mark.parametrize("at", [0, 200 * AHEAD], ids=["now", "long ago"])
def test_one_event_that_is_ahead_makes_no_other_forgotten(ahead: int, at: int) -> None:
    lanes, now = Lanes(plan_of(), 1), NOW_MS - at
    early = [Sent("a", now, 0), Sent("odd", now + ahead, 1), Sent("b", now + 1, 2)]
    late = [Sent("a", now + SPAN, 3), Sent("b", now + SPAN + 1, 4), Sent("b", now + SPAN + 2, 5)]
    for one in (*early, *late):
        lanes.commit([batch_of([one], 0)])
    assert lanes.named[0] == {3: lanes.first[0][0], 4: lanes.first[0][2]}
    assert set(lanes.first[0]) == {0, 1, 2, 5}  # the last one comes later than `dedupe`, to the millisecond


def test_dead_letters_do_not_move_the_clock() -> None:
    lanes, long_ago = Lanes(plan_of(), 1), NOW_MS - 100 * AHEAD
    broken = [Sent("x", long_ago + turn * AHEAD, turn, broken=True) for turn in range(1, 50)]
    lanes.commit([batch_of([Sent("a", long_ago, 0), *broken, Sent("a", long_ago + 1, 50)], 0)])
    assert lanes.named[0] == {50: lanes.first[0][0]}


@given(st.lists(st.integers(0, 5 * AHEAD), max_size=40), st.sampled_from([NEVER, 0, AHEAD, 3 * AHEAD]), st.integers())
def test_the_clock_does_not_depend_on_batches(times: list[int], clock: int, cut: int) -> None:
    stamps, cut = np.array(times, np.int64), cut % (len(times) + 1)
    whole = advance(stamps, clock).tolist()
    first = advance(stamps[:cut], clock).tolist()
    assert [*first, *advance(stamps[cut:], first[-1] if first else clock).tolist()] == whole
    for time, now in zip(times, whole, strict=True):
        clock = time if clock == NEVER else max(clock, min(time, clock + AHEAD))
        assert now == clock


def seen_at(memory: Memory, tables: Tables, digests: list[bytes], first: int) -> dict[int, tuple[int, int]]:
    """What a batch of ids repeats, one after another from an offset on."""
    times = np.full(len(digests), NOW_MS)
    offsets = np.arange(first, first + len(digests))
    memory.begin(tables, first)
    repeats = memory.take(Chunk(b"".join(digests), offsets, times, times), times)
    tables.apply({TABLE: memory.end(NOW_MS, first + len(digests))})
    return repeats


def test_ids_that_share_64_bits_do_not_hide_one_another() -> None:
    memory, tables = Memory(SPAN, 10**9), Tables([TABLE])
    alike = [b"8 equals" + bytes([0, 0, 0, number]) for number in range(4)]
    assert seen_at(memory, tables, alike[:2], 0) == {}
    assert seen_at(memory, tables, [alike[2], alike[0], alike[1]], 2) == {1: (0, NOW_MS), 2: (1, NOW_MS)}
    assert seen_at(memory, tables, [alike[3], *alike], 5) == {
        number + 1: (at, NOW_MS) for number, at in enumerate([0, 1, 2, 5])
    }


def test_a_lane_that_leaves_takes_what_is_remembered_with_it() -> None:
    plan = plan_of()
    processor, tables = DecideProcessor.of(plan), Tables(TABLES)
    batch = batch_of([Sent(f"n{number}", NOW_MS, number) for number in range(100)], 0)
    for state in (tables, Overlay(tables, [{}])):
        run(process_lanes(processor, [batch], [state], NOTHING_SEEN, NOW), None)
    [memory] = [weakref.ref(own) for own in gc.get_objects() if type(own) is Memory and own.meta.count == 100]
    lane = weakref.ref(tables)
    del tables, state
    gc.collect()
    assert lane() is None and memory() is None


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


BRIEFLY = 12_000_000
"""Bytes that merging takes for a moment, whatever is remembered."""


def remember(memory: Memory, tables: Tables, rows: range, batch: int, rate: float) -> None:
    """Different ids, so many a second."""
    chance = np.random.default_rng(rows.start)
    for first in rows[::batch]:
        offsets = np.arange(first, first + batch)
        times = NOW_MS + (offsets * 1000 / rate).astype(np.int64)
        memory.begin(tables, first)
        memory.take(Chunk(chance.bytes(12 * batch), offsets, times, times), times)
        tables.apply({TABLE: memory.end(int(times[-1]), first + batch)})


@pytest.fixture
def traced() -> Iterator[Callable[[], tuple[int, int]]]:
    """Gives the bytes in use, and the most of them since it was asked before."""

    def sizes() -> tuple[int, int]:
        now, most = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        return now - before, most - before

    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    try:
        yield sizes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("batch", [100, 1_000])
def test_a_remembered_id_takes_at_most_40_bytes(batch: int, traced: Callable[[], tuple[int, int]]) -> None:
    """All in: the lane's table, and what the memory holds beside it. Two hours, of which one is for what is ahead, and
    then another two."""
    rows = 200_000
    memory, tables, most = Memory(AHEAD, 10**9), Tables([TABLE]), 0.0
    for first in range(0, 2 * rows, batch):
        remember(memory, tables, range(first, first + batch), batch, rows * 1000 / (2 * AHEAD))
        if first >= rows // 2:
            most = max(most, traced()[0] / min(first + batch, rows))
    assert most <= 40


def test_it_takes_no_more_while_it_merges_what_it_has_and_while_a_lane_opens(
    traced: Callable[[], tuple[int, int]],
) -> None:
    rows = 2_200_000
    memory, tables = Memory(AHEAD, 10**9), Tables([TABLE])
    for first in range(0, rows, 220_000):
        remember(memory, tables, range(first, first + 220_000), 4_000, 10**6)
        assert traced()[1] <= 40 * (first + 220_000) + BRIEFLY
    del memory
    opened = Memory(AHEAD, 10**9)
    opened.begin(tables, rows)
    assert traced()[1] <= 40 * rows + BRIEFLY
    assert len(opened.take(Chunk(_some_digests(tables), *[np.full(100, NOW_MS)] * 3), np.full(100, NOW_MS))) == 100


def _some_digests(tables: Tables) -> bytes:
    return b"".join(loads(value).digests[:12] for key, value in list(tables.items(TABLE))[:101] if key != META)[:1_200]
