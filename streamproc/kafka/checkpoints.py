"""Checkpoints of the lanes of one worker: when they are written, and which of them may be used.

The changelog stays the truth. A checkpoint may be of an earlier owner of the lane and stay behind: what is read after
its offset brings it up to date. Two things would not: keys that were deleted since, where the broker has let go of the
tombstone, so an old one is left aside; and another topic. Several workers share a folder: files are replaced whole, and
any of them is right.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from aiokafka import TopicPartition

from streamproc import metrics
from streamproc.errors import UserError
from streamproc.kafka import checkpoint
from streamproc.kafka.admin import TopicInfo
from streamproc.kafka.checkpoint import Header, Unusable
from streamproc.kafka.held import Held
from streamproc.kafka.lane import Lane, LaneId

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = 0.01
"""Between blocks of a megabyte: a hundred a second at most."""
LEAVE_SECONDS: Final = 20.0
SWEEP_SECONDS: Final = 3600.0
SAFE: Final = 0.5
"""The part of the time for which a broker keeps tombstones in which a checkpoint may be used: clocks differ."""
KEPT_SECONDS: Final = 86_400.0
"""For how long a broker keeps tombstones where its topic does not say, which is Kafka's own default."""


@dataclass(slots=True)
class Checkpoints:
    """Writes and reads checkpoints under ``folder``, every lane's after ``seconds`` at most where it has changed."""

    folder: Path
    app: str
    seconds: float
    _written: dict[LaneId, float] = field(default_factory=dict)  # the lane's moment that was written last
    _due: dict[LaneId, float] = field(default_factory=dict)
    _swept: float = float("-inf")

    def prepare(self) -> None:
        """Make the folder. Raises UserError where that cannot be."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            hint = "name a directory that can be written to"
            raise UserError(f"cannot make {self.folder}: {error.strerror}", hint) from error

    async def load(
        self,
        lanes: Collection[Lane],
        topics: Mapping[str, TopicInfo],
        limits: Mapping[TopicPartition, tuple[int, int]],
        progress: Callable[[], None],
    ) -> dict[TopicPartition, int]:
        """Fill the tables of lanes that have a checkpoint that may be used; from where each changelog is to be read."""
        since = {}
        for lane in lanes:
            tp = TopicPartition(lane.agent.changelog(self.app), lane.partition)
            fits = partial(self._misfit, lane, topics[tp.topic], limits[tp], time.time())
            path = self._path(lane)
            try:
                found = await asyncio.to_thread(checkpoint.read, path, fits)
            except Unusable as error:
                metrics.CHECKPOINTS.labels("unusable").inc()
                log.warning("the checkpoint %s is left aside, and all of the state restored: %s", path, error)
                continue
            progress()
            if found is not None:
                header, tables = found
                metrics.CHECKPOINTS.labels("used").inc()
                lane.tables, since[tp] = tables, header.offset
        return since

    def _misfit(self, lane: Lane, topic: TopicInfo, limits: tuple[int, int], now: float, header: Header) -> str | None:
        low, high = limits
        safe = SAFE * float(topic.configs.get("delete.retention.ms", KEPT_SECONDS * 1000)) / 1000
        if (header.app, header.agent, header.partition) != (self.app, lane.agent.name, lane.partition):
            return "it is another lane's"
        if header.topic_id != topic.topic_id:
            return "the changelog was made anew since"
        if sorted(header.tables) != sorted(lane.tables.names):
            return "it has other tables"
        if not low <= header.offset <= high:
            return f"it is as of offset {header.offset}, and the changelog has {low} to {high}"
        if not 0 <= now - header.time <= safe:
            return f"it is {now - header.time:.0f} s old, and tombstones are there for sure for {safe:.0f} s"
        return None

    async def keep(self, held: Held) -> None:
        """Write what is due of the lanes that are held at the time, one after another, for ever."""
        while True:
            now = time.monotonic()
            if now - self._swept > SWEEP_SECONDS:
                self._swept = now
                await asyncio.to_thread(checkpoint.remove_old, self.folder, self.app, time.time() - KEPT_SECONDS)
            for lane in list(held.lanes.values()):
                due = self._due.setdefault(lane.id, now + self.seconds)
                if now >= due:
                    self._due[lane.id] = now + self.seconds
                    await self._write(lane, PAUSE_SECONDS)
            await asyncio.sleep(LOOK_SECONDS)

    async def leave(self, lanes: Iterable[Lane]) -> None:
        """Write those of lanes that nobody works on any more. Bounded in time."""
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                for lane in lanes:
                    await self._write(lane, 0.0)
        except TimeoutError:
            log.warning("not all checkpoints were written in %.0f s", LEAVE_SECONDS)

    async def _write(self, lane: Lane, pause: float) -> None:
        if not lane.agent.tables or lane.logged is None or self._written.get(lane.id) == lane.logged.time:
            return
        logged, entries = lane.logged, lane.tables.copied()  # both at once: nothing is committed in between
        names = lane.tables.names
        header = Header(
            self.app, lane.agent.name, lane.partition, logged.topic_id, logged.offset, logged.time, list(names)
        )
        started = time.perf_counter()
        try:
            size = await asyncio.to_thread(checkpoint.write, self._path(lane), header, entries, pause)
        except OSError as error:
            metrics.CHECKPOINTS.labels("failed").inc()
            log.warning("no checkpoint of lane %s/%d: %s", *lane.id, error)
            return
        self._written[lane.id] = logged.time
        metrics.CHECKPOINTS.labels("written").inc()
        seconds = time.perf_counter() - started
        log.debug("checkpoint of lane %s/%d: %d bytes in %.2f s", *lane.id, size, seconds)

    def _path(self, lane: Lane) -> Path:
        return self.folder / f"{self.app}.{lane.agent.name}.{lane.partition}{checkpoint.SUFFIX}"
