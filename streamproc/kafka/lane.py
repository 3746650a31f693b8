"""One lane: its state, and the batch that it has in flight.

A batch of a lane is *computing*, then *waiting* for a transaction, then *committing*. At most one batch is in each of
these, so batch n + 1 may compute while n commits, on a view of n's uncommitted state; n + 2 is not fetched before.
Lanes of one agent that have something due compute it together, as one *work* in which each has its *share*.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

import orjson
from aiokafka import TopicPartition

from streamproc.core.processor import Batch, Effects, Headers, Records
from streamproc.core.state import LANE_TABLE, Overlay, Tables
from streamproc.kafka.agent import Agent
from streamproc.kafka.group import Claim, Member
from streamproc.kafka.logged import NO_EPOCH, NOT_SENT, Landed, Logged, Sent

IDENTITY = b"lane"


class LaneId(NamedTuple):
    agent: str
    partition: int


@dataclass(slots=True)
class Entries:
    """Records on their way to one partition, by column: one key, value and tuple of headers per record."""

    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    headers: list[Headers] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[tuple[bytes | None, bytes | None, Headers]]:
        return zip(self.keys, self.values, self.headers, strict=True)

    def add(self, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        self.keys.append(key)
        self.values.append(value)
        self.headers.append(headers)

    def extend(self, other: Entries) -> None:
        self.keys += other.keys
        self.values += other.values
        self.headers += other.headers


FEW_RECORDS = 1_000
"""Where fewer records than that wait for their turn, those that come meanwhile are fetched too; and with fewer, a work
costs what a work costs, however many they are."""

Outgoing: TypeAlias = dict[tuple[str, int], Entries]
"""What goes out, by topic and partition."""

RecordsByPartition: TypeAlias = Mapping[TopicPartition, Records]


@dataclass(frozen=True, slots=True)
class Fetched:
    """Records of one agent's lanes, with the assignment in which they were fetched."""

    agent: str
    epoch: int
    records: RecordsByPartition


@dataclass(slots=True)
class Share:
    """One lane's part of a work: a batch, or a tick where ``records`` is ``None``.

    ``view`` and ``reached`` are where the lane stood before it, ``positions`` and ``effects`` what it comes to.
    ``landed`` is where its changes are in the changelog, where the broker told it, ``sent`` how things were before.
    """

    lane: Lane
    records: RecordsByPartition | None
    view: Overlay
    reached: dict[TopicPartition, int]
    positions: dict[TopicPartition, int]
    effects: Effects = field(default_factory=Effects)
    landed: Sequence[Landed] = ()
    sent: Sent = NOT_SENT

    @classmethod
    def of(cls, lane: Lane, records: RecordsByPartition | None) -> Share:
        """What a lane begins now."""
        reached = lane.reached()
        return cls(lane, records, lane.view(), reached, reached)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to commit."""
        return self.positions == self.reached and not self.effects.records and not self.effects.state


@dataclass(slots=True)
class Work:
    """What lanes of one agent compute together and commit together, and the records that go out for all of them.

    ``encoding`` gives their record batches. ``timestamps`` are those of its events, in milliseconds since the epoch.
    """

    agent: Agent
    member: Member
    shares: list[Share]
    outgoing: Outgoing = field(default_factory=dict)
    encoding: asyncio.Future[Any] | None = None
    timestamps: Any = None

    def effects(self) -> list[tuple[int, Effects]]:
        """The effects of each share, with the partition number of its lane."""
        return [(share.lane.partition, share.effects) for share in self.shares]


@dataclass(slots=True)
class Lane:
    """Owned by one worker from its claim until it is revoked. ``positions`` are the committed next offsets."""

    agent: Agent
    partition: int
    positions: dict[TopicPartition, int]
    claims: dict[TopicPartition, Claim]
    tables: Tables
    logged: Logged | None = None
    """What its tables hold of its changelog; ``None`` where that is not known any more."""
    epoch: int = NO_EPOCH
    """An epoch that the leader of its changelog has had already."""
    computing: asyncio.Task[None] | None = None
    waiting: Share | None = None
    committing: Share | None = None
    wake_at: datetime | None = None
    progressed: float = 0.0
    fetching: bool = False
    parked: RecordsByPartition | None = None
    """A batch that waits for its turn."""
    passed: dict[TopicPartition, int] = field(default_factory=dict)
    """How far the consumer went over what is no record (transaction markers, aborted records) since the last batch."""
    behind_since: float | None = None
    newest: dict[TopicPartition, int] = field(default_factory=dict)
    """Timestamps of the last records that it was given, in milliseconds since the epoch."""

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
    def wants(self) -> bool:
        """Whether records are fetched for it: more come to a small batch until it begins."""
        return self.open and not self.fetching and self.waiting_records < FEW_RECORDS

    @property
    def waiting_records(self) -> int:
        """How many records wait for its turn."""
        return 0 if self.parked is None else sum(map(len, self.parked.values()))

    @property
    def free(self) -> bool:
        """Whether nothing of it waits or is computed."""
        return self.open and self.parked is None and not self.fetching

    def park(self, tp: TopicPartition, records: Records) -> None:
        """Keep records that were fetched until it is their turn."""
        parked = dict(self.parked or {})
        parked[tp] = parked[tp].then(records) if tp in parked else records
        self.parked, self.fetching = parked, False

    @property
    def open(self) -> bool:
        """Whether the next batch or tick can run."""
        return self.computing is None and self.waiting is None

    @property
    def idle(self) -> bool:
        return self.free and self.committing is None

    def view(self) -> Overlay:
        """The tables as they are after every batch before the next one."""
        pending = [share.effects.state for share in (self.committing, self.waiting) if share is not None]
        return Overlay(self.tables, pending)

    def reached(self) -> dict[TopicPartition, int]:
        """The next offsets after every batch that is on its way, committed or not, and after what is no record."""
        share = self.waiting or self.committing
        reached = self.positions if share is None else share.positions
        return {tp: max(at, self.passed.get(tp, at)) for tp, at in reached.items()}

    def committed(self, share: Share) -> None:
        """Take over what a transaction has made final."""
        assert all(share.positions[tp] >= at for tp, at in self.positions.items()), "a committed offset went back"
        self.tables.apply(share.effects.state)
        if self.logged is not None:
            self.logged = self.logged.after(share.landed, share.sent)
        self.positions = share.positions
        self.committing = None

    def drop_work(self) -> None:
        """Forget everything that is not committed."""
        if self.computing is not None:
            self.computing.cancel()
        self.computing = self.waiting = self.committing = self.parked = None
        self.fetching = False
        self.passed = {}


def to_batch(
    partition: int, fetched: RecordsByPartition, positions: Mapping[TopicPartition, int]
) -> tuple[Batch, dict[TopicPartition, int]]:
    """The fetched records as a batch, and the lane's positions after it. Records before a position are left out."""
    topics: dict[str, Records] = {}
    after = dict(positions)
    for tp, everything in fetched.items():
        records = everything.since(positions[tp])
        if len(records):
            topics[tp.topic] = records
            after[tp] = int(records.offsets[-1]) + 1
    return Batch(partition, topics), after
