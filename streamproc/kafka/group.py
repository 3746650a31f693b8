"""The consumer group, seen from outside aiokafka's own consumer: who we are in it, stable offsets, claims.

A *claim* is a lane's mark on its committed offset: the transactional id of the worker that owns it and a number that
grows with every owner. It stands in the metadata of every offset commit, so whoever comes next can end a transaction
that its owner left open, and an owner that comes back can tell whether anybody was there in between.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType

from streamproc.errors import BrokerUnavailable, FencedOffsets, UserError
from streamproc.kafka.connection import Connection
from streamproc.kafka.protocol import OffsetCommitRequest, OffsetFetchRequest

UNKNOWN_OFFSET = -1
UNSTABLE_OFFSET_COMMIT = 88
MOVED_ON = frozenset({22, 25, 27, 82})  # illegal generation, unknown member, rebalancing, fenced instance
NOT_HERE = frozenset({14, 15, 16})  # loading, coordinator not available, not coordinator
DENIED = frozenset({29, 30})  # topic or group authorization failed
RETRY_SECONDS = 0.05
SILENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Member:
    """Who we were in the group when a batch was fetched.

    It is made once per assignment; reading the live coordinator at commit would say -1 after a reset, and brokers
    exempt -1 from the check. That is also what the default is: nobody, for when no worker runs.
    """

    group: str
    generation: int = -1
    member_id: str = ""
    instance_id: str | None = None

    @classmethod
    def of(cls, coordinator: Any) -> Member:
        """The member that aiokafka's coordinator is now. Raises FencedOffsets while it is none."""
        if coordinator.generation < 0 or not coordinator.member_id:
            raise FencedOffsets("the group has no generation for this worker")
        return cls(coordinator.group_id, coordinator.generation, coordinator.member_id, coordinator._group_instance_id)


@dataclass(frozen=True, slots=True)
class Claim:
    """Who owns a lane: ``owner`` is a transactional id, ``number`` grows by one with every claim.

    ``topic_id`` and ``partitions`` are those of the topic when it was claimed: a topic that was deleted and made
    anew, or that grew, is noticed. ``cycle`` numbers the owner's transactions, so that the owner can tell which of
    them was the last to be committed even where no offset moved.
    """

    owner: str
    number: int
    topic_id: str
    partitions: int
    cycle: int = 0

    def encode(self) -> str:
        """The claim as the metadata of an offset: a JSON array that begins with its version."""
        fields = [1, self.owner, self.number, self.topic_id, self.partitions, self.cycle]
        return orjson.dumps(fields).decode()

    @classmethod
    def decode(cls, metadata: str | None) -> Claim | None:
        """The claim in an offset's metadata, or ``None`` where it holds none of ours."""
        try:
            version, *fields = orjson.loads(metadata or "")
            return cls(*fields) if version == 1 else None
        except (orjson.JSONDecodeError, TypeError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class Committed:
    """A committed offset and its claim; ``offset`` is -1 where nothing was ever committed."""

    offset: int
    claim: Claim | None


class GroupOffsets:
    """Reads and claims committed offsets of one group over a connection of its own."""

    def __init__(self, connection: Connection, group: str) -> None:
        self._group = group
        self._client = AIOKafkaClient(**connection.quick_kwargs())
        self._coordinator: int | None = None

    async def start(self) -> None:
        """Connect. Raises KafkaConnectionError where no broker answers."""
        await self._client.bootstrap()

    async def stop(self) -> None:
        """Close the connection."""
        await self._client.close()

    async def fetch(self, partitions: Collection[TopicPartition], *, stable: bool) -> dict[TopicPartition, Committed]:
        """Committed offsets; with ``stable``, partitions with a pending transaction are left out.

        Raises BrokerUnavailable where the coordinator is silent for long, KafkaError for what waiting does not mend.
        """
        topics = _by_topic(partitions)
        request = OffsetFetchRequest(self._group, [(name, ps, {}) for name, ps in topics.items()], stable)
        while True:
            response = await self._send(request)
            codes = {code for _, ps, _ in response.topics for *_, code, _ in ps} | {response.error_code}
            if codes & NOT_HERE:
                await self._look_again()
                continue
            unexpected = codes - {0, UNSTABLE_OFFSET_COMMIT}
            if unexpected:
                raise self._refused(min(unexpected))
            return {
                TopicPartition(topic, partition): Committed(offset, Claim.decode(metadata))
                for topic, ps, _ in response.topics
                for partition, offset, _, metadata, code, _ in ps
                if code == 0
            }

    async def commit(self, member: Member, offsets: Mapping[TopicPartition, tuple[int, Claim]]) -> None:
        """Commit offsets with claims, outside any transaction: one atomic request that leaves nothing open.

        Raises FencedOffsets when the group has moved on.
        """
        topics: dict[str, list[Any]] = defaultdict(list)
        for tp, (offset, claim) in offsets.items():
            topics[tp.topic].append((tp.partition, offset, -1, claim.encode(), {}))
        request = OffsetCommitRequest(
            self._group,
            member.generation,
            member.member_id,
            member.instance_id,
            [(name, ps, {}) for name, ps in topics.items()],
        )
        while True:
            response = await self._send(request)
            codes = {code for _, ps, _ in response.topics for _, code, _ in ps} - {0}
            if not codes:
                return
            if not codes & MOVED_ON and all(kafka_errors.for_code(code).retriable for code in codes):
                await self._look_again()
                continue
            if codes & MOVED_ON:
                raise FencedOffsets("a claim was refused: the group has moved on")
            raise self._refused(min(codes))

    def _refused(self, code: int) -> Exception:
        error = kafka_errors.for_code(code)
        if code in DENIED:
            return UserError(
                f"not allowed: offsets of group {self._group!r} ({error.__name__})",
                "`streamproc topics FILE --acls` lists the permissions that a worker needs",
            )
        refused: Exception = error(f"offsets of group {self._group}")
        return refused

    async def _send(self, request: Any) -> Any:
        deadline = time.monotonic() + SILENCE_SECONDS
        while True:
            try:
                if self._coordinator is None:
                    self._coordinator = await coordinator_of(self._client, CoordinationType.GROUP, self._group)
                return await self._client.send(self._coordinator, request, group=ConnectionGroup.COORDINATION)
            except kafka_errors.KafkaError as error:
                if not error.retriable:
                    raise
                if time.monotonic() > deadline:
                    raise BrokerUnavailable(
                        f"the coordinator of group {self._group!r} does not answer", "is the broker up?"
                    ) from error
                await self._look_again()

    async def _look_again(self) -> None:
        self._coordinator = None
        await asyncio.sleep(RETRY_SECONDS)
        await self._client.force_metadata_update()


async def coordinator_of(client: AIOKafkaClient, kind: CoordinationType, key: str) -> int:
    """The node that coordinates a group or a transactional id. Raises KafkaError."""
    if client.get_random_node() is None:
        # The cluster's only broker was fenced when metadata was asked for. aiokafka would never ask anybody again.
        await client.bootstrap()
    if client.get_random_node() is None:
        raise kafka_errors.NodeNotReadyError
    node: int = await client.coordinator_lookup(kind, key)
    return node


def _by_topic(partitions: Collection[TopicPartition]) -> dict[str, list[int]]:
    topics: dict[str, list[int]] = defaultdict(list)
    for tp in partitions:
        topics[tp.topic].append(tp.partition)
    return topics
