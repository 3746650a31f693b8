"""Checkpoints of the lanes of one worker: when they are written, and which of them may be used.

The changelog stays the truth. A checkpoint may be of an earlier owner of the lane and stay behind: what is read after
its offset brings it up to date. Three things would not: keys that were deleted since, where the broker has let go of
the tombstone, so an old one is left aside; another topic; and a log that is not the same any more up to that offset.
What is left aside once is removed: it might fit later, and still be wrong. Several workers share a folder: files are
replaced whole, and any of them is right.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors

from streamproc import metrics
from streamproc.core.state import Tables
from streamproc.errors import StreamprocError, UserError
from streamproc.kafka import checkpoint
from streamproc.kafka.admin import TopicInfo
from streamproc.kafka.changelogs import Changelogs
from streamproc.kafka.checkpoint import Header, Unusable
from streamproc.kafka.disk import Disk
from streamproc.kafka.held import Held
from streamproc.kafka.lane import Lane, LaneId
from streamproc.kafka.logged import NO_EPOCH

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = 0.01
"""Between blocks of a megabyte: a hundred a second at most."""
LEAVE_SECONDS: Final = 20.0
SILENT_SECONDS: Final = 20.0
"""A disk that gives no block of a megabyte for so long is not waited for."""
GAPS_SECONDS: Final = 10.0
EPOCHS_SECONDS: Final = 10.0
SWEEP_SECONDS: Final = 3600.0
UNFINISHED_SECONDS: Final = 3600.0
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
    changelogs: Changelogs
    _written: dict[LaneId, float] = field(default_factory=dict)  # the lane's moment that was written last
    _due: dict[LaneId, float] = field(default_factory=dict)
    _safe: dict[LaneId, float] = field(default_factory=dict)  # seconds for which tombstones are there for sure
    _swept: float = float("-inf")
    _asked: float = float("-inf")
    _failing: bool = False
    _reads: Disk = field(default_factory=Disk)
    _writes: Disk = field(default_factory=Disk)

    def prepare(self) -> None:
        """Make the folder. Raises UserError where that cannot be, or where nothing can be written to it."""
        hint = "name a directory that can be written to"
        try:
            _made(self.folder)
        except OSError as error:
            raise UserError(f"cannot make {self.folder}: {error.strerror}", hint) from error
        try:
            with tempfile.NamedTemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise UserError(f"cannot write to {self.folder}: {error.strerror}", hint) from error

    # -- reading ------------------------------------------------------------------------------------------------

    async def load(
        self,
        lanes: Collection[Lane],
        topics: Mapping[str, TopicInfo],
        limits: Mapping[TopicPartition, tuple[int, int]],
        progress: Callable[[], None],
    ) -> dict[TopicPartition, int]:
        """Fill the tables of lanes that have a checkpoint that may be used; from where each changelog is to be read."""
        found: dict[TopicPartition, tuple[Lane, Header, Tables]] = {}
        for lane in lanes:
            tp = TopicPartition(lane.agent.changelog(self.app), lane.partition)
            self._safe[lane.id] = _safe(topics[tp.topic])
            fits = partial(self._misfit, lane, topics[tp.topic], limits[tp], time.time())
            try:
                read = await self._read(self._path(lane), fits, progress)
            except Unusable as error:
                self._left_aside(lane, str(error))
            except TimeoutError:
                self._left_aside(lane, f"the disk does not answer for {SILENT_SECONDS:.0f} s, and is not asked again")
                self._reads = Disk()
                break
            else:
                if read is not None:
                    found[tp] = (lane, *read)
        ends = await self.changelogs.ends({tp: header.epoch for tp, (_, header, _) in found.items()})
        progress()
        since = {}
        for tp, (lane, header, tables) in found.items():
            if ends[tp] < header.offset:
                await self._reads.run(_remove, self._path(lane))
                self._left_aside(
                    lane, "the changelog is not known to be the same up to its offset: it has lost records since"
                )
                continue
            metrics.CHECKPOINTS.labels("used").inc()
            lane.tables, since[tp] = tables, header.offset
        return since

    async def _read(
        self, path: Path, fits: Callable[[Header], str | None], progress: Callable[[], None]
    ) -> tuple[Header, Tables] | None:
        """Raises Unusable, and TimeoutError where the disk is silent for long."""
        loop = asyncio.get_running_loop()
        moved = loop.time()

        def told() -> None:
            nonlocal moved
            moved = loop.time()
            progress()

        reading = asyncio.ensure_future(
            self._reads.run(_read_or_remove, path, fits, lambda: loop.call_soon_threadsafe(told))
        )
        try:
            while not (await asyncio.wait({reading}, timeout=LOOK_SECONDS))[0]:
                if loop.time() - moved > SILENT_SECONDS:
                    raise TimeoutError
        finally:
            reading.cancel()
        told()
        return reading.result()

    def _left_aside(self, lane: Lane, why: str) -> None:
        metrics.CHECKPOINTS.labels("unusable").inc()
        log.warning("the checkpoint %s is left aside, and all of the state restored: %s", self._path(lane), why)

    def _misfit(self, lane: Lane, topic: TopicInfo, limits: tuple[int, int], now: float, header: Header) -> str | None:
        low, high = limits
        safe = _safe(topic)
        if (header.app, header.agent, header.partition) != (self.app, lane.agent.name, lane.partition):
            return "it is another lane's"
        if not topic.topic_id:
            return "the broker gives topics no ids: the changelog may have been made anew since"
        if header.topic_id != topic.topic_id:
            return "the changelog was made anew since"
        if sorted(header.tables) != sorted(lane.tables.names):
            return "it has other tables"
        if not low <= header.offset <= high:
            return f"it is as of offset {header.offset}, and the changelog has {low} to {high}"
        if not 0 <= now - header.time <= safe:
            return f"it is {now - header.time:.0f} s old, and tombstones are there for sure for {safe:.0f} s"
        return None

    # -- writing ------------------------------------------------------------------------------------------------

    async def keep(self, held: Held) -> None:
        """Write what is due of the lanes that are held at the time, one after another, for ever."""
        while True:
            now = time.monotonic()
            if now - self._swept > SWEEP_SECONDS:
                self._swept = now
                await self.sweep()
            if now - self._asked > EPOCHS_SECONDS:
                self._asked = now
                await self.learn_epochs(list(held.lanes.values()))
            for lane in list(held.lanes.values()):
                due = self._due.setdefault(lane.id, now + self.seconds)
                if now >= due:
                    self._due[lane.id] = now + self.seconds
                    await self._write(lane, PAUSE_SECONDS)
            await asyncio.sleep(LOOK_SECONDS)

    def broker_is_back(self) -> None:
        """Leaders may be others: ask soon."""
        self._asked = float("-inf")

    async def leave(self, lanes: Iterable[Lane]) -> None:
        """Write those of lanes that nobody works on any more, after what is being written. Bounded in time."""
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                for lane in lanes:
                    await self._write(lane, 0.0)
        except TimeoutError:
            log.warning("not all checkpoints were written in %.0f s", LEAVE_SECONDS)

    async def sweep(self) -> None:
        """Remove what nobody has written for long. What cannot be removed stays."""
        now = time.time()
        try:
            await self._writes.run(
                checkpoint.remove_old, self.folder, self.app, now - KEPT_SECONDS, now - UNFINISHED_SECONDS
            )
        except OSError as error:
            log.warning("old checkpoints are not removed: %s", error)

    async def learn_epochs(self, lanes: Collection[Lane]) -> None:
        """What lanes write from now on is of these epochs at least. Where nobody says, they keep what they know."""
        names = sorted({lane.agent.changelog(self.app) for lane in lanes if lane.agent.tables})
        if not names:
            return
        try:
            epochs = await self.changelogs.leader_epochs(names)
        except StreamprocError as error:
            log.debug("the epochs of changelogs are not known: %s", error.message)
            return
        for lane in lanes:
            known = dict(enumerate(epochs.get(lane.agent.changelog(self.app), ())))
            if (epoch := known.get(lane.partition, NO_EPOCH)) > lane.epoch:
                log.debug("the changelog of lane %s/%d has a leader of epoch %d", *lane.id, epoch)
                lane.epoch = epoch

    async def _write(self, lane: Lane, pause: float) -> None:
        if not lane.agent.tables or lane.logged is None or self._written.get(lane.id) == lane.logged.time:
            return
        if not lane.logged.topic_id or (lane.logged.gaps and not await self._alone(lane)):
            return
        logged, entries = lane.logged, lane.tables.copied()  # both at once: nothing is committed in between
        names = list(lane.tables.names)
        header = Header(
            self.app, lane.agent.name, lane.partition, logged.topic_id, logged.offset, logged.time, names, logged.epoch
        )
        started = time.perf_counter()
        try:
            if await self._writes.run(_made, self.folder):
                log.warning("%s was gone: it is made again", self.folder)
                self._written.clear()
            size = await self._writes.run(checkpoint.write, self._path(lane), header, entries, pause)
        except OSError as error:
            metrics.CHECKPOINTS.labels("failed").inc()
            level = logging.DEBUG if self._failing else logging.WARNING  # once: it may fail for days
            log.log(level, "no checkpoint of lane %s/%d: %s", *lane.id, error)
            self._failing = True
            return
        if self._failing:
            log.warning("checkpoints are written again")
            self._failing = False
        self._written[lane.id] = logged.time
        metrics.CHECKPOINTS.labels("written").inc()
        seconds = time.perf_counter() - started
        log.debug("checkpoint of lane %s/%d: %d bytes in %.2f s", *lane.id, size, seconds)

    async def _alone(self, lane: Lane) -> bool:
        """Whether it is known by now that nobody else has written to a lane's changelog."""
        assert lane.logged is not None
        gaps = lane.logged.gaps
        tp = TopicPartition(lane.agent.changelog(self.app), lane.partition)
        fresh = time.time() - gaps[0].since <= self._safe.get(lane.id, SAFE * KEPT_SECONDS)  # else it may be gone
        try:
            async with asyncio.timeout(GAPS_SECONDS):
                alone = fresh and await self.changelogs.silent(tp, gaps)
        except (kafka_errors.KafkaError, TimeoutError, OSError) as error:
            log.debug("the changelog of lane %s/%d cannot be looked at: %s", *lane.id, type(error).__name__)
            return False
        if lane.logged is not None:  # there may be more by now
            lane.logged = lane.logged.without(gaps) if alone else None
        if not alone:
            log.warning(
                "somebody else may have written to the changelog of lane %s/%d: there are no checkpoints of it until it"
                " is opened again", *lane.id,
            )  # fmt: skip
        return lane.logged is not None and not lane.logged.gaps

    def _path(self, lane: Lane) -> Path:
        return checkpoint.path_of(self.folder, self.app, lane.agent.name, lane.partition)


def _safe(topic: TopicInfo) -> float:
    """For how many seconds a tombstone is there for sure."""
    return SAFE * float(topic.configs.get("delete.retention.ms", KEPT_SECONDS * 1000)) / 1000


def _read_or_remove(
    path: Path, fits: Callable[[Header], str | None], progress: Callable[[], object]
) -> tuple[Header, Tables] | None:
    try:
        return checkpoint.read(path, fits, progress)
    except Unusable:
        _remove(path)
        raise


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _made(folder: Path) -> bool:
    """Whether a folder had to be made. Raises OSError."""
    if folder.is_dir():
        return False
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return True
