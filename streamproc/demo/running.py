"""A demonstration from the first event to the last figure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from streamproc.demo.events import Events, produce
from streamproc.demo.show import Say, Show
from streamproc.demo.surroundings import Child, Worker, until_ready
from streamproc.demo.tally import Tally, deciding, following, reader, recount
from streamproc.errors import StreamprocError
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.pipeline import Pipeline

if TYPE_CHECKING:
    from streamproc.demo.by_http import ByHttp

REFRESH_SECONDS: Final = 0.2
Watching = Callable[[], AbstractContextManager[Callable[[], None]]]
"""Where people watch: what is to be called now and then while events are decided."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """Sends, watches and counts, and lets happen what is shown."""

    show: Show
    pipeline: Pipeline
    connection: Connection
    events: Events
    tally: Tally
    worker: Worker
    rate: float | None
    http: ByHttp | None = None

    async def run(self, say: Say, watching: Watching) -> dict[str, Any] | None:
        """The measures that it came to. Raises EnvironmentFault where a process ends that should not."""
        plan = self.pipeline.plan
        await until_ready(self.connection, plan, self.worker)
        if self.http is not None:
            await self.http.door.until_ready()
        try:
            async with self.show.happening(self.connection, plan, self.worker, say):
                await self._decide(watching)
        except BaseExceptionGroup as group:
            if (fault := _fault(group)) is not None:
                raise fault from group
            raise
        return await self.show.came_to(self.connection, plan)

    async def _decide(self, watching: Watching) -> None:
        plan, tally = self.pipeline.plan, self.tally
        children: list[Child] = [self.worker] if self.http is None else [self.worker, self.http.door]
        async with reader(self.connection, deciding(plan)) as consumer:
            tally.started = tally.finished = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                counting = group.create_task(recount(consumer, plan, tally, children))
                group.create_task(self._send())
                with watching() as look:
                    while not counting.done():
                        look()
                        await asyncio.wait({counting}, timeout=REFRESH_SECONDS)
                    look()
        async with reader(self.connection, following(plan)) as consumer:
            await recount(consumer, plan, tally, children)

    async def _send(self) -> None:
        topic, http = self.pipeline.plan.events.input, self.http
        if http is None:
            await produce(self.connection, topic, self.events, self.rate)
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(produce(self.connection, topic, self.events, self.rate, http.both.chosen))
            group.create_task(http.callers.run())
        ends = await admin.watermarks(self.connection, topic)
        http.both.written = sum(end for _, end in ends.values())


def _fault(group: BaseExceptionGroup[Any]) -> StreamprocError | None:
    """What ended a group of tasks, where that is no bug."""
    for error in group.exceptions:
        found = _fault(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, StreamprocError):
            return found
    return None
