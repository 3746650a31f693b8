"""Runs what is due on a worker's lanes, and commits what they come to, one transaction after another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from streamproc import metrics
from streamproc.core.processor import Answer, Ask
from streamproc.core.state import LANE_TABLE
from streamproc.errors import FencedOffsets
from streamproc.kafka.agent import Answerer, SeenNow
from streamproc.kafka.cycle import Cycle
from streamproc.kafka.held import Held
from streamproc.kafka.lane import FEW_RECORDS, IDENTITY, Lane, Share, Work
from streamproc.kafka.outgoing import Router
from streamproc.kafka.pace import Pace
from streamproc.kafka.steps import advance, begin
from streamproc.kafka.watchdog import guard

WORK_EVENTS = 8_000
"""A work takes no further lane when it has so many."""


async def no_answers(asks: Sequence[Ask]) -> list[Answer]:
    """For processors that ask nothing."""
    raise LookupError(f"nobody answers {asks[0]!r:.80}")


class Runner:
    """Takes lanes from what they have to what is committed. The processors' steps run in a thread of its own.

    ``due`` is when the next work of those agents may begin that put none off, in monotonic seconds.
    """

    def __init__(
        self,
        held: Held,
        cycle: Cycle,
        router: Router,
        answerer: Answerer,
        seen: SeenNow,
        on_fenced: Callable[[FencedOffsets], None],
    ) -> None:
        self._held, self._cycle, self._router, self._on_fenced = held, cycle, router, on_fenced
        self._answerer, self._seen = answerer, seen
        self._steps = ThreadPoolExecutor(1, "processor")
        self._beginning: dict[str, Work] = {}
        self._works: list[Work] = []
        self._pace = Pace()
        self._due: dict[str, float] = {}
        self.due = 0.0
        self._waiting: dict[str, asyncio.Task[None]] = {}
        self._finished = asyncio.Event()
        self._timed = asyncio.Event()

    def stop(self) -> None:
        """Forget what is not committed, and let the thread end."""
        self.drop(self._held.lanes.values())
        self._wait_no_more()
        self._steps.shutdown(wait=False, cancel_futures=True)

    def drop(self, lanes: Iterable[Lane]) -> None:
        """Forget everything that is not committed. ``lanes`` are all that there are."""
        for lane in lanes:
            lane.drop_work()
        self._works.clear()
        self._beginning.clear()

    def wake(self) -> None:
        """The lanes are new: the first tick lets each processor say when it wants to be woken."""
        now = datetime.now(UTC)
        for lane in self._held.lanes.values():
            lane.wake_at = now
        self._timed.set()

    @property
    def at_rest(self) -> bool:
        """Whether nothing is computed and no transaction is under way: what comes now has nothing to wait for."""
        return not self._beginning and not self._works and self._pace.since is None

    def next(self, agent: str) -> None:
        """Run what is due on the lanes of an agent that can, together: a batch costs the same for one lane as for all.

        On each lane a tick goes before a batch, or load would put it off for ever. One work of an agent begins at a
        time, none while a finished one waits for its transaction, and under a transaction none before it has to. What
        is due meanwhile comes along, so works are small when idle and large when behind.
        """
        if agent in self._beginning or any(work.agent.name == agent for work in self._works):
            return
        now = datetime.now(UTC)
        own = (lane for lane in self._held.lanes.values() if lane.agent.name == agent and lane.open)
        ready = [lane for lane in own if lane.parked is not None or self._ticks(lane, now)]
        if not ready:
            return
        much = sum(lane.waiting_records for lane in ready) >= FEW_RECORDS
        wait = self._pace.wait(agent, time.monotonic(), patience=ready[0].agent.patience, much=much)
        if wait > 0.0:
            if agent not in self._waiting:
                self._waiting[agent] = asyncio.create_task(guard(self._wait(agent, wait)), name="waiting")
            return
        shares, events = list[Share](), 0
        for lane in ready:
            if self._ticks(lane, now):
                lane.wake_at = None
                shares.append(Share.of(lane, None))
            elif events < WORK_EVENTS:
                events += lane.waiting_records
                shares.append(Share.of(lane, lane.parked))
                lane.parked = None
        assert self._held.member is not None
        work = Work(shares[0].lane.agent, self._held.member, shares)
        self._beginning[agent] = work
        self._pace.starts(agent, time.monotonic())
        if not work.agent.patience:
            self._due[agent] = 0.0 if much else self._pace.due(agent)
            self.due = min(self._due.values())
        computing = asyncio.create_task(guard(self._compute(work, self._held.epoch)))
        for share in shares:
            share.lane.progressed, share.lane.computing = time.monotonic(), computing

    def _ticks(self, lane: Lane, now: datetime) -> bool:
        return lane.wake_at is not None and lane.wake_at <= now and not self._held.closing

    async def _wait(self, agent: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        del self._waiting[agent]
        self.next(agent)

    def _wait_no_more(self) -> None:
        for waiting in self._waiting.values():
            waiting.cancel()
        self._waiting.clear()

    async def _compute(self, work: Work, epoch: int) -> None:
        agent, started = work.agent.name, time.perf_counter()
        try:
            steps, step = await self._in_thread(begin, work, self._seen(), datetime.now(UTC), self._router.place)
        finally:
            if self._beginning.get(agent) is work:
                del self._beginning[agent]
        if step.asks is not None:
            self.next(agent)
        while step.asks is not None:
            answers = await self._answer(step.asks)
            step = await self._in_thread(advance, work, steps, answers, self._router.place)
        outgoing = step.outgoing
        if outgoing is None:
            outgoing = await self._cycle.broker.waiting(partial(self._router.route, work.effects()))
        if epoch != self._held.epoch:
            return
        work.outgoing = outgoing
        seconds = time.perf_counter() - started
        metrics.COMPUTE.labels(agent).observe(seconds)
        self._pace.worked(agent, seconds)
        for share in work.shares:
            self._finish(share)
        done = [share for share in work.shares if share.idle]
        work.shares = [share for share in work.shares if not share.idle]
        if work.shares:
            self.hand_over(work)
        self._free(done, progressed=True)
        self.next(agent)

    async def _answer(self, asks: list[Ask]) -> list[Answer]:
        if not asks:
            return []
        asked = time.perf_counter()
        answers = await self._answerer(asks)
        metrics.ANSWER.labels(type(asks[0]).__name__.lower()).observe(time.perf_counter() - asked)
        return answers

    def _finish(self, share: Share) -> None:
        lane, effects = share.lane, share.effects
        lane.computing = None
        if lane.remembered != lane.identity:
            share.effects = replace(effects, state={**effects.state, LANE_TABLE: {IDENTITY: lane.identity}})
        if effects.wake_at is not None and (lane.wake_at is None or effects.wake_at < lane.wake_at):
            lane.wake_at = effects.wake_at
            self._timed.set()

    def hand_over(self, work: Work) -> None:
        """What is computed waits for the next transaction."""
        for share in work.shares:
            share.lane.passed = {}
            share.lane.waiting = share
        self._cycle.encode(work, self._router.limits)
        self._works.append(work)
        self._finished.set()

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._steps, function, *args)

    def _free(self, shares: Sequence[Share], *, progressed: bool) -> None:
        if progressed:
            now = time.monotonic()
            for share in shares:
                share.lane.progressed = now
        self._held.free()
        self._held.settled.set()

    def next_of_all(self) -> None:
        """The same for every agent."""
        for agent in {lane.agent.name for lane in self._held.lanes.values()}:
            self.next(agent)

    async def tick_lanes(self) -> None:
        """Wake lanes when their time has come, for ever."""
        while True:
            now = datetime.now(UTC)
            self.next_of_all()
            later = [lane.wake_at for lane in self._held.lanes.values() if lane.wake_at and lane.wake_at > now]
            pause = max((min(later) - now).total_seconds(), 0.001) if later else None
            try:
                async with asyncio.timeout(pause):
                    await self._timed.wait()
            except TimeoutError:
                pass
            self._timed.clear()

    async def commit_cycles(self) -> None:
        """Commit what is finished, for ever: as many works at a time as have come together meanwhile."""
        while True:
            await self._finished.wait()
            self._finished.clear()
            works, self._works = self._works, []
            if not works:
                continue
            shares = [share for work in works for share in work.shares]
            for share in shares:
                share.lane.committing, share.lane.waiting = share, None
            self._pace.begins(time.monotonic())
            self.next_of_all()
            self._held.free()
            epoch = self._held.epoch
            try:
                done = await self._cycle.commit(works)
            except FencedOffsets as error:
                self._over()
                for share in shares:
                    share.lane.committing = None
                if epoch == self._held.epoch:
                    self._on_fenced(error)
                self._free(shares, progressed=False)
                continue
            self._over()
            if done:
                for share in shares:
                    share.lane.committed(share)
                for work in works:
                    _observe(work)
            else:
                await self._run_again(shares)
            self._free(shares, progressed=done)
            self.next_of_all()

    def _over(self) -> None:
        """A transaction is: nobody waits for its end any more."""
        self._pace.ends(time.monotonic())
        self._wait_no_more()

    async def _run_again(self, shares: Sequence[Share]) -> None:
        """A transaction came to nothing: everything goes back to the committed offsets and is run again."""
        for share in shares:
            share.lane.committing = None
        if any(self._held.lanes.get(share.lane.id) is not share.lane for share in shares):
            return  # revoked meanwhile: whoever owns them now begins at the committed offsets
        self._held.epoch += 1
        self.drop(self._held.lanes.values())
        self.wake()  # a tick may have been among it
        await self._held.seek(self._held.lanes.values())


def _observe(work: Work) -> None:
    for share in work.shares:
        metrics.count(dict(share.effects.counts))
    if work.timestamps is not None:
        metrics.LATENCY.observe(work.agent.name, np.maximum(time.time() - work.timestamps / 1000.0, 0.0))
