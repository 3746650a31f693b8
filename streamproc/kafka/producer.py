"""The transactional producer of one worker: the protocol of one Kafka transaction, and nothing else.

aiokafka's producer is made for records that come one by one; here a transaction is known as a whole. That saves its
queues and a task per partition, its waits of 20-100 ms where the broker only asks to try again, and one round trip;
and offsets go out as TxnOffsetCommit v3, which checks the group's generation (KIP-447). Connections, metadata and
the requests themselves are aiokafka's.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)

from streamproc.errors import BrokerUnavailable
from streamproc.kafka import failpoints
from streamproc.kafka.batches import Batches
from streamproc.kafka.connection import Connection
from streamproc.kafka.failpoints import failpoint
from streamproc.kafka.group import NOT_HERE, Member, coordinator_of
from streamproc.kafka.protocol import TxnOffsetCommitRequest
from streamproc.kafka.sending import (
    CONCURRENT_TRANSACTIONS,
    QUICK_SECONDS,
    SLOW_SECONDS,
    UNKNOWN_TRIES,
    Codes,
    Sending,
    Written,
    gone,
    raise_unless_retriable,
    side_by_side,
)

log = logging.getLogger(__name__)

UNKNOWN_TOPIC = 3
MARKERS_SECONDS = 0.002
MARKERS_TRIES = 250
STOP_SECONDS = 3.0
END_SECONDS = 20.0


class LaneProducer:
    """Makes one transaction after another under one transactional id.

    ``transaction_seconds`` bounds how long the broker keeps a transaction of a worker that went silent. What fails
    leaves the transaction open: a new producer with the same id ends it.
    """

    def __init__(self, connection: Connection, transactional_id: str, *, transaction_seconds: float = 60.0) -> None:
        self._client = AIOKafkaClient(**connection.quick_kwargs())
        self._id = transactional_id
        self._milliseconds = int(transaction_seconds * 1000)
        self._nodes: dict[tuple[CoordinationType, str], int] = {}
        self._sending = Sending(self._client, transactional_id)

    async def start(self) -> None:
        """Connect, and become the one producer of the id: ends what an earlier one left open. Raises KafkaError."""
        await self._client.bootstrap()
        request = InitProducerIdRequest(self._id, self._milliseconds)
        response = await self._coordinated(request, lambda response: {response.error_code})
        self._sending.producer = (response.producer_id, response.producer_epoch)

    async def discard(self) -> None:
        """Close the connections, whatever is under way."""
        try:
            await asyncio.wait_for(self._client.close(), STOP_SECONDS)
        except TimeoutError:
            log.warning("a producer's connections did not close in %.0f s", STOP_SECONDS)

    async def commit(
        self, offsets: Mapping[TopicPartition, tuple[int, str]], member: Member, encoding: Awaitable[Batches]
    ) -> Written:
        """One transaction: offsets with their metadata, then the records. Tries for as long as trying can help.

        Returns where its records are in each partition.

        Offsets go first, so that a transaction that its owner leaves open always shows as an unstable offset; no record
        is sent before the broker has them. Raises FencedOffsets when the group has moved on, and KafkaError otherwise.
        """
        await self._coordinated(
            AddOffsetsToTxnRequest(self._id, *self._sending.producer, member.group),
            lambda response: {response.error_code},
        )
        batches, _ = await side_by_side(self._add_partitions(encoding), self._commit_offsets(offsets, member))
        failpoint(failpoints.OFFSETS)
        written = await self._sending.send(batches)
        failpoint(failpoints.COMMITTING)
        await self._coordinated(
            EndTxnRequest(self._id, *self._sending.producer, True), lambda response: {response.error_code}
        )
        failpoint(failpoints.COMMITTED)
        return written

    async def _add_partitions(self, encoding: Awaitable[Batches]) -> Batches:
        batches = await encoding
        topics: dict[str, list[int]] = defaultdict(list)
        for topic, partition in batches:
            topics[topic].append(partition)
        await self._sending.learn(topics)
        if topics:
            await self._coordinated(
                AddPartitionsToTxnRequest(self._id, *self._sending.producer, list(topics.items())),
                lambda response: {code for _, partitions in response.errors for _, code in partitions},
                group=ConnectionGroup.DEFAULT,  # a broker takes the requests of one connection one by one
            )
        return batches

    async def _commit_offsets(self, offsets: Mapping[TopicPartition, tuple[int, str]], member: Member) -> None:
        topics: dict[str, list[Any]] = defaultdict(list)
        for tp, (offset, metadata) in sorted(offsets.items()):
            topics[tp.topic].append((tp.partition, offset, -1, metadata, {}))
        request = TxnOffsetCommitRequest(
            self._id,
            member.group,
            *self._sending.producer,
            member.generation,
            member.member_id,
            member.instance_id,
            [(name, partitions, {}) for name, partitions in topics.items()],
        )
        await self._coordinated(
            request,
            lambda response: {code for _, partitions, _ in response.topics for _, code, _ in partitions},
            of=(CoordinationType.GROUP, member.group),
        )

    async def _coordinated(
        self,
        request: Any,
        codes: Callable[[Any], Codes],
        *,
        of: tuple[CoordinationType, str] | None = None,
        group: ConnectionGroup = ConnectionGroup.COORDINATION,
    ) -> Any:
        """The answer of a coordinator (the transaction's unless told otherwise) that holds no error."""
        key = of or (CoordinationType.TRANSACTION, self._id)
        pause, tries, markers = QUICK_SECONDS, itertools.count(1), itertools.count(1)
        while True:
            try:
                if key not in self._nodes:
                    self._nodes[key] = await coordinator_of(self._client, *key)
                response = await self._client.send(self._nodes[key], request, group=group)
            except kafka_errors.KafkaError as error:
                if not error.retriable:
                    raise
                log.debug("no answer from a coordinator: %s", type(error).__name__)
                pause = await self._look_again(key, SLOW_SECONDS)
                continue
            found = codes(response) - {0}
            if not found:
                return response
            raise_unless_retriable(found)
            if UNKNOWN_TOPIC in found and next(tries) > UNKNOWN_TRIES:
                raise gone()
            if found == {CONCURRENT_TRANSACTIONS}:
                late = next(markers) > MARKERS_TRIES
                await asyncio.sleep(SLOW_SECONDS if late else MARKERS_SECONDS)
            elif found & NOT_HERE:
                pause = await self._look_again(key, pause)
            else:
                await asyncio.sleep(pause)
                pause = min(2 * pause, SLOW_SECONDS)

    async def _look_again(self, key: tuple[CoordinationType, str], pause: float) -> float:
        self._nodes.pop(key, None)
        await asyncio.sleep(pause)
        await self._client.force_metadata_update()
        return min(2 * pause, SLOW_SECONDS)


def transactional_ids(owner: str) -> tuple[str, str]:
    """The ids of a worker's two producers."""
    return owner, f"{owner}-2"


async def end_transactions_of(connection: Connection, owner: str) -> None:
    """End whatever transactions a worker left open, by becoming its producers for a moment (they are fenced)."""
    await side_by_side(*(_end(connection, transactional_id) for transactional_id in transactional_ids(owner)))


async def _end(connection: Connection, transactional_id: str) -> None:
    producer = LaneProducer(connection, transactional_id)
    try:
        async with asyncio.timeout(END_SECONDS):
            await producer.start()
    except TimeoutError as error:
        raise BrokerUnavailable(f"the transaction of {transactional_id} does not end", "is the broker up?") from error
    finally:
        await producer.discard()
