"""What is done to a pipeline.

Each fault is a generator that yields a label at every moment from which on everything must recover. The order of faults
comes from the seed, and each draws what it needs from a generator of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import ParamSpec, TypeAlias, TypeVar

from aiokafka.errors import KafkaError

from streamproc.kafka import failpoints
from streamproc.kafka.connection import Connection
from streamproc.kafka.dev_broker import DevBroker
from streamproc.kafka.producer import end_transactions_of
from tests.kafka.car_loan import Example
from tests.torture import cluster
from tests.torture.load import Feed, ordinary
from tests.torture.model import HANGS, RAISES
from tests.torture.progress import Monitor
from tests.torture.worker import CLOCK
from tests.torture.workers import Crew

DEATH_SECONDS = 60.0
LOOK_SECONDS = 0.05
CLOCK_SECONDS = 4.0
BURST = 10
LARGEST = 900_000
POINTS = (
    *("offsets:1", "committing:1", "committing:20", "committed:1", "committed:20"),
    *("restoring:1", "claiming:1", "claimed:1"),
)
OFFSETS = (-86_400, -3_600, 1_800, 86_400)
"""Seconds by which a clock is wrong."""

P = ParamSpec("P")
Result = TypeVar("Result")


@dataclass
class World:
    """What there is to break. ``session`` is the group's session timeout; ``missed`` collects faults that did not
    come about."""

    broker: DevBroker
    connection: Connection
    example: Example
    crew: Crew
    feed: Feed
    monitor: Monitor
    session: float
    missed: list[str] = field(default_factory=list)


Fault: TypeAlias = Callable[[World, Random], AsyncIterator[str]]


async def in_thread(function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
    """Run something that blocks. Its end is waited for even when we are cancelled: it may start processes."""
    task = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


# -- workers


async def kill(world: World, chance: Random) -> AsyncIterator[str]:
    """kill -9 of one worker."""
    world.crew.kill(chance.randrange(len(world.crew)))
    yield "kill"


async def term(world: World, chance: Random) -> AsyncIterator[str]:
    """SIGTERM to one worker."""
    world.crew.terminate(chance.randrange(len(world.crew)))
    yield "term"


async def stop(world: World, chance: Random) -> AsyncIterator[str]:
    """SIGSTOP for shorter than the session timeout, or for longer: then it is replaced, and comes back."""
    long = chance.random() < 0.5
    seconds = world.session + chance.uniform(2, 4) if long else chance.uniform(1, world.session - 2)
    number = chance.randrange(len(world.crew))
    pid = world.crew.pid(number)
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        if world.crew.pid(number) == pid:
            os.kill(pid, signal.SIGCONT)
    yield "stop-long" if long else "stop-short"


async def all_(world: World, chance: Random) -> AsyncIterator[str]:
    """kill -9 of all workers at once."""
    for number in range(len(world.crew)):
        world.crew.kill(number)
    yield "all"


async def scale(world: World, chance: Random) -> AsyncIterator[str]:
    """To one worker, to four, to one, and back, under load."""
    usual = len(world.crew)
    await in_thread(world.crew.scale, 1)
    await in_thread(world.crew.scale, 4)
    if not await settled(world, DEATH_SECONDS):
        world.missed.append("scale: four workers did not all get lanes")
    yield "scale-up"
    await in_thread(world.crew.scale, 1)
    yield "scale-down"
    await in_thread(world.crew.scale, usual)
    if not await settled(world, DEATH_SECONDS):  # the next fault is not to meet workers that are still starting
        world.missed.append("scale: the usual workers did not all get lanes")


async def rolling(world: World, chance: Random) -> AsyncIterator[str]:
    """SIGTERM to one worker after another, each when the one before is back in the group."""
    for number in range(len(world.crew)):
        before = await _owners(world)
        world.crew.terminate(number)
        if not await _newcomer(world, before):
            world.missed.append("rolling: a worker that was started again got no lane")
    yield "rolling"


async def failpoint(world: World, chance: Random) -> AsyncIterator[str]:
    """A worker that kills itself at a chosen moment: inside its first transaction, between sent and committed, …"""
    point = chance.choice(POINTS)
    env = {failpoints.VARIABLE: point}
    world.crew.terminate(chance.randrange(len(world.crew)), env)
    if not await _until(lambda: any(death.env == env and death.code == -signal.SIGKILL for death in world.crew.deaths)):
        world.missed.append(f"no worker died at the failpoint {point}")
    yield f"failpoint:{point.partition(':')[0]}"


async def clock(world: World, chance: Random) -> AsyncIterator[str]:
    """One worker whose wall clock is wrong for some time."""
    number, seconds = chance.randrange(len(world.crew)), chance.choice(OFFSETS)
    before = await _owners(world)
    world.crew.terminate(number, {CLOCK: str(seconds)})
    if not await _newcomer(world, before):
        world.missed.append(f"clock: a worker whose clock is {seconds} s wrong got no lane")
    await asyncio.sleep(CLOCK_SECONDS)
    world.crew.terminate(number)
    yield f"clock:{seconds:+d}"


async def fenced(world: World, chance: Random) -> AsyncIterator[str]:
    """A worker's transaction is ended under it: it has to ask what became of its commit."""
    await end_transactions_of(world.connection, chance.choice(sorted(await _owners(world))))
    yield "fenced"


# -- brokers


async def broker(world: World, chance: Random) -> AsyncIterator[str]:
    """kill -9 of every broker, and a start."""
    await in_thread(world.broker.kill)
    await asyncio.sleep(chance.uniform(0, 4))
    await in_thread(world.broker.restart)
    yield "broker"


async def broker_restart(world: World, chance: Random) -> AsyncIterator[str]:
    """A clean stop of every broker, and a start."""
    await in_thread(world.broker.restart)
    yield "broker-restart"


async def broker_stop(world: World, chance: Random) -> AsyncIterator[str]:
    """SIGSTOP of every broker: connections stay, answers do not come. Where it is longer than the session timeout, the
    group has forgotten its members afterwards, as if they all had been paused."""
    seconds = chance.uniform(2, world.session + 4)
    pids = list(world.broker.pids.values())
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    yield "broker-stop-long" if seconds > world.session - 1 else "broker-stop-short"


async def cluster_(world: World, chance: Random) -> AsyncIterator[str]:
    """Of three brokers, kill -9 of a leader, of the group's and of a transaction's coordinator, each restarted."""
    partition = chance.randrange(world.feed.partitions)
    owner = chance.choice(sorted(await _owners(world)))
    asked = (
        ("leader", partial(cluster.leader, world.connection, world.example.topic("events"), partition)),
        ("group-coordinator", partial(cluster.group_coordinator, world.connection, world.example.name)),
        ("transaction-coordinator", partial(cluster.transaction_coordinator, world.connection, owner)),
    )
    for role, asking in asked:
        node = await asking()
        await in_thread(world.broker.kill, node)
        yield f"cluster:{role}"
        await in_thread(world.broker.restart, node)
        yield "cluster:back"


# -- events


async def model_raises(world: World, chance: Random) -> AsyncIterator[str]:
    """Some events that the model raises at."""
    await world.feed.send([ordinary(car_value=RAISES)] * chance.randint(1, 3))
    yield "model-raises"


async def model_hangs(world: World, chance: Random) -> AsyncIterator[str]:
    """Some events that the model hangs at."""
    await world.feed.send([ordinary(car_value=HANGS)] * chance.randint(1, 3))
    yield "model-hangs"


async def big(world: World, chance: Random) -> AsyncIterator[str]:
    """Events of up to the most that a topic takes by default."""
    await world.feed.send([ordinary(note="x" * chance.randint(100_000, LARGEST)) for _ in range(BURST)])
    yield "big"


async def aborted(world: World, chance: Random) -> AsyncIterator[str]:
    """A row of transactions of the producer that come to nothing."""
    for _ in range(BURST):
        await world.feed.send([ordinary()], abort=True)
    yield "aborted"


FAULTS: Mapping[str, Fault] = {
    "kill": kill,
    "term": term,
    "stop": stop,
    "all": all_,
    "scale": scale,
    "rolling": rolling,
    "failpoint": failpoint,
    "clock": clock,
    "fenced": fenced,
    "broker": broker,
    "broker-restart": broker_restart,
    "broker-stop": broker_stop,
    "cluster": cluster_,
    "model-raises": model_raises,
    "model-hangs": model_hangs,
    "big": big,
    "aborted": aborted,
}
MERCIFUL = frozenset({"broker", "broker-restart", "broker-stop-short"})
"""Labels of faults that are no reason for a worker to end."""
CLUSTER = "cluster"
"""The fault that needs three brokers."""


async def settled(world: World, seconds: float) -> bool:
    """Wait until every worker owns lanes, so that the next fault meets one that does: whether that was in time."""
    wanted = min(len(world.crew), world.feed.partitions)
    try:
        async with asyncio.timeout(seconds):
            while True:
                if len(await _owners(world)) >= wanted:
                    return True
                await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError:
        return False


async def _owners(world: World) -> set[str]:
    """The transactional ids of the workers that own lanes."""
    async with asyncio.timeout(DEATH_SECONDS):
        while True:
            with contextlib.suppress(TimeoutError, KafkaError, OSError, AssertionError):
                committed = await world.monitor.committed()
                if owners := {entry.claim.owner for entry in committed.values() if entry.claim}:
                    return owners
            await asyncio.sleep(LOOK_SECONDS)


async def _newcomer(world: World, before: set[str]) -> bool:
    """Wait until a worker owns lanes that was not there before: whether that was in time."""
    try:
        async with asyncio.timeout(DEATH_SECONDS):
            while True:
                if await _owners(world) - before:
                    return True
                await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError:
        return False


async def _until(condition: Callable[[], bool]) -> bool:
    """Wait until it is so: whether it was in time."""
    try:
        async with asyncio.timeout(DEATH_SECONDS):
            while True:
                if condition():
                    return True
                await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError:
        return False
