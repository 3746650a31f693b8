"""Moving a lane's committed offset on purpose: the way out where a lane refuses to go on by itself.

A lane stops rather than lose or repeat something silently. A reset says what would be lost and what repeated,
and then commits an offset with a new claim, as nobody in particular: brokers take that from a non-member only
while the group has no members, so a worker that starts in between makes the reset fail and not the other way
round. State is dropped in one transaction with the new offsets, after such a claim on the old ones.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, TypeAlias

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.structs import OffsetAndMetadata

from streamproc.core.processor import Changes
from streamproc.core.state import LANE_TABLE, Tables, changelog_key
from streamproc.errors import BrokerUnavailable, FencedOffsets, UserError
from streamproc.kafka import admin
from streamproc.kafka.agent import Agent
from streamproc.kafka.connection import Connection
from streamproc.kafka.group import UNKNOWN_OFFSET, Claim, Committed, GroupOffsets, Member
from streamproc.kafka.members import group_members
from streamproc.kafka.producer import end_transactions_of
from streamproc.kafka.restore import bounds, restore
from streamproc.wording import counted

Target: TypeAlias = Literal["earliest", "latest", "committed"] | int | datetime

UNSTABLE_SECONDS = 10.0
POLL_SECONDS = 0.1
TRANSACTION_MS = 600_000  # a million tombstones take a minute


@dataclass(frozen=True, slots=True)
class Move:
    """One partition's committed offset, from where to where. The topic holds ``low`` to ``high`` - 1."""

    agent: str
    tp: TopicPartition
    before: Committed
    low: int
    high: int
    target: int
    topic_id: str
    partitions: int

    @property
    def made_anew(self) -> bool:
        """Whether the committed offset is one of another topic of that name."""
        claim = self.before.claim
        return claim is not None and bool(claim.topic_id) and claim.topic_id != self.topic_id

    @property
    def begun_ever(self) -> bool:
        """Whether a topic of that name was read before."""
        return self.before.offset != UNKNOWN_OFFSET

    @property
    def begun(self) -> bool:
        """Whether this topic was read before."""
        return self.begun_ever and not self.made_anew

    @property
    def skipped(self) -> int:
        """Offsets that hold records nobody has decided, and that are passed over."""
        first = max(self.before.offset, self.low) if self.begun else self.low
        return max(0, self.target - first)

    @property
    def gone(self) -> int:
        """Offsets that nobody has decided and that the topic does not hold any more."""
        return max(0, self.low - self.before.offset) if self.begun else 0

    @property
    def repeated(self) -> int:
        """Offsets that were decided before and will be again."""
        return max(0, min(self.before.offset, self.high) - self.target) if self.begun else 0


@dataclass(frozen=True, slots=True)
class LaneReset:
    """What a reset does to one lane. ``state`` are the live keys of its changelog."""

    agent: Agent
    partition: int
    moves: tuple[Move, ...]
    state: tuple[bytes, ...] = ()


class _Keys(Tables):
    """Only the keys of a changelog, of whatever tables but the lane's own: what that has is written anew anyway."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[bytes, None] = {}

    def clear(self) -> None:
        self.live.clear()

    def apply(self, changes: Changes) -> None:
        for table, entries in changes.items():
            for key, value in () if table == LANE_TABLE else entries.items():
                raw = changelog_key(table, key)
                if value is None:
                    self.live.pop(raw, None)
                else:
                    self.live[raw] = None


async def wait_until_empty(connection: Connection, group: str, seconds: float) -> None:
    """Wait for the group to have no members. Raises UserError that names those who stay."""
    deadline = time.monotonic() + seconds
    while members := await group_members(connection, group):
        if time.monotonic() > deadline:
            who = ", ".join(sorted(set(map(str, members))))
            raise UserError(
                f"group {group} has {counted(len(members), 'live member')} ({who}): a reset under them would be lost",
                "stop all workers of the pipeline first, those of `--workers N` by their parent;"
                " one that was killed leaves after its session timeout",
            )
        await asyncio.sleep(POLL_SECONDS)


async def survey(
    connection: Connection,
    app: str,
    agents: Sequence[Agent],
    lanes: Sequence[int] | None,
    target: Target,
) -> list[LaneReset]:
    """What resetting these lanes (partition numbers; all for ``None``) of these agents would do.

    Ends transactions that dead workers left open. Raises UserError for lanes and targets that cannot be.
    """
    topics = sorted({topic for agent in agents for topic in agent.topics})
    infos = await admin.describe(connection, topics)
    for topic in topics:
        if topic not in infos:
            raise UserError(f"topic {topic} does not exist", "its producers own it: it has to be there first")
    found = []
    for agent in agents:
        counts = {infos[topic].partitions for topic in agent.topics}
        if lanes is not None and (wrong := [lane for lane in lanes if lane >= min(counts)]):
            raise UserError(
                f"agent {agent.name} has no lane {wrong[0]}: its topics have {counted(min(counts), 'partition')}",
                "lanes count from 0",
            )
        if isinstance(target, int) and len(agent.topics) > 1:
            raise UserError(
                f"agent {agent.name} reads {len(agent.topics)} topics: one offset cannot be meant for all",
                "use earliest, latest, committed or a time",
            )
        for lane in lanes if lanes is not None else range(min(counts)):
            found.append((agent, lane))
    tps = [TopicPartition(topic, lane) for agent, lane in found for topic in agent.topics]
    committed = await _stable(connection, app, tps)
    limits = await bounds(connection, tps)
    at = await _offsets_at(connection, tps, target) if isinstance(target, datetime) else {}
    state = await _state(connection, app, found)
    resets = []
    for agent, lane in found:
        moves = []
        for topic in agent.topics:
            tp, info = TopicPartition(topic, lane), infos[topic]
            low, high = limits[tp]
            move = Move(agent.name, tp, committed[tp], low, high, 0, info.topic_id, info.partitions)
            moves.append(replace(move, target=_target(move, target, at.get(tp))))
        resets.append(LaneReset(agent, lane, tuple(moves), state.get((agent.name, lane), ())))
    return resets


async def carry_out(connection: Connection, app: str, resets: Sequence[LaneReset], *, drop_state: bool) -> None:
    """Do it: the offsets of all lanes in one request, or in one transaction with the tombstones for their state.

    Raises UserError where a worker has started meanwhile, or had; all is then as it was.
    """
    moves = [move for reset in resets for move in reset.moves]
    await _check_unmoved(connection, app, moves)
    offsets = {move.tp: (move.target, _claim(app, move)) for move in moves}
    if not drop_state:
        await _commit(connection, app, offsets)
        return
    # Whoever comes now knows by these claims whose transaction it is that is open, and ends it.
    await _commit(
        connection, app, {move.tp: (move.before.offset, _claim(app, move)) for move in moves if move.begun_ever}
    )
    await _drop_state(connection, app, resets, offsets)


def _claim(app: str, move: Move) -> Claim:
    number = move.before.claim.number if move.before.claim else 0
    return Claim(_owner(app), number + 1, move.topic_id, move.partitions)


def _owner(app: str) -> str:
    """The transactional id of resets, as it stands in their claims."""
    return f"{app}-reset"


async def _check_unmoved(connection: Connection, app: str, moves: Sequence[Move]) -> None:
    """What was surveyed may have waited for an answer for long."""
    now = await _stable(connection, app, [move.tp for move in moves])
    if any(now[move.tp] != move.before for move in moves):
        raise UserError(f"a worker of {app} has run meanwhile: nothing was changed", "run the reset again")


async def _commit(connection: Connection, app: str, offsets: dict[TopicPartition, tuple[int, Claim]]) -> None:
    """As nobody in particular. Raises UserError where the group has members."""
    if not offsets:
        return
    group = GroupOffsets(connection, app)
    await group.start()
    try:
        await group.commit(Member(app), offsets)
    except FencedOffsets as error:
        raise _started(app) from error
    except kafka_errors.KafkaError as error:
        raise BrokerUnavailable(f"the offsets were not taken: {error}") from error
    finally:
        await group.stop()


def _started(app: str) -> UserError:
    return UserError(f"a worker of {app} has started meanwhile: nothing was changed", "stop it first")


def _target(move: Move, target: Target, at: int | None) -> int:
    place = f"{move.tp.topic}-{move.tp.partition}"
    holds = f"it holds {move.low} to {move.high}"
    if isinstance(target, datetime):
        return move.high if at is None else at
    if target == "earliest":
        return move.low
    if target == "latest":
        return move.high
    if target == "committed":
        target = move.before.offset
        if target == UNKNOWN_OFFSET:
            raise UserError(f"{place} has no committed offset ({holds})", "use --to earliest, latest or an offset")
    if not move.low <= target <= move.high:
        raise UserError(f"{place} has no offset {target} ({holds})", "use --to earliest, latest or one of these")
    return target


async def _stable(connection: Connection, app: str, tps: Sequence[TopicPartition]) -> dict[TopicPartition, Committed]:
    group = GroupOffsets(connection, app)
    await group.start()
    try:
        deadline = time.monotonic() + UNSTABLE_SECONDS
        while pending := set(tps) - set(found := await group.fetch(tps, stable=True)):
            if time.monotonic() > deadline:
                where = counted(len(pending), "partition")
                raise UserError(f"a transaction on {where} does not end", "is a worker running?")
            last = await group.fetch(pending, stable=False)
            for owner in {entry.claim.owner for entry in last.values() if entry.claim is not None}:
                await end_transactions_of(connection, owner)
            await asyncio.sleep(POLL_SECONDS)
        return found
    finally:
        await group.stop()


async def _offsets_at(
    connection: Connection, tps: Sequence[TopicPartition], moment: datetime
) -> dict[TopicPartition, int]:
    consumer = AIOKafkaConsumer(**connection.client_kwargs())
    await consumer.start()
    try:
        stamp = max(0, int(moment.timestamp() * 1000))
        found = await consumer.offsets_for_times(dict.fromkeys(tps, stamp))
        return {tp: entry.offset for tp, entry in found.items() if entry is not None}
    finally:
        await consumer.stop()


async def _state(
    connection: Connection, app: str, lanes: Sequence[tuple[Agent, int]]
) -> dict[tuple[str, int], tuple[bytes, ...]]:
    keys = {
        (agent.name, lane): (TopicPartition(agent.changelog(app), lane), _Keys())
        for agent, lane in lanes
        if agent.tables
    }
    existing = await admin.describe(connection, sorted({tp.topic for tp, _ in keys.values()})) if keys else {}
    there = {tp: tables for tp, tables in keys.values() if tp.topic in existing}
    await restore(connection, there, lambda read: None)
    return {name: tuple(tables.live) for name, (_, tables) in keys.items()}


async def _drop_state(
    connection: Connection,
    app: str,
    resets: Sequence[LaneReset],
    offsets: Mapping[TopicPartition, tuple[int, Claim]],
) -> None:
    """Tombstones and offsets in one transaction.

    A worker that opens lanes waits while offsets are pending, or ends our transaction and with it all that it holds.
    One that has read them before is in the group by then, and is looked for.
    """
    producer = AIOKafkaProducer(
        **connection.client_kwargs(), transactional_id=_owner(app), transaction_timeout_ms=TRANSACTION_MS
    )
    await producer.start()
    try:
        async with producer.transaction():
            pending = {tp: OffsetAndMetadata(at, claim.encode()) for tp, (at, claim) in offsets.items()}
            await producer.send_offsets_to_transaction(pending, app)
            if await group_members(connection, app):
                raise _started(app)
            for reset in resets:
                topic = reset.agent.changelog(app)
                for key in reset.state:
                    await producer.send(topic, None, key=key, partition=reset.partition)
    except (kafka_errors.ProducerFenced, kafka_errors.InvalidProducerEpoch) as error:
        raise _started(app) from error
    except kafka_errors.KafkaError as error:
        raise BrokerUnavailable(f"the state was not deleted: {error}", "nothing was changed: try again") from error
    finally:
        await producer.stop()
