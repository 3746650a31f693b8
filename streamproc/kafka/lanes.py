"""All lanes of one worker: what is assigned, what may be fetched, what runs, and the cycle that commits it.

The *epoch* counts assignments and travels with every fetched batch: one fetched before a rebalance is never run after
it. The *member* is who the worker was in the group at that time; the broker checks it at every commit.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import numpy as np
from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors

from streamproc import metrics
from streamproc.core.processor import NOTHING_SEEN, Answer, Ask, Effects
from streamproc.core.state import LANE_TABLE
from streamproc.errors import BrokerUnavailable, LaneStopped
from streamproc.kafka.agent import Agent, Answerer, SeenNow, by_topic
from streamproc.kafka.connection import Connection
from streamproc.kafka.cycle import Cycle, is_away
from streamproc.kafka.group import GroupOffsets, Member
from streamproc.kafka.lane import IDENTITY, Fetched, Lane, LaneId, Work
from streamproc.kafka.opening import Opener
from streamproc.kafka.outgoing import Router
from streamproc.kafka.steps import advance, begin
from streamproc.kafka.vitals import Fetcher, Vitals
from streamproc.kafka.watchdog import Watchdog, end_process

log = logging.getLogger(__name__)
BEAT_SECONDS = 1.0
GATHER_SECONDS = 0.03
PASSED_BEATS = 30
POLL_SECONDS = 5.0
AWAY_SECONDS = 0.5

Result = TypeVar("Result")


async def no_answers(asks: Sequence[Ask]) -> list[Answer]:
    """For processors that ask nothing."""
    raise LookupError(f"nobody answers {asks[0]!r:.80}")


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """``watchdog``: seconds that a lane may have work without progress. ``revoke``: seconds that a rebalance waits
    for the transaction in flight. ``drain``: seconds that a graceful stop waits for batches in flight."""

    watchdog: float = 60.0
    revoke: float = 20.0
    drain: float = 30.0


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
        self._answerer, self._seen, self._settings = answerer, seen, settings
        self._owner = f"{app}-{worker}"
        self._steps = ThreadPoolExecutor(1, "processor")
        self._encoder = ThreadPoolExecutor(1, "encoder")
        self._group = GroupOffsets(connection, app)
        self._cycle = Cycle(connection, self._group, app, self._owner, self._encoder)
        self._opener = Opener(connection, self._group, app, self._owner)
        self._router = Router(connection, dead_letters)
        self._written = {dead_letters, *(topic for agent in agents for topic in agent.writes)}
        self._watchdog = Watchdog(self.stuck, settings.watchdog)
        self._lanes: dict[LaneId, Lane] = {}
        self._kept: dict[LaneId, Lane] = {}
        self._epoch = 0
        self._member: Member | None = None
        self._fetcher: Fetcher | None = None
        self._opening: asyncio.Task[None] | None = None
        self._vitals = Vitals(self._cycle.broker)
        self._tasks: list[asyncio.Task[None]] = []
        self._finished = asyncio.Event()
        self._freed = asyncio.Event()
        self._timed = asyncio.Event()
        self._committed = asyncio.Event()
        self._closing = False

    # -- life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, and begin to commit. Waits for a broker that is away."""
        await self._waiting(self._group.start)
        await self._cycle.start()
        await self._waiting(partial(self._router.learn, self._written))
        self._cycle.broker.on_back = lambda: self._vitals.refresh(self._lanes)
        self._watchdog.start()
        self._tasks = [
            asyncio.create_task(self._guard(routine()), name=routine.__name__)
            for routine in (self._commit_cycles, self._tick_lanes, self._beat)
        ]

    async def stop(self) -> None:
        """Finish the batches in flight, commit them, and let go. Bounded by ``settings.drain``."""
        self._closing = True
        try:
            async with asyncio.timeout(self._settings.drain):
                await self._all(lambda lane: lane.idle)
        except TimeoutError:
            log.warning("batches in flight did not finish in %.0f s: they are given up", self._settings.drain)
        self._watchdog.stop()
        for task in [*self._tasks, *([self._opening] if self._opening else [])]:
            task.cancel()
        self._epoch += 1
        for lane in self._lanes.values():
            lane.drop_work()
        await self._cycle.stop()
        await self._group.stop()
        self._steps.shutdown(wait=False, cancel_futures=True)
        self._encoder.shutdown(wait=False, cancel_futures=True)

    async def _guard(self, routine: Awaitable[None]) -> None:
        try:
            await routine
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            end_process(error)

    # -- the group ----------------------------------------------------------------------------------------------

    async def revoke(self) -> None:
        """All lanes are taken away (rebalances are eager): let the transaction in flight end, drop the rest."""
        self._epoch += 1
        self._vitals.opening = None
        if self._opening is not None:
            self._opening.cancel()
        for lane in self._lanes.values():
            committing = lane.committing
            lane.drop_work()
            lane.committing = committing
        async with asyncio.timeout(self._settings.revoke):
            await self._all(lambda lane: lane.committing is None)
        self._kept, self._lanes = self._kept | self._lanes, {}
        self._committed.set()

    def assign(self, partitions: Collection[TopicPartition], member: Member, fetcher: Fetcher) -> None:
        """Note what is ours now; opening it goes on outside the rebalance callback."""
        metrics.REBALANCES.inc()
        if self._closing:
            return
        self._member, self._fetcher = member, fetcher
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
        self._vitals.opening = time.monotonic()
        self._opening = asyncio.create_task(self._guard(self._open(self._epoch, wanted, member)), name="opening")

    async def _waiting(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """Try until the broker is there. What waiting does not mend is raised."""
        while True:
            try:
                return await attempt()
            except (BrokerUnavailable, kafka_errors.KafkaError) as error:
                if not is_away(error):
                    raise
                self._cycle.broker.away(error)
                await asyncio.sleep(AWAY_SECONDS)

    async def _open(self, epoch: int, wanted: Mapping[LaneId, Agent], member: Member) -> None:
        def progress() -> None:
            self._vitals.opening = time.monotonic()

        lanes = await self._waiting(lambda: self._opener.open(wanted, self._kept, member, progress))
        self._cycle.broker.back()
        if epoch != self._epoch:
            return
        assert self._fetcher is not None
        await self._fetcher.seek_all({tp: offset for lane in lanes.values() for tp, offset in lane.positions.items()})
        if epoch != self._epoch:
            return
        self._kept, self._lanes = {}, lanes
        self._vitals.opening = None
        self._vitals.polled = time.monotonic()
        now = datetime.now(UTC)
        for lane in lanes.values():
            lane.progressed, lane.behind_since = time.monotonic(), None
            lane.wake_at = now  # the first tick lets the processor say when it wants to be woken
        self._freed.set()
        self._timed.set()

    # -- fetching -----------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        return self._epoch

    def wanted(self) -> set[TopicPartition]:
        """The partitions of lanes that have nothing waiting: only these are fetched."""
        if self._closing:
            return set()
        return {tp for lane in self._lanes.values() if lane.free for tp in lane.positions}

    async def until_wanted(self, seconds: float) -> None:
        """Wait until a lane is free, or for the time given."""
        self._freed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._freed.wait()
        except TimeoutError:
            pass

    def fetched(
        self,
        epoch: int,
        records: Mapping[TopicPartition, Sequence[Any]],
        positions: Mapping[TopicPartition, int],
    ) -> list[Fetched]:
        """Group what aiokafka gave by lane, and mark the lanes as busy. Drops it all if a rebalance came between.

        ``positions`` are the consumer's after this fetch, of every partition that was wanted.
        """
        self._vitals.polled = time.monotonic()
        if epoch != self._epoch:
            return []
        by_lane: dict[LaneId, dict[TopicPartition, Sequence[Any]]] = {}
        for tp, batch in records.items():
            if batch:
                by_lane.setdefault(LaneId(self._readers[tp.topic].name, tp.partition), {})[tp] = batch
        for tp, position in positions.items():
            lane = self._lanes[LaneId(self._readers[tp.topic].name, tp.partition)]
            if not records.get(tp) and lane.free and position > lane.reached()[tp]:
                lane.passed[tp] = position
        for lane_id in by_lane:
            lane = self._lanes[lane_id]
            lane.fetching, lane.progressed = True, self._vitals.polled
        return [Fetched(lane_id, epoch, batch) for lane_id, batch in by_lane.items()]

    def take(self, fetched: Fetched) -> None:
        """Run a fetched batch on its lane: called by the Faust agent."""
        lane = self._lanes.get(fetched.lane)
        if lane is None or fetched.epoch != self._epoch:
            return
        lane.fetching = False
        lane.parked = fetched
        self._next(lane)

    # -- running ------------------------------------------------------------------------------------------------

    def _next(self, lane: Lane) -> None:
        """Run what is due on a lane that can: a tick goes before a batch, or load would put it off for ever."""
        if not lane.open:
            return
        if lane.wake_at is not None and lane.wake_at <= datetime.now(UTC) and not self._closing:
            lane.wake_at = None
            self._run(lane, None)
        elif lane.parked is not None:
            fetched, lane.parked = lane.parked, None
            self._run(lane, fetched)

    def _run(self, lane: Lane, fetched: Fetched | None) -> None:
        assert lane.open, "two batches of one lane at once"
        lane.progressed = time.monotonic()
        lane.computing = asyncio.create_task(self._guard(self._compute(lane, self._epoch, fetched)))

    async def _compute(self, lane: Lane, epoch: int, fetched: Fetched | None) -> None:
        assert self._member is not None
        member, started, view = self._member, time.perf_counter(), lane.view()
        reached, now, seen = lane.reached(), datetime.now(UTC), self._seen()
        place = partial(self._router.place, lane.partition)
        begun = await self._in_thread(begin, lane, fetched, view, reached, seen, now, place)
        positions, timestamps, steps, step = begun
        while step.asks is not None:
            asked = time.perf_counter()
            answers = await self._answerer(step.asks)
            metrics.ANSWER.labels(type(step.asks[0]).__name__.lower()).observe(time.perf_counter() - asked)
            step = await self._in_thread(advance, steps, answers, place)
        effects, outgoing = step.effects, step.outgoing
        if outgoing is None:
            outgoing = await self._waiting(partial(self._router.route, lane.partition, effects))
        if lane.remembered != lane.identity:
            effects = replace(effects, state={**effects.state, LANE_TABLE: {IDENTITY: lane.identity}})
        if epoch != self._epoch:
            return
        metrics.COMPUTE.labels(lane.agent.name).observe(time.perf_counter() - started)
        lane.computing = None
        if effects.wake_at is not None and (lane.wake_at is None or effects.wake_at < lane.wake_at):
            lane.wake_at = effects.wake_at
            self._timed.set()
        if positions == reached and not outgoing and not effects.state:
            self._free(lane, progressed=True)
            return
        lane.passed = {}
        lane.waiting = Work(lane, member, positions, effects, outgoing, timestamps)
        self._finished.set()

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._steps, function, *args)

    def _free(self, lane: Lane, *, progressed: bool) -> None:
        if progressed:
            lane.progressed = time.monotonic()
        if self._lanes.get(lane.id) is lane:
            self._next(lane)
        self._freed.set()
        self._committed.set()

    async def _tick_lanes(self) -> None:
        while True:
            now = datetime.now(UTC)
            due = [lane for lane in self._lanes.values() if lane.wake_at is not None and lane.wake_at <= now]
            for lane in due:
                self._next(lane)
            later = [lane.wake_at for lane in self._lanes.values() if lane.wake_at and lane.wake_at > now]
            pause = max((min(later) - now).total_seconds(), 0.001) if later else None
            try:
                async with asyncio.timeout(pause):
                    await self._timed.wait()
            except TimeoutError:
                pass
            self._timed.clear()

    # -- committing ---------------------------------------------------------------------------------------------

    async def _commit_cycles(self) -> None:
        while True:
            await self._finished.wait()
            await self._gather()
            self._finished.clear()
            works = []
            for lane in self._lanes.values():
                if lane.waiting is not None:
                    lane.committing, lane.waiting = lane.waiting, None
                    works.append(lane.committing)
                    self._next(lane)
            if not works:
                continue
            self._freed.set()
            done = await self._cycle.commit(works, self._router.limits)
            if done:
                for work in works:
                    work.lane.committed(work)
                    _observe(work)
            else:
                await self._run_again(works)
            for work in works:
                self._free(work.lane, progressed=done)

    async def _gather(self) -> None:
        """Let lanes that are computing now come along: a transaction costs the same for one lane as for all."""
        try:
            async with asyncio.timeout(GATHER_SECONDS):
                while any(lane.computing is not None for lane in self._lanes.values() if lane.waiting is None):
                    self._finished.clear()
                    await self._finished.wait()
        except TimeoutError:
            pass

    async def _run_again(self, works: Sequence[Work]) -> None:
        """A transaction came to nothing: everything goes back to the committed offsets and is run again."""
        for work in works:
            work.lane.committing = None
        if any(self._lanes.get(work.lane.id) is not work.lane for work in works):
            return  # revoked meanwhile: whoever owns them now begins at the committed offsets
        self._epoch += 1
        for lane in self._lanes.values():
            lane.drop_work()
            lane.wake_at = datetime.now(UTC)  # a tick may have been among it
        self._timed.set()
        assert self._fetcher is not None
        await self._fetcher.seek_all({tp: at for lane in self._lanes.values() for tp, at in lane.positions.items()})

    async def _all(self, condition: Callable[[Lane], bool]) -> None:
        while not all(map(condition, self._lanes.values())):
            self._committed.clear()
            await self._committed.wait()

    # -- health -------------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        beats = 0
        while True:
            self._watchdog.beat()
            await self._poll()
            self._vitals.look(self._lanes)
            beats += 1
            if beats % PASSED_BEATS == 0:
                self._commit_passed()
            await asyncio.sleep(BEAT_SECONDS)

    async def _poll(self) -> None:
        """Faust polls only while there is something to fetch; a worker that stands by must stay in the group too."""
        if self._fetcher is None or self._closing:
            return
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._fetcher.poll()
        except TimeoutError:
            log.warning("the consumer does not answer")
        except kafka_errors.KafkaError as error:
            self.fail(error)

    def _commit_passed(self) -> None:
        """Commit how far idle lanes went over markers: a position before them would look lost once they are deleted."""
        for lane in self._lanes.values():
            if lane.free and lane.idle and lane.passed and self._member is not None:
                lane.waiting = Work(lane, self._member, lane.reached(), Effects(), {})
                lane.passed = {}
                self._finished.set()

    def stuck(self, seconds: float) -> str | None:
        """See ``Vitals.stuck``."""
        return self._vitals.stuck(self._lanes, seconds)

    def health(self) -> dict[str, Any]:
        """For ``/healthz``: whether all is well, and the state of every lane."""
        return self._vitals.health(self._lanes, min(self._settings.watchdog / 2, 15.0))

    def set_gauges(self) -> None:
        """Bring the gauges up to date."""
        self._vitals.set_gauges(self._lanes)

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


def _observe(work: Work) -> None:
    metrics.count(dict(work.effects.counts))
    if work.timestamps is not None:
        metrics.LATENCY.observe(np.maximum(time.time() - work.timestamps / 1000.0, 0.0))
