"""One run: start everything, break things for some time, drain, and check."""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import orjson
from aiokafka import TopicPartition

from streamproc.kafka.connection import Connection
from streamproc.kafka.dev_broker import BrokerConfig, DevBroker
from streamproc.kafka.group import GroupOffsets
from streamproc.pipeline import Pipeline
from tests.kafka.car_loan import Example
from tests.kafka.records import read_until
from tests.torture import subject
from tests.torture.cases import ENDS
from tests.torture.checks import CHECKS, Found, unscored
from tests.torture.faults import CLUSTER, FAULTS, MERCIFUL, World, in_thread, settled
from tests.torture.load import Feed
from tests.torture.progress import Monitor
from tests.torture.recreated import recreated
from tests.torture.report import Report
from tests.torture.reviewer import Reviewer
from tests.torture.workers import crew

RECOVER_SECONDS = 90.0
DRAIN_SECONDS = 90.0
READ_SECONDS = 180.0
SETTLE_SECONDS = 20.0
LOOK_SECONDS = 0.2
PAUSE_SECONDS = (0.3, 1.5)
OVERLAP = 0.2
"""The share of faults whose end is not waited for before the next one."""
TOPIC = "topic"
"""The check that is no fault of the others: a topic that is deleted and made anew."""

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What to do. Times are in seconds, ``rate`` in events a second."""

    seconds: float
    seed: int
    workers: int = 3
    partitions: int = 4
    rate: int = 600
    session: float = 6.0
    faults: tuple[str, ...] = (*(name for name in FAULTS if name != CLUSTER), TOPIC)

    @property
    def brokers(self) -> int:
        return 3 if CLUSTER in self.faults else 1

    @property
    def command(self) -> str:
        """The command that does the same again."""
        options = (
            f"--seconds {self.seconds:g} --seed {self.seed} --workers {self.workers} --faults {','.join(self.faults)}"
        )
        return f"uv run python -m tests.torture {options} --partitions {self.partitions} --rate {self.rate}"


def torture(settings: Settings, notify: Notify) -> Report:
    """A run with a Kafka of its own."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it tells at length that a broker is away
    with DevBroker(BrokerConfig(nodes=settings.brokers, heap="512m")) as broker:
        connection = Connection(tuple(broker.address.split(",")))
        example = subject.make(connection, settings.partitions, settings.brokers)
        report = asyncio.run(_run(settings, broker, example, notify))
    if report.good:
        shutil.rmtree(example.file.parent.parent, ignore_errors=True)
    return report


async def _run(settings: Settings, broker: DevBroker, example: Example, notify: Notify) -> Report:
    report = Report(
        settings.seed, settings.seconds, settings.workers, settings.partitions, settings.brokers, settings.command,
        logs=str(example.file.parent),
    )  # fmt: skip
    pipeline = await subject.make_topics(example, settings.partitions)
    log, address = example.file.parent / "workers.log", example.connection.address
    with crew(example.file, address, settings.workers, settings.session, settings.partitions, log) as workers:
        started = time.monotonic()
        async with _world(settings, broker, example, pipeline, workers) as world:
            report.recoveries["start"] = [await world.monitor.recovered(started, started, RECOVER_SECONDS)]
            notify("every partition moves")
            await _faults(settings, world, report, notify)
            report.aborted = world.feed.aborted
            report.drained = await _drain(world, pipeline, notify)
        codes = await in_thread(workers.stop)
    notify("reading everything back")
    found = await _read(example, pipeline)
    found.codes, found.missed = codes, world.missed
    _count(report, found, workers.deaths)
    report.said = Counter(re.findall(r" CRITICAL (.*)", log.read_text(errors="replace")))
    for check in CHECKS:
        report.problems[(check.__doc__ or "").strip()] = await in_thread(lambda check=check: list(check(found)))  # type: ignore[misc]
    if TOPIC in settings.faults:
        notify("a topic is deleted and made anew")
        report.problems[(recreated.__doc__ or "").strip()] = await recreated(example.connection)
    return report


@asynccontextmanager
async def _world(
    settings: Settings, broker: DevBroker, example: Example, pipeline: Pipeline, workers: Any
) -> AsyncIterator[World]:
    events, decisions = pipeline.plan.events.topic, pipeline.plan.topics.decisions
    lanes = [TopicPartition(topic, n) for topic in (events, decisions) for n in range(settings.partitions)]
    feed = Feed(example.connection, events, settings.partitions, settings.rate, Random(settings.seed))
    monitor = Monitor(example.connection, example.name, lanes, events)
    reviewer = Reviewer(example.connection, example.name, settings.partitions, Random(settings.seed))
    async with asyncio.TaskGroup() as group:  # a bug in either of them ends the run
        tasks = [group.create_task(one.run()) for one in (feed, monitor, reviewer)]
        yield World(broker, example.connection, example, workers, feed, monitor, settings.session)
        for task in tasks:
            task.cancel()


async def _faults(settings: Settings, world: World, report: Report, notify: Notify) -> None:
    """Faults until the time is over; the end of most is waited for, so that each can be measured."""
    chance, deck = Random(settings.seed), list[str]()
    problems = report.problems.setdefault("Everything moves again after a fault.", [])
    deaths = report.problems.setdefault("A broker that goes away ends no worker.", [])
    until, number, overlap = time.monotonic() + settings.seconds, 0, False
    while time.monotonic() < until:
        if not deck:
            deck = [name for name in settings.faults if name != TOPIC]
            chance.shuffle(deck)
        if not deck:
            await asyncio.sleep(until - time.monotonic())
            return
        name, number, mixed = deck.pop(), number + 1, overlap
        overlap, pause = chance.random() < OVERLAP, chance.uniform(*PAUSE_SECONDS)
        report.faults[name] += 1
        report.overlapped += overlap
        began, dead = time.monotonic(), len(world.crew.deaths)
        async for label in FAULTS[name](world, Random(f"{settings.seed}-{number}")):
            ended = time.monotonic()
            if overlap:
                notify(f"{label}, and on at once")
                continue
            found = await world.monitor.recovered(began, ended, RECOVER_SECONDS)
            if found is not None:
                await settled(world, SETTLE_SECONDS)  # the next fault is to meet workers that all have lanes
                found = replace(found, still=world.monitor.stood_still(began))
            report.recoveries.setdefault("overlapping" if mixed else label, []).append(found)
            if found is None:
                problems.append(
                    f"{label}: not all moved and caught up in {RECOVER_SECONDS:.0f} s: {world.monitor.behind()}"
                )
                notify(f"{label}: STALLED")
                return
            notify(f"{label}: all moved after {found.moved:.1f} s, stood still for {found.still:.1f} s")
            if (label in MERCIFUL or name == CLUSTER) and not mixed and len(world.crew.deaths) > dead:
                codes = [death.code for death in world.crew.deaths[dead:]]
                deaths.append(f"{label}: workers ended with {codes}")
                dead = len(world.crew.deaths)
            mixed, began = False, time.monotonic()
        await asyncio.sleep(pause)


async def _drain(world: World, pipeline: Pipeline, notify: Notify) -> float | None:
    """Stop the input and wait until all of it is done: after how many seconds, or None when it is not."""
    notify("draining")
    started = time.monotonic()
    world.feed.stop()
    try:
        await asyncio.wait_for(_fed(world), DRAIN_SECONDS)
        for topic in (pipeline.plan.events.topic, pipeline.plan.topics.decisions):
            left = DRAIN_SECONDS - (time.monotonic() - started)
            if not await world.monitor.reached(await _last(world.connection, topic), max(left, 1.0)):
                world.missed.append(f"not drained in {DRAIN_SECONDS:.0f} s, behind: {world.monitor.behind()}")
                return None
        ends = await _last(world.connection, pipeline.plan.topics.panes)
        if not await _committed(world, ends, DRAIN_SECONDS - (time.monotonic() - started)):
            world.missed.append(f"the drift agent is not through in {DRAIN_SECONDS:.0f} s")
            return None
        if not await _answered(world, pipeline, DRAIN_SECONDS - (time.monotonic() - started)):
            world.missed.append(f"not every case ended in {DRAIN_SECONDS:.0f} s")
            return None
    except TimeoutError:
        world.missed.append("the feed did not end in time")
        return None
    return round(time.monotonic() - started, 2)


async def _committed(world: World, offsets: dict[TopicPartition, int], seconds: float) -> bool:
    """Wait until the workers have committed so much of topics that the monitor does not look at."""
    group = GroupOffsets(world.connection, world.example.name)
    await group.start()
    try:
        async with asyncio.timeout(max(seconds, 1.0)):
            while True:
                found = await group.fetch(list(offsets), stable=False)
                if all(found[tp].offset >= at for tp, at in offsets.items()):
                    return True
                await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError:
        return False
    finally:
        await group.stop()


async def _answered(world: World, pipeline: Pipeline, seconds: float) -> bool:
    """Wait until the review agent knows all cases and each of them is over."""
    topics, until = pipeline.plan.topics, time.monotonic() + max(seconds, 1.0)
    if not await _committed(world, await _last(world.connection, topics.cases), until - time.monotonic()):
        return False
    while (left := until - time.monotonic()) > 0:
        told = await read_until(world.connection, topics.review_events, None, left)
        steps = Counter(orjson.loads(record.value)["step"] for record in told)
        if steps["opened"] == sum(steps[step] for step in ENDS):
            return True
        await asyncio.sleep(LOOK_SECONDS)
    return False


async def _fed(world: World) -> None:
    await world.feed.ended.wait()


async def _last(connection: Connection, topic: str) -> dict[TopicPartition, int]:
    """One past the last record of each partition, markers left out."""
    ends: dict[TopicPartition, int] = {}
    for record in await read_until(connection, topic, None, READ_SECONDS):
        tp = TopicPartition(topic, record.partition)
        ends[tp] = max(ends.get(tp, 0), record.offset + 1)
    return ends


async def _read(example: Example, pipeline: Pipeline) -> Found:
    async def everything(topic: str) -> list[Any]:
        return await read_until(example.connection, topic, None, READ_SECONDS)

    totals = subject.totals(example)
    own = pipeline.plan.topics
    reviewing = (own.review, own.review_events, own.verdicts)
    topics = [*pipeline.plan.written, *reviewing, own.panes, own.drift, totals]
    return Found(
        pipeline,
        await everything(pipeline.plan.events.topic),
        {topic: await everything(topic) for topic in topics},
        await everything(f"{example.name}.counter.changelog"),
        totals,
    )


def _count(report: Report, found: Found, deaths: Sequence[Any]) -> None:
    report.events = len(found.events)
    report.results = {topic.rpartition(".")[2]: len(records) for topic, records in found.outputs.items()}
    report.unscored = Counter(unscored(found.decided).values())
    report.ended = Counter(f"code {death.code}" for death in deaths)
