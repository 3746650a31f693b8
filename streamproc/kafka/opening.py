"""Opening lanes after an assignment: stable offsets, state, and a claim before any work.

None of it happens in the rebalance callback: aiokafka sends no heartbeat while that runs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import orjson
from aiokafka import TopicPartition

from streamproc import metrics
from streamproc.core.state import LANE_TABLE, Tables
from streamproc.errors import LaneStopped
from streamproc.kafka import admin, failpoints
from streamproc.kafka.agent import Agent
from streamproc.kafka.checkpoints import Checkpoints
from streamproc.kafka.connection import Connection
from streamproc.kafka.failpoints import failpoint
from streamproc.kafka.group import UNKNOWN_OFFSET, Claim, Committed, GroupOffsets, Member
from streamproc.kafka.lane import Lane, LaneId
from streamproc.kafka.logged import Logged
from streamproc.kafka.producer import end_transactions_of
from streamproc.kafka.restore import bounds, restore

log = logging.getLogger(__name__)

UNSTABLE_SECONDS = 0.3
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens lanes for one worker."""

    connection: Connection
    group: GroupOffsets
    app: str
    owner: str
    checkpoints: Checkpoints | None = None

    async def open(
        self,
        wanted: Mapping[LaneId, Agent],
        kept: Mapping[LaneId, Lane],
        member: Member,
        progress: Callable[[], None],
    ) -> dict[LaneId, Lane]:
        """Lanes ready to run, claimed as ours. ``kept`` are lanes as they were before the rebalance.

        Raises LaneStopped where going on would lose or repeat something, FencedOffsets when the group moved on.
        """
        started, moment = time.monotonic(), time.time()
        partitions = {
            TopicPartition(topic, lane.partition): lane for lane, agent in wanted.items() for topic in agent.topics
        }
        if not wanted:
            return {}
        changelogs = {agent.changelog(self.app): agent.topics[0] for agent in wanted.values()}
        names = {topic for topic, _ in partitions} | set(changelogs)
        of_state = [TopicPartition(agent.changelog(self.app), lane.partition) for lane, agent in wanted.items()]
        topics = await admin.describe(self.connection, sorted(names))
        progress()
        _check_changelogs(changelogs, topics)
        committed = await self._stable(partitions, progress)
        for tp, entry in committed.items():
            check_topic(tp, entry.claim, topics[tp.topic])
        limits = await bounds(self.connection, [*partitions, *of_state])
        lanes = {}
        for lane_id, agent in wanted.items():
            mine = [TopicPartition(topic, lane_id.partition) for topic in agent.topics]
            lane = kept.get(lane_id)
            if lane is None or not _still_ours(lane, committed):
                lane = self._fresh(lane_id, agent, {tp: committed[tp] for tp in mine}, limits, topics)
            lanes[lane_id] = lane
        fresh = [lane for lane_id, lane in lanes.items() if lane is not kept.get(lane_id)]
        since = {} if self.checkpoints is None else await self.checkpoints.load(fresh, topics, limits, progress)
        read, ends = await self._restore(fresh, since, progress)
        self._check_begun(fresh)
        await self._claim(fresh, member)
        for lane in fresh:
            tp = TopicPartition(lane.agent.changelog(self.app), lane.partition)
            lane.epoch = topics[tp.topic].epochs[tp.partition]
            lane.logged = Logged(topics[tp.topic].topic_id, ends[tp], moment, lane.epoch)
        if fresh:
            log.info(
                "opened %d lanes (%d kept, %d from checkpoints) in %.2f s, %d changelog records read",
                len(lanes), len(lanes) - len(fresh), len(since), time.monotonic() - started, read,
            )  # fmt: skip
        return lanes

    async def _stable(
        self, partitions: Collection[TopicPartition], progress: Callable[[], None]
    ) -> dict[TopicPartition, Committed]:
        """Committed offsets with no transaction pending; ends the transactions of owners that died in one."""
        started, ended, before = time.monotonic(), set[str](), len(partitions)
        while True:
            committed = await self.group.fetch(partitions, stable=True)
            pending = set(partitions) - set(committed)
            if not pending:
                return committed
            if time.monotonic() - started > UNSTABLE_SECONDS:
                last = await self.group.fetch(pending, stable=False)
                owners = {entry.claim.owner for entry in last.values() if entry.claim is not None}
                for owner in owners - ended - {self.owner}:
                    log.warning("ending the transaction that %s left open", owner)
                    await end_transactions_of(self.connection, owner)
                    ended.add(owner)
            if len(pending) < before:
                before = len(pending)
                progress()
            await asyncio.sleep(POLL_SECONDS)

    def _fresh(
        self,
        lane_id: LaneId,
        agent: Agent,
        committed: Mapping[TopicPartition, Committed],
        limits: Mapping[TopicPartition, tuple[int, int]],
        topics: Mapping[str, admin.TopicInfo],
    ) -> Lane:
        positions, claims = {}, {}
        for tp, entry in committed.items():
            info, (low, high) = topics[tp.topic], limits[tp]
            offset = entry.offset
            if offset == UNKNOWN_OFFSET:
                offset = low if agent.start == "earliest" else high
            elif not low <= offset <= high:
                raise LaneStopped(
                    f"{tp.topic}-{tp.partition}: the committed offset {offset} is not in the topic any more"
                    f" (it holds {low} to {high})",
                    self._reset_hint(lane_id, "the records in between are lost: retention was too short"),
                )
            positions[tp] = offset
            number = entry.claim.number + 1 if entry.claim else 1
            claims[tp] = Claim(self.owner, number, info.topic_id, info.partitions)
        return Lane(agent, lane_id.partition, positions, claims, Tables((LANE_TABLE, *agent.tables)))

    async def _restore(
        self, lanes: Collection[Lane], since: Mapping[TopicPartition, int], progress: Callable[[], None]
    ) -> tuple[int, dict[TopicPartition, int]]:
        tables = {TopicPartition(lane.agent.changelog(self.app), lane.partition): lane.tables for lane in lanes}
        told = 0

        def count(read: int) -> None:
            nonlocal told
            metrics.RESTORED.inc(read - told)
            told = read
            progress()

        return await restore(self.connection, tables, count, since)

    def _check_begun(self, lanes: Collection[Lane]) -> None:
        """A lane that has worked before has a committed offset; without one it would silently begin again.

        A topic that it did not read before is another matter: the agent was given one more.
        """
        for lane in lanes:
            if lane.remembered is None:
                continue
            known: dict[str, str] = orjson.loads(lane.remembered)
            lost = [tp for tp, claim in lane.claims.items() if claim.number == 1 and tp.topic in known]
            if not lost:
                continue
            topics = ", ".join(sorted({repr(tp.topic) for tp in lost}))
            if any(known[tp.topic] != lane.claims[tp].topic_id for tp in lost):
                raise LaneStopped(
                    f"topic {topics} was deleted and made anew: the lane's state is of other records",
                    self._reset_hint(lane.id, "events that were not decided before are lost"),
                )
            raise LaneStopped(
                f"lane {lane.partition} has no committed offset on topic {topics}, but it has worked before",
                self._reset_hint(lane.id, "the group's offsets were deleted, or expired while nothing ran"),
            )

    async def _claim(self, lanes: Collection[Lane], member: Member) -> None:
        """Put our transactional id into the offsets' metadata, outside any transaction.

        A transaction of ours can so never be open without our name being known to whoever comes next.
        """
        if lanes:
            failpoint(failpoints.CLAIMING)
            await self.group.commit(
                member,
                {tp: (lane.positions[tp], lane.claims[tp]) for lane in lanes for tp in lane.claims},
            )
            failpoint(failpoints.CLAIMED)

    def _reset_hint(self, lane: LaneId, why: str) -> str:
        return f"{why}; go on deliberately with `streamproc reset FILE --lane {lane.partition} --to …`"


def _still_ours(lane: Lane, committed: Mapping[TopicPartition, Committed]) -> bool:
    return all(
        committed[tp].offset == lane.positions[tp] and committed[tp].claim == lane.claims[tp] for tp in lane.claims
    )


def _check_changelogs(changelogs: Mapping[str, str], topics: Mapping[str, admin.TopicInfo]) -> None:
    for changelog, topic in changelogs.items():
        there = topics[changelog].partitions if changelog in topics else 0
        if there != topics[topic].partitions:
            raise LaneStopped(
                f"topic {topic!r} has {topics[topic].partitions} partitions, and its state {changelog!r} has {there}:"
                " keys have moved between lanes",
                "make a topic with the right count, or begin again under another name",
            )


def check_topic(tp: TopicPartition, claim: Claim | None, info: admin.TopicInfo) -> None:
    """Raises LaneStopped where a topic is not the one that a lane has claimed, or has other partitions."""
    if claim is None:
        return
    if claim.topic_id and info.topic_id and claim.topic_id != info.topic_id:
        raise LaneStopped(
            f"topic {tp.topic!r} was deleted and made anew: its offsets mean other records now",
            f"go on deliberately with `streamproc reset FILE --lane {tp.partition} --to earliest`",
        )
    if claim.partitions != info.partitions:
        raise LaneStopped(
            f"topic {tp.topic!r} has {info.partitions} partitions now and had {claim.partitions}:"
            " keys have moved between lanes",
            "make a topic with the right count, or go on deliberately with `streamproc reset FILE --all --to …`",
        )
