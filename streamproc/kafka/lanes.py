"""All lanes of one worker: what is assigned, what may be fetched, what runs, and the cycle that commits it.

The *epoch* counts assignments and travels with every fetched batch: one fetched before a rebalance is never run after
it. The *member* is who the worker was in the group at that time; the broker checks it at every commit.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors

from streamproc import metrics
from streamproc.core.processor import NOTHING_SEEN, Records
from streamproc.errors import FencedOffsets, LaneStopped
from streamproc.kafka.agent import Agent, Answerer, SeenNow, by_topic
from streamproc.kafka.changelogs import Changelogs
from streamproc.kafka.checkpoints import Checkpoints
from streamproc.kafka.connection import Connection
from streamproc.kafka.cycle import Cycle, is_away
from streamproc.kafka.group import GroupOffsets, Member
from streamproc.kafka.held import Held
from streamproc.kafka.lane import Fetched, Lane, LaneId, RecordsByPartition, Share, Work
from streamproc.kafka.opening import Opener
from streamproc.kafka.outgoing import Router
from streamproc.kafka.runner import Runner, no_answers
from streamproc.kafka.vitals import Fetcher, Vitals
from streamproc.kafka.watchdog import Watchdog, end_process, guard

log = logging.getLogger(__name__)
BEAT_SECONDS = 1.0
PASSED_BEATS = 30
POLL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """``watchdog``: seconds that a lane may have work without progress. ``revoke``: seconds that a rebalance waits
    for the transaction in flight. ``drain``: seconds that a graceful stop waits for batches in flight.

    ``state_dir`` is where checkpoints of the lanes' state are, if anywhere, ``checkpoint`` the seconds between two."""

    watchdog: float = 60.0
    revoke: float = 15.0
    drain: float = 30.0
    state_dir: Path | None = None
    checkpoint: float = 300.0


class Lanes:
    """The lanes of one worker. Everything but the processors' steps runs on the event loop that started it."""

    def __init__(
        self,
        connection: Connection,
        app: str,
        agents: Sequence[Agent],
        worker: str,
        dead_letters: str,
        *,
        answerer: Answerer = no_answers,
        seen: SeenNow = lambda: NOTHING_SEEN,
        settings: LaneSettings = LaneSettings(),
    ) -> None:
        self._readers = by_topic(agents)
        self._settings = settings
        self._owner = f"{app}-{worker}"
        self._encoder = ThreadPoolExecutor(1, "encoder")
        self._group = GroupOffsets(connection, app)
        self._cycle = Cycle(connection, self._group, app, self._owner, self._encoder)
        self._checkpoints = (
            None
            if settings.state_dir is None
            else Checkpoints(settings.state_dir, app, settings.checkpoint, Changelogs(connection))
        )
        self._opener = Opener(connection, self._group, app, self._owner, self._checkpoints)
        self._router = Router(connection, dead_letters)
        self._held = Held()
        self._runner = Runner(self._held, self._cycle, self._router, answerer, seen, self.lose)
        self._written = {dead_letters, *(topic for agent in agents for topic in (*agent.writes, agent.changelog(app)))}
        self._watchdog = Watchdog(self.stuck, settings.watchdog)
        self._kept: dict[LaneId, Lane] = {}
        self._left: list[Lane] = []
        self._opening: asyncio.Task[None] | None = None
        self._vitals = Vitals(self._cycle.broker)
        self._tasks: list[asyncio.Task[None]] = []

    # -- life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, and begin to commit. Waits for a broker that is away."""
        if self._checkpoints is not None:
            self._checkpoints.prepare()
        await self._cycle.broker.waiting(self._group.start)
        await self._cycle.start()
        await self._cycle.broker.waiting(partial(self._router.learn, self._written))
        self._cycle.broker.on_back = self._back
        self._watchdog.start()
        self._tasks = [
            asyncio.create_task(guard(routine()), name=routine.__name__)
            for routine in (self._runner.commit_cycles, self._runner.tick_lanes, self._beat)
        ]
        if self._checkpoints is not None:
            keeping = self._checkpoints.keep(self._held)
            self._tasks.append(asyncio.create_task(guard(keeping), name="checkpoints"))

    def _back(self) -> None:
        self._vitals.refresh(self._held.lanes)
        if self._checkpoints is not None:
            self._checkpoints.broker_is_back()

    async def stop(self) -> None:
        """Finish the batches in flight, commit them, and let go. Bounded by ``settings.drain``."""
        self._held.closing = True
        try:
            async with asyncio.timeout(self._settings.drain):
                await self._held.all(lambda lane: lane.idle)
        except TimeoutError:
            log.warning("batches in flight did not finish in %.0f s: they are given up", self._settings.drain)
        self._watchdog.stop()
        for task in [*self._tasks, *([self._opening] if self._opening else [])]:
            task.cancel()
        self._held.epoch += 1
        self._left = list(self._held.lanes.values())
        self._runner.stop()
        await self._cycle.stop()
        await self._group.stop()
        self._encoder.shutdown(wait=False, cancel_futures=True)

    async def leave_state(self) -> None:
        """Write checkpoints of the lanes as they were at the stop: others may have them now. Bounded."""
        if self._checkpoints is not None:
            await self._checkpoints.leave(self._left)

    # -- the group ----------------------------------------------------------------------------------------------

    async def revoke(self) -> None:
        """All lanes are taken away (rebalances are eager): let the transaction in flight end, drop the rest."""
        self._held.epoch += 1
        self._vitals.opening = None
        if self._opening is not None:
            self._opening.cancel()
        lanes, self._held.lanes = self._held.lanes, {}  # at once: nothing new may begin on them
        committing = {lane.id: lane.committing for lane in lanes.values()}
        self._runner.drop(lanes.values())
        for lane in lanes.values():
            lane.committing = committing[lane.id]
        async with asyncio.timeout(self._settings.revoke):
            await self._held.all(lambda lane: lane.committing is None, lanes.values())
        self._kept = self._kept | lanes
        self._held.settled.set()

    def assign(self, partitions: Collection[TopicPartition], member: Member, fetcher: Fetcher) -> None:
        """Note what is ours now; opening it goes on outside the rebalance callback."""
        metrics.REBALANCES.inc()
        if self._held.closing:
            return
        self._held.member, self._held.fetcher = member, fetcher
        self._vitals.fetcher = fetcher
        wanted: dict[LaneId, Agent] = {}
        have = {TopicPartition(*tp) for tp in partitions}
        for topic, partition in have:
            agent = self._readers.get(topic)
            if agent is None:
                continue
            if all(TopicPartition(other, partition) in have for other in agent.topics):
                wanted[LaneId(agent.name, partition)] = agent
            else:
                log.warning("lane %s/%d waits: not all of its topics are here", agent.name, partition)
        self._vitals.opening = self._vitals.opening_since = time.monotonic()
        self._opening = asyncio.create_task(guard(self._open(self._held.epoch, wanted, member)), name="opening")

    def lose(self, error: FencedOffsets) -> None:
        """The group has moved on without us, as when the broker was away for longer than a session: nothing is ours.

        The consumer will join again. If no assignment comes the watchdog ends the worker, as for any slow opening.
        """
        log.warning("the lanes are lost: %s", error.message)
        self._held.epoch += 1
        self._runner.drop(self._held.lanes.values())
        self._held.lanes, self._kept = {}, {}
        self._vitals.opening = self._vitals.opening_since = time.monotonic()
        self._held.settled.set()

    async def _open(self, epoch: int, wanted: Mapping[LaneId, Agent], member: Member) -> None:
        def progress() -> None:
            self._vitals.opening = time.monotonic()
            self._cycle.broker.back()

        try:
            lanes = await self._cycle.broker.waiting(lambda: self._opener.open(wanted, self._kept, member, progress))
        except FencedOffsets as error:
            if epoch == self._held.epoch:
                self.lose(error)
            return
        self._cycle.broker.back()
        if epoch != self._held.epoch:
            return
        assert self._held.fetcher is not None
        await self._held.fetcher.seek_all(
            {tp: offset for lane in lanes.values() for tp, offset in lane.positions.items()}
        )
        if epoch != self._held.epoch:
            return
        self._kept, self._held.lanes = {}, lanes
        self._vitals.opening = None
        self._vitals.refresh(lanes)
        self._runner.wake()
        self._held.free()

    # -- fetching -----------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        return self._held.epoch

    @property
    def at_rest(self) -> bool:
        """See ``Runner.at_rest``."""
        return self._runner.at_rest

    @property
    def due(self) -> float:
        """See ``Runner.due``."""
        return self._runner.due

    def wanted(self) -> set[TopicPartition]:
        """The partitions of lanes that have little waiting: only these are fetched."""
        if self._held.closing:
            return set()
        return {tp for lane in self._held.lanes.values() if lane.wants for tp in lane.positions}

    async def until_wanted(self, seconds: float) -> None:
        """Wait until a lane is free, or for the time given."""
        self._held.freed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._held.freed.wait()
        except TimeoutError:
            pass

    def fetched(
        self,
        epoch: int,
        records: RecordsByPartition,
        positions: Mapping[TopicPartition, int],
    ) -> list[Fetched]:
        """Group what aiokafka gave by agent, and mark the lanes as busy. Drops it all if a rebalance came between.

        ``positions`` are the consumer's after this fetch, of every partition that was wanted.
        """
        self._vitals.polled = time.monotonic()
        if epoch != self._held.epoch:
            return []
        for tp, position in positions.items():
            lane = self._lane_of(tp)
            if tp not in records and lane.free and position > lane.reached()[tp]:
                lane.passed[tp] = position
        by_agent: dict[str, dict[TopicPartition, Records]] = {}
        for tp, batch in records.items():
            lane = self._lane_of(tp)
            if lane.free:  # what comes to a batch that waits is no progress of that
                lane.progressed = self._vitals.polled
            lane.fetching = True
            lane.newest[tp] = int(batch.timestamps[-1])
            by_agent.setdefault(lane.agent.name, {})[tp] = batch
        return [Fetched(agent, epoch, batches) for agent, batches in by_agent.items()]

    def _lane_of(self, tp: TopicPartition) -> Lane:
        return self._held.lanes[LaneId(self._readers[tp.topic].name, tp.partition)]

    def take(self, fetched: Fetched) -> None:
        """Run fetched batches on their lanes: called by the Faust agent."""
        if fetched.epoch != self._held.epoch:
            return
        for tp, batch in fetched.records.items():
            self._lane_of(tp).park(tp, batch)
        self._runner.next(fetched.agent)

    # -- health -------------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        beats = 0
        while True:
            self._watchdog.beat()
            await self._poll()
            self._vitals.look(self._held.lanes)
            beats += 1
            if beats % PASSED_BEATS == 0:
                self._commit_passed()
            await asyncio.sleep(BEAT_SECONDS)

    async def _poll(self) -> None:
        """Faust polls only while there is something to fetch; a worker that stands by must stay in the group too."""
        if self._held.fetcher is None or self._held.closing:
            return
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._held.fetcher.poll()
        except TimeoutError:
            log.warning("the consumer does not answer")
        except kafka_errors.KafkaError as error:
            self.fail(error)

    def _commit_passed(self) -> None:
        """Commit how far idle lanes went over markers: a position before them would look lost once they are deleted."""
        for lane in self._held.lanes.values():
            if lane.free and lane.idle and lane.passed and self._held.member is not None:
                self._runner.hand_over(Work(lane.agent, self._held.member, [Share.of(lane, None)]))

    def stuck(self, seconds: float) -> str | None:
        """See ``Vitals.stuck``."""
        return self._vitals.stuck(self._held.lanes, seconds)

    def of(self, agent: str) -> set[int]:
        """The partition numbers of an agent's lanes that this worker owns."""
        return {lane.partition for lane in self._held.lanes if lane.agent == agent}

    def kept(self, agent: str, table: str, key: bytes) -> list[bytes | None]:
        """What the lanes of an agent that this worker owns keep under one key, as it is committed."""
        own = [lane for lane in self._held.lanes.values() if lane.agent.name == agent]
        return [lane.tables.get_many(table, [key])[0] for lane in own]

    def health(self) -> dict[str, Any]:
        """For ``/healthz``: whether all is well, and the state of every lane."""
        return self._vitals.health(self._held.lanes, min(self._settings.watchdog / 2, 15.0))

    def set_gauges(self) -> None:
        """Bring the gauges up to date."""
        self._vitals.set_gauges(self._held.lanes)

    def fail(self, error: BaseException) -> None:
        """What the consumer could not do: end the worker where waiting does not help."""
        if isinstance(error, kafka_errors.OffsetOutOfRangeError):
            places = ", ".join(f"{tp.topic}-{tp.partition} at {at}" for tp, at in error.args[0].items())
            error = LaneStopped(
                f"an offset is not in its topic any more: {places}",
                "retention was too short, or records were deleted; `streamproc reset FILE --lane N --to …`",
            )
        if is_away(error):
            log.warning("the consumer met %s and tries again", type(error).__name__)
            return
        end_process(error)
