"""Checkpoints of lanes' state: read back as written, and left aside where anything is not as it should be."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from examples.counter.counter import TABLE, Counter
from streamproc.core.processor import Effects
from streamproc.core.state import LANE_TABLE, Overlay, Tables
from streamproc.errors import UserError
from streamproc.kafka import checkpoint
from streamproc.kafka import checkpoints as checkpoints_module
from streamproc.kafka.admin import TopicInfo
from streamproc.kafka.agent import Agent
from streamproc.kafka.changelogs import Changelogs
from streamproc.kafka.checkpoint import Header, Unusable, read, write
from streamproc.kafka.checkpoints import Checkpoints
from streamproc.kafka.connection import Connection
from streamproc.kafka.lane import Lane, Share
from streamproc.kafka.logged import Gap, Landed, Logged, Sent

HEADER = Header("app", "counter", 3, "topic", 100, time.time(), [LANE_TABLE, TABLE], 5)
AGENT = Agent("counter", ("in",), Counter("in", "out"), tables=(TABLE,))
CHANGELOG = TopicPartition("app.counter.changelog", 3)
INFO = TopicInfo(CHANGELOG.topic, "topic", 4, 1, {"delete.retention.ms": "86400000"}, has_leaders=True)
LIMITS = {CHANGELOG: (0, 1_000)}
TABLES = {LANE_TABLE: {b"lane": b"{}"}, TABLE: {b"%d" % number: b"v" * 1_000 for number in range(5_000)}}


@dataclass(frozen=True)
class Log(Changelogs):
    """A changelog in which epoch 5 ends somewhere, and that others have written to or not."""

    connection: Connection = Connection(("127.0.0.1:1",))  # noqa: RUF009 - it is frozen
    end: int = 1_000
    alone: bool = True

    async def leader_epochs(self, topics: Sequence[str]) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(topics, (5, 5, 5, 6))

    async def ends(self, epochs: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        return {tp: self.end if epoch == 5 else -1 for tp, epoch in epochs.items()}

    async def silent(self, tp: TopicPartition, gaps: Sequence[Gap]) -> bool:
        return self.alone


LOG = Log()


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
    lane.logged, lane.epoch = Logged("topic", offset, moment, 5), 5
    return lane


def commit(lane: Lane, state: dict[str, dict[bytes, bytes | None]], *landed: Landed) -> None:
    """A transaction whose changes are at those places."""
    sent = Sent(time.time(), lane.epoch)
    lane.committed(Share(lane, None, Overlay(lane.tables, []), {}, {}, Effects(state=state), landed=landed, sent=sent))


def kept(checkpoints: Checkpoints, lane: Lane, info: TopicInfo = INFO) -> dict[TopicPartition, int]:
    return asyncio.run(checkpoints.load([lane], {CHANGELOG.topic: info}, LIMITS, lambda: None))


def test_a_lane_starts_from_its_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "deep" / "state", "app", 60.0, LOG)
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
    checkpoints = Checkpoints(tmp_path, "app", 60.0, LOG)
    asyncio.run(checkpoints.leave([change(lane_of({TABLE: {b"a": b"1"}}, 100, time.time()))]))
    fresh = lane_of({}, 0, 0.0)
    with caplog.at_level(logging.WARNING):
        assert kept(checkpoints, fresh, info) == {}
    assert why in caplog.text
    assert not len(fresh.tables)


def test_anothers_file_and_other_tables_are_left_aside(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "app", 60.0, LOG)
    path = tmp_path / "app.counter.3.state"
    for changes in ({"partition": 4}, {"agent": "other"}, {"app": "other"}, {"tables": [TABLE]}):
        header = msgspec.structs.replace(HEADER, **changes)
        write(path, header, {TABLE: {b"a": b"1"}})
        assert kept(checkpoints, lane_of({}, 0, 0.0)) == {}
    write(path, HEADER, {TABLE: {b"a": b"1"}})
    assert kept(checkpoints, lane_of({}, 0, 0.0)) == {CHANGELOG: 100}


def test_only_what_was_committed_since_is_written_again(tmp_path: Path) -> None:
    checkpoints, lane = Checkpoints(tmp_path, "app", 60.0, LOG), lane_of({TABLE: {b"a": b"1"}}, 100, time.time())
    path = tmp_path / "app.counter.3.state"
    asyncio.run(checkpoints.leave([lane]))
    path.unlink()
    asyncio.run(checkpoints.leave([lane]))
    assert not path.exists()
    commit(lane, {TABLE: {b"b": b"2"}}, Landed(100, 10))
    asyncio.run(checkpoints.leave([lane]))
    fresh = lane_of({}, 0, 0.0)
    assert kept(checkpoints, fresh) == {CHANGELOG: 110}
    assert dict(fresh.tables.items(TABLE)) == {b"a": b"1", b"b": b"2"}


def test_where_the_broker_told_no_offset_the_one_before_stays() -> None:
    lane = lane_of({}, 100, 1.0)
    commit(lane, {TABLE: {b"b": b"2"}})
    assert lane.logged is not None
    assert lane.logged.offset == 100
    assert lane.logged.time == 1.0  # somebody else may have written since
    commit(lane, {TABLE: {b"b": b"3"}}, Landed(102, 1))
    assert lane.logged.gaps == ((100, 102, 1.0),)  # with what is there of the first


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
    folder = tmp_path / "state"
    checkpoints, lane = Checkpoints(folder, "app", 60.0, LOG), lane_of({}, 100, time.time())
    folder.touch()  # nothing can be written under it
    with caplog.at_level(logging.WARNING):
        asyncio.run(checkpoints.leave([lane, lane]))
    assert caplog.text.count("no checkpoint of lane counter/3") == 1
    folder.unlink()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        asyncio.run(checkpoints.leave([lane]))
    assert "it is made again" in caplog.text and "checkpoints are written again" in caplog.text
    assert kept(checkpoints, lane_of({}, 0, 0.0)) == {CHANGELOG: 100}


def test_a_folder_that_is_gone_gets_all_lanes_again(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "state", "app", 60.0, LOG)
    checkpoints.prepare()
    lane, other = lane_of({}, 100, time.time()), replace(lane_of({}, 100, time.time()), partition=4)
    asyncio.run(checkpoints.leave([lane, other]))
    shutil.rmtree(tmp_path / "state")
    commit(lane, {TABLE: {b"a": b"1"}}, Landed(100, 1))
    asyncio.run(checkpoints.leave([lane]))
    asyncio.run(checkpoints.leave([other]))
    assert len(list((tmp_path / "state").iterdir())) == 2


@pytest.mark.parametrize("folder", ["/proc/self", "file"])
def test_a_folder_that_cannot_be_written_to_is_noticed_at_the_start(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot") as caught:
        Checkpoints(tmp_path / folder, "app", 60.0, LOG).prepare()
    assert "can be written to" in caught.value.hint


def test_what_was_refused_is_never_used_later(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "app", 60.0, LOG)
    asyncio.run(checkpoints.leave([lane_of({TABLE: {b"a": b"1"}}, 1_001, time.time())]))
    assert kept(checkpoints, lane_of({}, 0, 0.0)) == {}
    longer = {CHANGELOG: (0, 2_000)}
    later = Checkpoints(tmp_path, "app", 60.0, Log(end=2_000))
    found = asyncio.run(later.load([lane_of({}, 0, 0.0)], {CHANGELOG.topic: INFO}, longer, lambda: None))
    assert found == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("end", "used"), [(100, True), (99, False), (-1, False)])
def test_a_log_that_has_lost_the_end_of_the_epoch_is_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, end: int, used: bool
) -> None:
    checkpoints = Checkpoints(tmp_path, "app", 60.0, Log(end=end))
    asyncio.run(checkpoints.leave([lane_of({TABLE: {b"a": b"1"}}, 100, time.time())]))
    lane = lane_of({}, 0, 0.0)
    with caplog.at_level(logging.WARNING):
        assert kept(checkpoints, lane) == ({CHANGELOG: 100} if used else {})
    assert ("has lost records" in caplog.text) == (not used)
    assert len(lane.tables) == len(list(tmp_path.iterdir())) == used


def test_topics_without_ids_have_no_checkpoints(tmp_path: Path) -> None:
    checkpoints, nameless = Checkpoints(tmp_path, "app", 60.0, LOG), replace(INFO, topic_id="")
    asyncio.run(checkpoints.leave([moved(lane_of({TABLE: {b"a": b"1"}}, 100, time.time()), topic_id="")]))
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "app.counter.3.state", msgspec.structs.replace(HEADER, topic_id=""), {})
    assert kept(checkpoints, lane_of({}, 0, 0.0), nameless) == {}


def test_what_is_written_while_others_may_have_written() -> None:
    lane = lane_of({}, 100, 1.0)
    commit(lane, {}, Landed(100, 5))
    commit(lane, {}, Landed(106, 5), Landed(111, 2))  # after the marker
    commit(lane, {}, Landed(113, 1))  # before it
    commit(lane, {}, Landed(116, 1))  # after both
    assert lane.logged is not None
    assert (lane.logged.offset, lane.logged.gaps) == (117, ())
    before = lane.logged.time
    commit(lane, {}, Landed(120, 1))  # a tombstone, and two markers
    assert (lane.logged.offset, lane.logged.gaps) == (121, ((117, 120, before),))
    commit(lane, {}, Landed(122, 1))
    assert (lane.logged.offset, len(lane.logged.gaps)) == (123, 1)
    commit(lane, {}, Landed(121, 1))  # the log has lost what was there
    assert lane.logged is None


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.integers(0, 3))))
def test_gaps_are_what_others_wrote(steps: list[tuple[int, bool, int]]) -> None:
    """A plain model of the log: records of ours, markers that may be one transaction late, and others' transactions."""
    lane, log, late = lane_of({}, 0, 1.0), list[str](), 0
    for records, quick, others in steps:
        log += ["other"] * (others + 1 if others else 0)
        commit(lane, {}, Landed(len(log), records))
        log += ["ours"] * records + ["marker"] * late
        late = 0 if quick else 1
        log += ["marker"] * quick
    assert lane.logged is not None
    assert lane.logged.offset == max((at for at, what in enumerate(log) if what == "ours"), default=-1) + 1
    found = {at for gap in lane.logged.gaps for at in range(gap.start, gap.end)}
    foreign = {at for at, what in enumerate(log) if what == "other" and at < lane.logged.offset}
    assert foreign <= found


@pytest.mark.parametrize("alone", [True, False])
def test_after_a_gap_the_log_is_looked_at(tmp_path: Path, caplog: pytest.LogCaptureFixture, alone: bool) -> None:
    checkpoints = Checkpoints(tmp_path, "app", 60.0, Log(alone=alone))
    lane = lane_of({}, 100, time.time())
    commit(lane, {TABLE: {b"a": b"1"}}, Landed(105, 1))
    with caplog.at_level(logging.WARNING):
        asyncio.run(checkpoints.leave([lane]))
    assert len(list(tmp_path.iterdir())) == alone
    assert (lane.logged is not None) == alone
    assert ("somebody else" in caplog.text) == (not alone)


def test_a_gap_that_is_too_old_to_look_at(tmp_path: Path) -> None:
    """What was deleted in it may not be told any more."""
    lane = lane_of({}, 100, time.time() - 0.6 * DAYS)
    commit(lane, {TABLE: {b"a": b"1"}}, Landed(105, 1))
    asyncio.run(Checkpoints(tmp_path, "app", 60.0, LOG).leave([lane]))
    assert list(tmp_path.iterdir()) == []
    assert lane.logged is None


def test_epochs_are_those_from_before_a_transaction_was_sent(tmp_path: Path) -> None:
    lane = lane_of({}, 100, time.time())
    sent = Sent(time.time(), lane.epoch)
    asyncio.run(Checkpoints(tmp_path, "app", 60.0, LOG).learn_epochs([lane]))
    assert lane.epoch == 6
    lane.committed(Share(lane, None, Overlay(lane.tables, []), {}, {}, landed=[Landed(100, 1)], sent=sent))
    assert lane.logged is not None and lane.logged.epoch == 5
    commit(lane, {}, Landed(102, 1))
    assert lane.logged.epoch == 6


def test_what_cannot_be_swept_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        asyncio.run(Checkpoints(tmp_path / "gone", "app", 60.0, LOG).sweep())
    assert "old checkpoints are not removed" in caplog.text


def test_names_are_read_exactly(tmp_path: Path) -> None:
    others = ["car.loan.decide.0.state", "car.loan.decide.0.state.x1", "cardecide.0.state", "car.decide.x.state"]
    own = ["car.decide.0.state", "car.decide.10.state", "car.decide.0.state.abc"]
    for name in (*own, *others, checkpoint.path_of(tmp_path, "car", "my.agent", 0).name):
        (tmp_path / name).touch()
    assert checkpoint.remove_old(tmp_path, "car", time.time() + 1, 0.0) == 3
    assert {path.name for path in tmp_path.iterdir()} == {*others, "car.decide.0.state.abc"}
    assert checkpoint.remove_old(tmp_path, "car.loan", 0.0, time.time() + 1) == 1
    assert not (tmp_path / "car.loan.decide.0.state.x1").exists()


def test_writers_at_the_same_time_do_not_meet(tmp_path: Path) -> None:
    """Threads of one process, as workers in containers are who all have the id 1."""
    path = tmp_path / "a.state"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda offset: write(path, msgspec.structs.replace(HEADER, offset=offset), TABLES), range(12)))
    assert read(path, anything) is not None
    assert list(tmp_path.iterdir()) == [path]


def test_reading_tells_how_it_gets_on(tmp_path: Path) -> None:
    checkpoints, told = Checkpoints(tmp_path, "app", 60.0, LOG), list[None]()
    asyncio.run(checkpoints.leave([lane_of({TABLE: dict(TABLES[TABLE])}, 100, time.time())]))
    loading = checkpoints.load([lane_of({}, 0, 0.0)], {CHANGELOG.topic: INFO}, LIMITS, lambda: told.append(None))
    assert asyncio.run(loading) == {CHANGELOG: 100}
    assert len(told) >= 5  # of 5 MB


def test_a_disk_that_gives_nothing_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpoints_module, "SILENT_SECONDS", 0.2)
    monkeypatch.setattr(checkpoints_module, "LOOK_SECONDS", 0.05)
    checkpoints, other = Checkpoints(tmp_path, "app", 60.0, LOG), CHANGELOG._replace(partition=2)
    os.mkfifo(tmp_path / "app.counter.3.state")  # whoever opens it waits for a writer
    lanes = [lane_of({}, 0, 0.0), replace(lane_of({}, 0, 0.0), partition=2)]
    loading = checkpoints.load(lanes, {CHANGELOG.topic: INFO}, LIMITS | {other: (0, 10)}, lambda: None)
    with caplog.at_level(logging.WARNING):
        assert asyncio.run(loading) == {}
    assert caplog.text.count("the disk does not answer") == 1
