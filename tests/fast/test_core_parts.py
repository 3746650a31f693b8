"""The small parts that everything rests on: partitions, lane state, claims, records on their way."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from aiokafka import TopicPartition
from aiokafka.codec import snappy_decode
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.errors import InvalidTxnState, ProducerFenced, TopicAuthorizationFailedError
from aiokafka.partitioner import murmur2 as reference
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.default_records import _DefaultRecordBatchPy as ReferenceBatch
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from streamproc.core.partitioner import murmur2, partitions
from streamproc.core.processor import Effects, Headers, Output, Records, run, together
from streamproc.core.records import TRUNCATED_BYTES, headers_for
from streamproc.core.repartition import RepartitionProcessor
from streamproc.core.state import Overlay, Tables, changelog_key, split_changelog_key
from streamproc.errors import FencedOffsets
from streamproc.kafka.admin import DEFAULT_LIMIT
from streamproc.kafka.agent import Agent
from streamproc.kafka.batches import HEADER, record_batches
from streamproc.kafka.fetching import columns, next_batch
from streamproc.kafka.group import Claim
from streamproc.kafka.held import Held
from streamproc.kafka.lane import FEW_RECORDS, Entries, Lane, Share, to_batch
from streamproc.kafka.outgoing import Router
from streamproc.kafka.sending import raise_unless_retriable
from streamproc.kafka.vitals import Ahead

PLACE = TopicPartition("t", 3)
KEYS = st.lists(st.binary(max_size=40), max_size=30)


@given(KEYS)
def test_keys_hash_as_kafka_hashes_them(keys: list[bytes]) -> None:
    assert [int(one) for one in murmur2(keys)] == [reference(key) & 0xFFFFFFFF for key in keys]


@given(st.lists(st.none() | st.binary(max_size=12), max_size=30), st.integers(1, 50), st.integers(0, 99))
def test_keys_go_where_javas_default_partitioner_sends_them(keys: list[bytes | None], count: int, own: int) -> None:
    expected = [own % count if key is None else (reference(key) & 0x7FFFFFFF) % count for key in keys]
    assert partitions(keys, count, own).tolist() == expected


CHANGES = st.dictionaries(
    st.sampled_from(["a", "b"]),
    st.dictionaries(st.sampled_from([b"1", b"2", b"3"]), st.none() | st.binary(max_size=2)),
)


@given(st.lists(CHANGES, max_size=4), st.integers(0, 4))
def test_a_view_is_the_tables_after_everything_before_it(
    changes: list[dict[str, dict[bytes, bytes | None]]], cut: int
) -> None:
    plain: dict[tuple[str, bytes], bytes | None] = {}
    tables = Tables(["a", "b"])
    for number, change in enumerate(changes):
        if number < cut:
            tables.apply(change)
        for table, entries in change.items():
            plain |= {(table, key): value for key, value in entries.items()}
    view, keys = Overlay(tables, changes[cut:]), [b"1", b"2", b"3"]
    for change in [*changes[cut:], None]:
        for table in ("a", "b"):
            there = {key: value for (its, key), value in plain.items() if its == table and value is not None}
            for state in (view,) if change is not None else (view, tables):
                assert state.get_many(table, keys) == [there.get(key) for key in keys]
                assert state.count(table) == len(there)
                assert sorted(state.items(table)) == sorted(there.items())
        if change is not None:  # what the view shows of it stays the same
            tables.apply(change)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5), st.binary(max_size=8))
def test_changelog_keys_are_read_back(table: str, key: bytes) -> None:
    assert split_changelog_key(changelog_key(table, key)) == (table, key)


def test_a_table_that_was_not_declared_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        Tables(["a"]).get_many("b", [b"1"])


def test_claims_are_read_back_and_others_metadata_is_none() -> None:
    claim = Claim("app-1", 7, "topic", 4, 9)
    assert Claim.decode(claim.encode()) == claim
    assert [Claim.decode(text) for text in (None, "", "x", "[]", "[2, 1]", '{"a": 1}', "7")] == [None] * 7


def some_records(offsets: list[int], partition: int = 3) -> Records:
    return Records(
        topic="t",
        partition=partition,
        keys=[b"k%d" % offset for offset in offsets],
        values=[b"v"] * len(offsets),
        headers=[()] * len(offsets),
        offsets=np.array(offsets, np.int64),
        timestamps=np.array(offsets, np.int64) * 10,
    )


def test_records_before_the_position_are_left_out() -> None:
    tp = TopicPartition("t", 3)
    records = some_records([4, 5, 9])
    batch, after = to_batch(3, {tp: records}, {tp: 5})
    assert batch.topics["t"].offsets.tolist() == [5, 9]
    assert batch.topics["t"].keys == [b"k5", b"k9"]
    assert after == {tp: 10}
    empty, same = to_batch(3, {tp: records}, {tp: 10})
    assert (len(empty), same) == (0, {tp: 10})


def make_router(counts: dict[str, int]) -> Router:
    router = Router(None, "dead")  # type: ignore[arg-type]
    router._counts, router._limits = counts, dict.fromkeys(counts, DEFAULT_LIMIT)
    return router


@given(st.lists(st.tuples(st.none() | st.binary(max_size=3), st.binary(max_size=3)), max_size=40), st.integers(1, 5))
def test_records_keep_their_order_in_each_partition(rows: list[tuple[bytes | None, bytes]], count: int) -> None:
    output = Output("t", [key for key, _ in rows], [value for _, value in rows], [()] * len(rows))
    placed = make_router({"t": count, "dead": 1}).place([(7, Effects(records=[output]))])
    expected: dict[tuple[str, int], list[object]] = {}
    for (key, value), place in zip(rows, partitions([key for key, _ in rows], count, 7).tolist(), strict=True):
        expected.setdefault(("t", place), []).append((key, value, ()))
    assert placed is not None
    assert {target: list(entries) for target, entries in placed.items()} == expected


def test_records_go_where_their_output_says_and_others_of_the_topic_by_key() -> None:
    placed = make_router({"t": 3, "dead": 1}).place(
        [
            (0, Effects(records=[Output("t", [b"k", None, b"k"], [b"1", b"2", b"3"], [()] * 3, np.array([4, 0, 2]))])),
            (2, Effects(records=[Output("t", [None, b"k"], [b"4", b"5"], [()] * 2)])),
        ]
    )
    by_key = int(partitions([b"k"], 3, 0)[0])
    expected: dict[tuple[str, int], list[bytes]] = {("t", 1): [b"1"], ("t", 0): [b"2"], ("t", 2): [b"3", b"4"]}
    expected["t", by_key].append(b"5")
    assert placed is not None
    assert {target: [value for _, value, _ in entries] for target, entries in placed.items()} == expected


def test_a_part_of_an_output_keeps_its_places() -> None:
    part = Output("t", [b"a", b"b", b"c"], [b"1", b"2", b"3"], [()] * 3, np.array([5, 6, 7])).part(1, 3)
    assert part.places is not None and part.places.tolist() == [6, 7]
    with pytest.raises(ValueError, match="differ in length"):
        Output("t", [b"a"], [b"1"], [()], np.array([1, 2]))


def test_a_record_that_its_topic_cannot_hold_is_a_dead_letter_with_its_hash() -> None:
    body = bytes(random.Random(1).randbytes(DEFAULT_LIMIT + 1))
    output = Output("t", [b"a", b"b"], [body, b"small"], [(("traceparent", b"x"),), ()])
    placed = make_router({"t": 1, "dead": 2}).place([(3, Effects(records=[output]))])
    assert placed is not None
    assert list(placed["t", 0]) == [(b"b", b"small", ())]
    [(key, value, headers)] = placed["dead", 1]
    named = dict(headers)
    assert (key, value) == (b"a", body[:TRUNCATED_BYTES])
    assert (named["sp-reason"], named["sp-target"], named["traceparent"]) == (b"record_too_large", b"t", b"x")
    assert int(named["sp-size"]) == len(body)


def test_an_unknown_topic_is_asked_about_first() -> None:
    output = Output("new", [b"a"], [b"b"], [()])
    assert make_router({"dead": 1}).place([(0, Effects(records=[output]))]) is None


def test_columns_of_different_lengths_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        Output("t", [b"a"], [], [])


def test_a_processor_is_run_to_its_end_with_answers() -> None:
    def steps():  # type: ignore[no-untyped-def]
        first = yield [1, 2]
        second = yield [first[0] + first[1]]
        return Effects(counts={("x", "y"): second[0]})

    assert run(steps(), lambda ask: ask * 10).counts == {("x", "y"): 300}


def test_generators_side_by_side_ask_together_and_keep_their_order() -> None:
    def adding(*rounds: int):  # type: ignore[no-untyped-def]
        total = 0
        for count in rounds:
            answers = yield list(range(count))
            assert answers == [ask * 10 for ask in range(count)]
            total += sum(answers)
        return total

    rounds = [(2, 3), (), (1,), (4, 0, 2)]
    asked: list[int] = []

    def answer(ask: int) -> int:
        asked.append(ask)
        return ask * 10

    assert run(together([adding(*one) for one in rounds]), answer) == [40, 0, 0, 70]
    assert asked == [0, 1, 0, 0, 1, 2, 3, 0, 1, 2, 0, 1]


@given(st.lists(st.tuples(st.none() | st.binary(max_size=3), st.none() | st.binary(max_size=400)), min_size=1))
def test_sealed_batches_are_read_back_by_another_reader(rows: list[tuple[bytes | None, bytes | None]]) -> None:
    headers: list[Headers] = [(("name", b"%d" % (row % 3)),) for row in range(len(rows))]
    entries = Entries([key for key, _ in rows], [value for _, value in rows], headers)
    found, other = [], Entries([b"k"], [b"v"], [()])
    made = record_batches({("a", 0): other, ("t", 1): entries, ("t", 2): other}, 1234, {"t": 1000})
    assert list(made) == [("a", 0), ("t", 1), ("t", 2)]
    for batch in made["t", 1]:
        batch.seal(77, 3, 500)
        read = ReferenceBatch(bytearray(batch.data))
        assert read.validate_crc()
        assert (read.producer_id, read.producer_epoch, read.base_sequence) == (77, 3, 500)
        assert read.is_transactional
        records = list(read)
        assert [record.offset for record in records] == list(range(batch.records))
        found += [(record.key, record.value, tuple(record.headers), record.timestamp) for record in records]
    assert found == [(*row, one, 1234) for row, one in zip(rows, headers, strict=True)]


RECORDS = st.tuples(st.none() | st.binary(max_size=80), st.none() | st.integers(0, 20_000), st.none() | st.binary())


@given(st.lists(RECORDS, min_size=1, max_size=40))
def test_batches_are_those_of_aiokafka(rows: list[tuple[bytes | None, int | None, bytes | None]]) -> None:
    entries = Entries()
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=1,
        producer_id=77,
        producer_epoch=3,
        base_sequence=5,
        batch_size=10**9,
    )
    for number, (key, size, header) in enumerate(rows):
        value = None if size is None else bytes(size)
        headers: Headers = (("name", header), ("ü", b"x")) if number % 3 else ()
        entries.add(key, value, headers)
        assert builder.append(number, 1234, key, value, list(headers)) is not None
    [batch] = record_batches({("t", 0): entries}, 1234, {})["t", 0]
    batch.seal(77, 3, 5)
    expected = bytes(builder.build())
    if ReferenceBatch(bytearray(batch.data)).compression_type:
        assert snappy_decode(bytes(batch.data[HEADER.size :])) == expected[HEADER.size :]
    else:
        assert batch.data == expected


def test_a_header_may_have_a_null_value() -> None:
    headers = headers_for("decision", (("traceparent", None), ("other", None)))
    output = Output("t", [b"k"], [b"v"], [headers])
    placed = make_router({"t": 1, "dead": 1}).place([(0, Effects(records=[output]))])
    assert placed is not None
    [batch] = record_batches(placed, 5, {})["t", 0]
    batch.seal(1, 1, 0)
    [record] = ReferenceBatch(bytearray(batch.data))
    assert ("traceparent", None) in record.headers


@pytest.mark.parametrize(
    ("codes", "raised"),
    [
        ({3, 55}, None),
        ({51}, None),
        ({90}, ProducerFenced),
        ({22}, FencedOffsets),
        ({29}, TopicAuthorizationFailedError),
        ({48}, InvalidTxnState),
    ],
)
def test_what_is_tried_again(codes: set[int], raised: type[Exception] | None) -> None:
    if raised is None:
        raise_unless_retriable(codes)
        return
    with pytest.raises(raised):
        raise_unless_retriable(codes)


def fetched(header: bytes, position: int) -> PartitionRecords:
    """Ten records as a broker sends them, each with a header of that name, fetched from a position on."""
    plain = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 1 << 16)
    for number in range(10):
        plain.append(number, 5, b"k%d" % number, b"v", [("x" * len(header), b"x")])
    data = bytes(plain.build()).replace(b"x" * len(header), header)
    return PartitionRecords(PLACE, MemoryRecords(data), [], position, None, None, False, READ_COMMITTED)


def test_records_are_taken_by_column() -> None:
    source = fetched(b"traceparent", 4)
    records = columns(PLACE, next_batch(source))
    assert records.offsets.tolist() == list(range(4, 10))
    assert (records.keys[0], records.headers[0]) == (b"k4", (("traceparent", b"x"),))
    assert source.next_fetch_offset == 10


def test_the_name_of_a_header_is_utf_8() -> None:
    with pytest.raises(UnicodeDecodeError):
        next_batch(fetched(b"\xff----------", 4))


def test_a_lane_that_becomes_free_ends_a_fetch_without_it() -> None:
    class Fetching:
        interrupted = 0

        async def seek_all(self, positions: Any) -> None: ...

        async def poll(self) -> None: ...

        def interrupt(self) -> None:
            self.interrupted += 1

        def ahead(self, tp: TopicPartition) -> Ahead:
            return Ahead()

    fetching = Fetching()
    held = Held(fetcher=fetching)
    held.free()
    assert held.freed.is_set() and fetching.interrupted == 1


def test_what_comes_to_a_small_batch_goes_with_it_and_a_large_one_is_not_fetched_for() -> None:
    lane = Lane(Agent("some", ("t",), RepartitionProcessor("id", "to")), 3, {PLACE: 0}, {}, Tables(()))
    assert lane.wants and lane.free
    lane.fetching = True
    assert not lane.wants
    lane.park(PLACE, some_records([0, 1]))
    lane.park(PLACE, some_records([5, 6, 7]))
    assert lane.wants and not lane.free
    assert lane.parked is not None
    whole = lane.parked[PLACE]
    assert whole.offsets.tolist() == [0, 1, 5, 6, 7] and whole.timestamps.tolist() == [0, 10, 50, 60, 70]
    assert whole.keys == [b"k0", b"k1", b"k5", b"k6", b"k7"] and len(whole.values) == len(whole.headers) == 5
    lane.park(PLACE, some_records([*range(8, 8 + FEW_RECORDS)]))
    assert not lane.wants
    lane.parked = None
    lane.waiting = Share.of(lane, None)
    assert not lane.wants
