"""A worker that keeps checkpoints starts from them, and has the state that its changelog tells, however it ended."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from examples.counter.counter import TABLE, Counter
from streamproc.core.decide import TABLES
from streamproc.core.state import LANE_TABLE, Tables, changelog_key
from streamproc.kafka import admin
from streamproc.kafka.agent import Agent
from streamproc.kafka.changelogs import Changelogs
from streamproc.kafka.checkpoints import Checkpoints
from streamproc.kafka.connection import Connection
from streamproc.kafka.dev_broker import BrokerConfig, DevBroker
from streamproc.kafka.lane import Lane
from streamproc.kafka.logged import Gap, Logged
from streamproc.kafka.restore import bounds, restore
from streamproc.pipeline import open_pipeline
from streamproc.worker import agents
from tests.kafka import car_loan
from tests.kafka.car_loan import Example
from tests.kafka.conftest import TopicFactory
from tests.kafka.records import read_all
from tests.kafka.test_dedupe import DEDUPE

PARTITIONS, EVENTS = 3, 900
OPENED = re.compile(r"opened \d+ lanes \(0 kept, (\d+) from checkpoints\) in .*, (\d+) changelog records read")


def both_ways(made: Example, folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """The tables of all lanes by the changelog alone, and by checkpoints; and how many of these could be used."""
    agent = agents(open_pipeline(made.file), PARTITIONS)[0]
    changelog = agent.changelog(made.name)

    async def read() -> tuple[list[Lane], list[Lane], int]:
        infos = await admin.describe(made.connection, [changelog])
        tps = [TopicPartition(changelog, number) for number in range(PARTITIONS)]
        limits = await bounds(made.connection, tps)
        whole, quick = (
            [Lane(agent, n, {}, {}, Tables((LANE_TABLE, *TABLES))) for n in range(PARTITIONS)] for _ in "ab"
        )
        since = await Checkpoints(folder, made.name, 60.0, Changelogs(made.connection)).load(
            quick, infos, limits, lambda: None
        )
        for lanes, known in ((whole, {}), (quick, since)):
            tables = {tp: lane.tables for tp, lane in zip(tps, lanes, strict=True)}
            await restore(made.connection, tables, lambda read: None, known)
        return whole, quick, len(since)

    whole, quick, used = asyncio.run(read())
    names = (LANE_TABLE, *TABLES)
    return (
        [{name: dict(lane.tables.items(name)) for name in names} for lane in whole],
        [{name: dict(lane.tables.items(name)) for name in names} for lane in quick],
        used,
    )


def log_of(made: Example) -> str:
    return (made.file.parent / "worker.log").read_text()


def wait_for_log(made: Example, *words: str) -> None:
    deadline = time.monotonic() + 30
    while not all(word in log_of(made) for word in words):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def opened(made: Example) -> list[tuple[int, int]]:
    """Of each time that lanes were opened: how many from checkpoints, and how many changelog records were read."""
    text = log_of(made)
    return [(int(lanes), int(records)) for lanes, records in OPENED.findall(text)]


@pytest.mark.timeout(240)
def test_a_worker_starts_from_its_checkpoints_and_reads_what_follows(connection: Any, tmp_path: Path) -> None:
    made = car_loan.make(connection, partitions=PARTITIONS, changes=DEDUPE)
    rows, folder = car_loan.events(3 * EVENTS, damaged=False), tmp_path / "state"
    options = ("--state-dir", str(folder), "--checkpoint", "1")

    car_loan.produce(connection, made.topic("events"), rows[:EVENTS])
    with car_loan.worker(made, *options):
        car_loan.wait_for_results(made, EVENTS)
    whole, quick, used = both_ways(made, folder)
    assert whole == quick
    assert used == len(list(folder.iterdir())) == PARTITIONS

    with car_loan.worker(made, *options, "--log-level", "debug") as process:
        car_loan.produce(connection, made.topic("events"), rows[: 2 * EVENTS])
        car_loan.wait_for_results(made, 3 * EVENTS)
        written = len(list(folder.iterdir()))
        wait_for_log(made, "checkpoint of lane decide/2")
        car_loan.produce(connection, made.topic("events"), rows)
        process.kill()
    assert written == PARTITIONS
    whole, quick, used = both_ways(made, folder)
    assert whole == quick
    assert used == PARTITIONS

    damaged = folder / f"{made.name}.decide.0.state"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with car_loan.worker(made, *options):
        car_loan.wait_for_results(made, 6 * EVENTS)
    assert opened(made)[0] == (0, 0)
    assert opened(made)[1] == (PARTITIONS, 0)  # after a graceful stop nothing is left to read
    assert opened(made)[-1][0] == PARTITIONS - 1
    assert "is left aside, and all of the state restored" in log_of(made)
    whole, quick, used = both_ways(made, folder)
    assert whole == quick
    assert used == PARTITIONS
    assert len(made.read("decisions")) == 3 * EVENTS
    assert len(made.read("dead-letter")) == 3 * EVENTS


async def tombstones(made: Example, changelog: str, partition: int) -> int:
    """Delete all that a lane's changelog has, as somebody does who cares for no worker; how many keys."""
    keys = {record.key for record in await read_all(made.connection, changelog) if record.partition == partition}
    producer = AIOKafkaProducer(**made.connection.client_kwargs(), transactional_id=f"{made.name}-somebody")
    await producer.start()
    try:
        async with producer.transaction():
            for key in keys:
                await producer.send(changelog, None, key=key, partition=partition)
    finally:
        await producer.stop()
    return len(keys)


@pytest.mark.timeout(240)
def test_what_others_deleted_under_a_worker_does_not_come_back(connection: Any, tmp_path: Path) -> None:
    made = car_loan.make(connection, partitions=PARTITIONS, changes=DEDUPE)
    rows, folder = car_loan.events(2 * EVENTS, damaged=False), tmp_path / "state"
    changelog = agents(open_pipeline(made.file), PARTITIONS)[0].changelog(made.name)
    with car_loan.worker(made, "--state-dir", str(folder)):
        car_loan.produce(connection, made.topic("events"), rows[:EVENTS])
        car_loan.wait_for_results(made, EVENTS)
        assert asyncio.run(tombstones(made, changelog, 0)) > 0
        car_loan.produce(connection, made.topic("events"), rows[EVENTS:])
        car_loan.wait_for_results(made, 2 * EVENTS)
    assert "somebody else may have written to the changelog of lane decide/0" in log_of(made)
    assert sorted(path.name for path in folder.iterdir()) == [f"{made.name}.decide.{n}.state" for n in (1, 2)]
    whole, quick, used = both_ways(made, folder)
    assert whole == quick
    assert used == PARTITIONS - 1


@pytest.mark.timeout(240)
def test_a_broker_that_goes_and_comes_costs_no_checkpoint(tmp_path: Path) -> None:
    """What was aborted meanwhile is no record of somebody else."""
    folder = tmp_path / "state"
    with DevBroker(BrokerConfig(heap="512m")) as broker:
        made = car_loan.make(Connection((broker.address,)), partitions=PARTITIONS, changes=DEDUPE)
        rows = car_loan.events(3 * EVENTS, damaged=False)
        with car_loan.worker(made, "--state-dir", str(folder), "--log-level", "debug"):
            car_loan.produce(made.connection, made.topic("events"), rows[:EVENTS])
            car_loan.wait_for_results(made, EVENTS)
            car_loan.produce(made.connection, made.topic("events"), rows[EVENTS : 2 * EVENTS])
            broker.kill()
            broker.restart()
            car_loan.wait_for_results(made, 2 * EVENTS)
            wait_for_log(made, *(f"changelog of lane decide/{number} has a leader of" for number in range(PARTITIONS)))
            car_loan.produce(made.connection, made.topic("events"), rows[2 * EVENTS :])
            car_loan.wait_for_results(made, 3 * EVENTS)
        assert "somebody else" not in log_of(made)
        whole, quick, used = both_ways(made, folder)
        assert whole == quick
        assert used == PARTITIONS


async def produce(connection: Connection, topic: str, numbers: range) -> None:
    """A changelog record for each number, each in a batch of its own."""
    producer = AIOKafkaProducer(**connection.client_kwargs())
    await producer.start()
    try:
        for number in numbers:
            await producer.send_and_wait(topic, b"%d" % number, key=changelog_key(TABLE, b"%d" % number), partition=0)
    finally:
        await producer.stop()


AGENT = Agent("counter", ("in",), Counter("in", "out"), tables=(TABLE,))
CHANGELOG = TopicPartition(AGENT.changelog("app"), 0)


def empty() -> Lane:
    return Lane(AGENT, 0, {}, {}, Tables((LANE_TABLE, TABLE)))


async def whole(connection: Connection, folder: Path) -> None:
    """Restore a lane, and leave a checkpoint of it."""
    lane, info = empty(), (await admin.describe(connection, [CHANGELOG.topic]))[CHANGELOG.topic]
    moment = time.time()
    _, ends = await restore(connection, {CHANGELOG: lane.tables}, lambda read: None)
    lane.logged = Logged(info.topic_id, ends[CHANGELOG], moment, info.epochs[0])
    await Checkpoints(folder, "app", 60.0, Changelogs(connection)).leave([lane])


async def quick(connection: Connection, folder: Path) -> tuple[int, dict[bytes, bytes]]:
    """Restore a lane from a checkpoint if there is one; from which offset, and what it has."""
    lane, infos = empty(), await admin.describe(connection, [CHANGELOG.topic])
    limits = await bounds(connection, [CHANGELOG])
    since = await Checkpoints(folder, "app", 60.0, Changelogs(connection)).load([lane], infos, limits, lambda: None)
    await restore(connection, {CHANGELOG: lane.tables}, lambda read: None, since)
    return since.get(CHANGELOG, 0), dict(lane.tables.items(TABLE))


def entries(*numbers: int) -> dict[bytes, bytes]:
    return {b"%d" % number: b"%d" % number for number in numbers}


@pytest.mark.timeout(240)
def test_a_log_that_lost_its_end_and_grew_again_is_read_whole(tmp_path: Path) -> None:
    with DevBroker(BrokerConfig(heap="512m")) as broker:
        connection = Connection((broker.address,))
        asyncio.run(admin.create(connection, [admin.TopicSpec(CHANGELOG.topic, 1, cleanup_policy="compact")]))
        asyncio.run(produce(connection, CHANGELOG.topic, range(10)))
        asyncio.run(whole(connection, tmp_path))
        assert asyncio.run(quick(connection, tmp_path)) == (10, entries(*range(10)))
        before = asyncio.run(admin.leader_epochs(connection, [CHANGELOG.topic]))[CHANGELOG.topic][0]
        broker.restart()
        asyncio.run(produce(connection, CHANGELOG.topic, range(10, 12)))
        assert asyncio.run(quick(connection, tmp_path)) == (10, entries(*range(12)))  # another epoch, the same log

        asyncio.run(whole(connection, tmp_path))
        broker.kill()
        cut(broker.data_dir, keep=8)
        broker.restart()
        asyncio.run(produce(connection, CHANGELOG.topic, range(20, 30)))
        after = asyncio.run(admin.leader_epochs(connection, [CHANGELOG.topic]))[CHANGELOG.topic][0]
        assert after > before
        low, high = asyncio.run(bounds(connection, [CHANGELOG]))[CHANGELOG]
        assert low <= 12 < high  # by its offset alone the checkpoint fits
        assert asyncio.run(quick(connection, tmp_path)) == (0, entries(*range(8), *range(20, 30)))
        assert list(tmp_path.iterdir()) == []


def cut(data: Path, keep: int) -> None:
    """Leave only so many record batches of the changelog, as after a disk that lost what was not written yet."""
    [segment] = data.rglob(f"{CHANGELOG.topic}-0/00000000000000000000.log")
    raw, end = segment.read_bytes(), 0
    for _ in range(keep):
        end += 12 + int.from_bytes(raw[end + 8 : end + 12], "big")
    segment.write_bytes(raw[:end])


async def delete_before(connection: Connection, tp: TopicPartition, offset: int) -> None:
    client = AIOKafkaAdminClient(bootstrap_servers=connection.address)
    await client.start()
    try:
        await client.delete_records({tp: RecordsToDelete(offset)})
    finally:
        await client.close()


@pytest.mark.parametrize("since", [3, 11])
def test_an_offset_that_is_not_there_means_all_of_it(connection: Connection, topic: TopicFactory, since: int) -> None:
    tp, tables = TopicPartition(topic(1), 0), Tables((TABLE,))
    asyncio.run(produce(connection, tp.topic, range(10)))
    asyncio.run(delete_before(connection, tp, 5))
    tables.apply({TABLE: {b"gone": b"1"}})
    assert asyncio.run(restore(connection, {tp: tables}, lambda read: None, {tp: since})) == (5, {tp: 10})
    assert dict(tables.items(TABLE)) == entries(*range(5, 10))


def test_an_offset_that_goes_while_it_is_read_means_all_of_it(
    connection: Connection, topic: TopicFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    tp, tables = TopicPartition(topic(1), 0), Tables((TABLE,))
    asyncio.run(produce(connection, tp.topic, range(10)))
    tables.apply({TABLE: {b"gone": b"1"}})

    async def late(connection: Connection, tps: list[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        monkeypatch.undo()
        found = await bounds(connection, tps)
        await delete_before(connection, tp, 5)
        return found

    monkeypatch.setattr("streamproc.kafka.restore.bounds", late)
    assert asyncio.run(restore(connection, {tp: tables}, lambda read: None, {tp: 3})) == (5, {tp: 10})
    assert dict(tables.items(TABLE)) == entries(*range(5, 10))


def test_only_committed_records_break_the_silence(connection: Connection, topic: TopicFactory) -> None:
    tp, log = TopicPartition(topic(1), 0), Changelogs(connection)

    async def run() -> None:
        producer = AIOKafkaProducer(**connection.client_kwargs(), transactional_id=tp.topic)
        await producer.start()
        try:
            for value, good in ((b"0", True), (b"2", False), (b"4", True)):  # each with a marker after it
                await producer.begin_transaction()
                await producer.send_and_wait(tp.topic, value, partition=0)
                await (producer.commit_transaction() if good else producer.abort_transaction())
        finally:
            await producer.stop()

    asyncio.run(run())
    for start, end, silent in ((1, 4, True), (0, 1, False), (1, 5, False), (2, 3, True)):
        assert asyncio.run(log.silent(tp, [Gap(start, end, 0.0)])) is silent, (start, end)
    assert not asyncio.run(log.silent(tp, [Gap(2, 3, 0.0), Gap(3, 5, 0.0)]))
