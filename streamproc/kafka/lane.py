"""One lane: its state, and the batch that it has in flight.

A batch of a lane is *computing*, then *waiting* for a transaction, then *committing*. At most one batch is in each of
these, so batch n + 1 may compute while n commits, on a view of n's uncommitted state; n + 2 is not fetched before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import orjson
from aiokafka import TopicPartition

from streamproc.core.processor import Batch, Effects, Headers, Records
from streamproc.core.state import LANE_TABLE, Overlay, Tables
from streamproc.kafka.agent import Agent
from streamproc.kafka.group import Claim, Member

IDENTITY = b"lane"


class LaneId(NamedTuple):
    agent: str
    partition: int


Entry: TypeAlias = tuple[bytes | None, bytes | None, Headers]
"""Key, value and headers of one record on its way out."""

Outgoing: TypeAlias = dict[tuple[str, int], list[Entry]]


@dataclass(frozen=True, slots=True)
class Fetched:
    """Records of one lane as aiokafka gave them, with the assignment in which they were fetched."""

    lane: LaneId
    epoch: int
    records: Mapping[TopicPartition, Sequence[Any]]


@dataclass(slots=True)
class Work:
    """A finished batch or tick: what to commit, and where the lane stands when that has happened."""

    lane: Lane
    member: Member
    positions: dict[TopicPartition, int]
    effects: Effects
    outgoing: Outgoing
    timestamps: Any = None


@dataclass(slots=True)
class Lane:
    """Owned by one worker from its claim until it is revoked. ``positions`` are the committed next offsets."""

    agent: Agent
    partition: int
    positions: dict[TopicPartition, int]
    claims: dict[TopicPartition, Claim]
    tables: Tables
    computing: asyncio.Task[None] | None = None
    waiting: Work | None = None
    committing: Work | None = None
    wake_at: datetime | None = None
    progressed: float = 0.0
    fetching: bool = False
    parked: Fetched | None = None
    """A batch that arrived while a tick had begun: it runs next."""
    passed: dict[TopicPartition, int] = field(default_factory=dict)
    """How far the consumer went over what is no record (transaction markers, aborted records) since the last batch."""
    behind_since: float | None = None

    @property
    def identity(self) -> bytes:
        """What the lane's topics were when it worked on them, to be kept with its state."""
        return orjson.dumps({tp.topic: claim.topic_id for tp, claim in sorted(self.claims.items())})

    @property
    def remembered(self) -> bytes | None:
        """The identity that stands in the lane's state, if it ever worked."""
        return self.tables.get_many(LANE_TABLE, [IDENTITY])[0]

    @property
    def id(self) -> LaneId:
        return LaneId(self.agent.name, self.partition)

    @property
    def free(self) -> bool:
        """Whether it can take another batch."""
        return self.open and self.parked is None and not self.fetching

    @property
    def open(self) -> bool:
        """Whether the next batch or tick can run."""
        return self.computing is None and self.waiting is None

    @property
    def idle(self) -> bool:
        return self.free and self.committing is None

    def view(self) -> Overlay:
        """The tables as they are after every batch before the next one."""
        pending = [work.effects.state for work in (self.committing, self.waiting) if work is not None]
        return Overlay(self.tables, pending)

    def reached(self) -> dict[TopicPartition, int]:
        """The next offsets after every batch that is on its way, committed or not, and after what is no record."""
        work = self.waiting or self.committing
        reached = self.positions if work is None else work.positions
        return {tp: max(at, self.passed.get(tp, at)) for tp, at in reached.items()}

    def committed(self, work: Work) -> None:
        """Take over what a transaction has made final."""
        assert all(work.positions[tp] >= at for tp, at in self.positions.items()), "a committed offset went back"
        self.tables.apply(work.effects.state)
        self.positions = work.positions
        self.committing = None

    def drop_work(self) -> None:
        """Forget everything that is not committed."""
        if self.computing is not None:
            self.computing.cancel()
        self.computing = self.waiting = self.committing = self.parked = None
        self.fetching = False
        self.passed = {}


def to_batch(
    partition: int, fetched: Mapping[TopicPartition, Sequence[Any]], positions: Mapping[TopicPartition, int]
) -> tuple[Batch, dict[TopicPartition, int]]:
    """Columns from aiokafka's records, and the lane's positions after them. Records before a position are left out."""
    topics: dict[str, Records] = {}
    after = dict(positions)
    for tp, all_records in fetched.items():
        records = all_records
        if records and records[0].offset < positions[tp]:
            records = [record for record in records if record.offset >= positions[tp]]
        if not records:
            continue
        count = len(records)
        topics[tp.topic] = Records(
            topic=tp.topic,
            partition=partition,
            keys=[record.key for record in records],
            values=[record.value for record in records],
            headers=[record.headers for record in records],
            offsets=np.fromiter((record.offset for record in records), np.int64, count),
            timestamps=np.fromiter((record.timestamp for record in records), np.int64, count),
        )
        after[tp] = records[-1].offset + 1
    return Batch(partition, topics), after
