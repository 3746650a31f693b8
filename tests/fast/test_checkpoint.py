"""Checkpoints of lanes' state: read back as written, and left aside where anything is not as it should be."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from examples.counter.counter import TABLE, Counter
from streamproc.core.processor import Effects
from streamproc.core.state import LANE_TABLE, Overlay, Tables
from streamproc.kafka import checkpoint
from streamproc.kafka.admin import TopicInfo
from streamproc.kafka.agent import Agent
from streamproc.kafka.checkpoint import Header, Unusable, read, write
from streamproc.kafka.checkpoints import Checkpoints
from streamproc.kafka.lane import Lane, Logged, Share

HEADER = Header("app", "counter", 3, "topic", 100, time.time(), [LANE_TABLE, TABLE])
AGENT = Agent("counter", ("in",), Counter("in", "out"), tables=(TABLE,))
CHANGELOG = TopicPartition("app.counter.changelog", 3)
INFO = TopicInfo(CHANGELOG.topic, "topic", 4, 1, {"delete.retention.ms": "86400000"}, has_leaders=True)
LIMITS = {CHANGELOG: (0, 1_000)}
TABLES = {LANE_TABLE: {b"lane": b"{}"}, TABLE: {b"%d" % number: b"v" * 1_000 for number in range(5_000)}}


def anything(header: Header) -> None:
    return None


ENTRIES = st.dictionaries(
    st.sampled_from(["a", "b", ""]), st.dictionaries(st.binary(max_size=9), st.binary(max_size=9))
)


@given(ENTRIES)
def test_what_is_written_is_read(entries: dict[str, dict[bytes, bytes]]) -> None:
    header = msgspec.structs.replace(HEADER, tables=sorted(entries))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.state"
        assert write(path, header, entries) == path.stat().st_size
        found = read(path, anything)
    assert found is not None
    assert found[0] == header
    assert {name: dict(found[1].items(name)) for name in entries} == entries


def test_it_is_replaced_whole_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    assert read(path, anything) is None
    write(path, HEADER, TABLES)
    write(path, msgspec.structs.replace(HEADER, offset=200), TABLES)
    found = read(path, anything)
    assert found is not None and found[0].offset == 200 and len(found[1]) == 5_001
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(TypeError):
        write(path, HEADER, {TABLE: {b"k": None}})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == [path]
    assert read(path, anything) is not None


@pytest.mark.parametrize("place", [0, 10, 25, 60, 300, 70_000, -40, -1])
def test_damage_is_noticed_wherever_it_is(tmp_path: Path, place: int) -> None:
    path = tmp_path / "a.state"
    write(path, HEADER, TABLES)
    whole = bytearray(path.read_bytes())
    whole[place] ^= 0x41
    path.write_bytes(whole)
    with pytest.raises(Unusable):
        read(path, anything)


def test_what_is_cut_off_or_too_long_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    write(path, HEADER, TABLES)
    whole = path.read_bytes()
    for cut in (*range(200), len(whole) // 2, len(whole) - 17, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(Unusable):
            read(path, anything)
    path.write_bytes(whole + b"x")
    with pytest.raises(Unusable):
        read(path, anything)


def lane_of(state: dict[str, dict[bytes, bytes | None]], offset: int, moment: float) -> Lane:
    lane = Lane(AGENT, 3, {}, {}, Tables((LANE_TABLE, TABLE)))
    lane.tables.apply(state)
    lane.logged = Logged("topic", offset, moment)
    return lane


def kept(checkpoints: Checkpoints, lane: Lane, info: TopicInfo = INFO) -> dict[TopicPartition, int]:
    return asyncio.run(checkpoints.load([lane], {CHANGELOG.topic: info}, LIMITS, lambda: None))


def test_a_lane_starts_from_its_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "deep" / "state", "app", 60.0)
    checkpoints.prepare()
    asyncio.run(checkpoints.leave([lane_of({TABLE: {b"a": b"1"}}, 100, time.time())]))
    fresh = lane_of({}, 0, 0.0)
    assert kept(checkpoints, fresh) == {CHANGELOG: 100}
    assert dict(fresh.tables.items(TABLE)) == {b"a": b"1"}


DAYS = 86_400.0
MISFITS: list[tuple[str, Callable[[Lane], Lane], TopicInfo]] = [
    ("tombstones", lambda lane: moved(lane, time=time.time() - 0.6 * DAYS), INFO),
    ("tombstones", lambda lane: moved(lane, time=time.time() + 60.0), INFO),
    (
        "tombstones",
        lambda lane: moved(lane, time=time.time() - 60.0),
        replace(INFO, configs={"delete.retention.ms": "100000"}),
    ),
    ("made anew", lambda lane: lane, replace(INFO, topic_id="other")),
    ("offset 1001", lambda lane: moved(lane, offset=1_001), INFO),
]


def moved(lane: Lane, **changes: object) -> Lane:
    assert lane.logged is not None
    lane.logged = lane.logged._replace(**changes)  # type: ignore[arg-type]
    return lane


@pytest.mark.parametrize(("why", "change", "info"), MISFITS)
def test_what_does_not_fit_is_left_aside_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, why: str, change: Callable[[Lane], Lane], info: TopicInfo
) -> None:
    checkpoints = Checkpoints(tmp_path, "app", 60.0)
    asyncio.run(checkpoints.leave([change(lane_of({TABLE: {b"a": b"1"}}, 100, time.time()))]))
    fresh = lane_of({}, 0, 0.0)
    with caplog.at_level(logging.WARNING):
        assert kept(checkpoints, fresh, info) == {}
    assert why in caplog.text
    assert not len(fresh.tables)


def test_anothers_file_and_other_tables_are_left_aside(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "app", 60.0)
    path = tmp_path / "app.counter.3.state"
    for changes in ({"partition": 4}, {"agent": "other"}, {"app": "other"}, {"tables": [TABLE]}):
        header = msgspec.structs.replace(HEADER, **changes)
        write(path, header, {TABLE: {b"a": b"1"}})
        assert kept(checkpoints, lane_of({}, 0, 0.0)) == {}
    write(path, HEADER, {TABLE: {b"a": b"1"}})
    assert kept(checkpoints, lane_of({}, 0, 0.0)) == {CHANGELOG: 100}


def test_only_what_was_committed_since_is_written_again(tmp_path: Path) -> None:
    checkpoints, lane = Checkpoints(tmp_path, "app", 60.0), lane_of({TABLE: {b"a": b"1"}}, 100, time.time())
    path = tmp_path / "app.counter.3.state"
    asyncio.run(checkpoints.leave([lane]))
    path.unlink()
    asyncio.run(checkpoints.leave([lane]))
    assert not path.exists()
    lane.committed(
        Share(lane, None, Overlay(lane.tables, []), {}, {}, Effects(state={TABLE: {b"b": b"2"}}), logged=110)
    )
    asyncio.run(checkpoints.leave([lane]))
    fresh = lane_of({}, 0, 0.0)
    assert kept(checkpoints, fresh) == {CHANGELOG: 110}
    assert dict(fresh.tables.items(TABLE)) == {b"a": b"1", b"b": b"2"}


def test_where_the_broker_told_no_offset_the_one_before_stays() -> None:
    lane = lane_of({}, 100, 0.0)
    lane.committed(Share(lane, None, Overlay(lane.tables, []), {}, {}, Effects(state={TABLE: {b"b": b"2"}})))
    assert lane.logged is not None
    assert lane.logged.offset == 100
    assert lane.logged.time > 0


def test_old_files_are_removed_and_nobody_elses(tmp_path: Path) -> None:
    now = time.time()
    old, new = ["app.a.1.state", "app.a.2.state.77"], ["app.a.3.state", "other.a.1.state", "app.txt"]
    for name in (*old, *new):
        (tmp_path / name).touch()
    for name in (*old, "other.a.1.state", "app.txt"):
        os.utime(tmp_path / name, (now - 100, now - 100))
    assert checkpoint.remove_old(tmp_path, "app", now - 50) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(new)


def test_a_full_disk_is_told_and_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(tmp_path / "gone", "app", 60.0)
    with caplog.at_level(logging.WARNING):
        asyncio.run(checkpoints.leave([lane_of({}, 100, time.time())]))
    assert "no checkpoint of lane counter/3" in caplog.text
