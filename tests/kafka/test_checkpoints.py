"""A worker that keeps checkpoints starts from them, and has the state that its changelog tells, however it ended."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition

from streamproc.core.decide import TABLES
from streamproc.core.state import LANE_TABLE, Tables
from streamproc.kafka import admin
from streamproc.kafka.changelogs import Changelogs
from streamproc.kafka.checkpoints import Checkpoints
from streamproc.kafka.lane import Lane
from streamproc.kafka.restore import bounds, restore
from streamproc.pipeline import open_pipeline
from streamproc.worker import agents
from tests.kafka import car_loan
from tests.kafka.car_loan import Example
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


def opened(made: Example) -> list[tuple[int, int]]:
    """Of each time that lanes were opened: how many from checkpoints, and how many changelog records were read."""
    text = (made.file.parent / "worker.log").read_text()
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
        deadline = time.monotonic() + 30
        while "checkpoint of lane decide/2" not in (made.file.parent / "worker.log").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
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
    assert "is left aside, and all of the state restored" in (made.file.parent / "worker.log").read_text()
    whole, quick, used = both_ways(made, folder)
    assert whole == quick
    assert used == PARTITIONS
    assert len(made.read("decisions")) == 3 * EVENTS
    assert len(made.read("dead-letter")) == 3 * EVENTS
