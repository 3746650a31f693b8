"""What a worker asks of changelogs besides their records: whether a log is still the one that it was.

A broker that became a leader without having all that was committed (an unclean election, or a disk that lost its end)
goes on with other records under the same offsets. It does so in another epoch: each record has that of the leader who
took it, and a log in which an epoch ends at an offset or later has everything before it (KIP-101, KIP-320).
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient

from streamproc.errors import BrokerUnavailable
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.fetching import take
from streamproc.kafka.logged import Gap
from streamproc.kafka.protocol import OffsetForLeaderEpochRequest

POLL_SECONDS: Final = 0.2
RETRY_SECONDS: Final = 0.1
SILENCE_SECONDS: Final = 10.0
NOWHERE: Final = -1


@dataclass(frozen=True, slots=True)
class Changelogs:
    """Asks with connections of its own, each time: it is seldom."""

    connection: Connection

    async def leader_epochs(self, topics: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Epochs that the leaders of each partition have had already, the present ones as far as the broker knows."""
        return await admin.leader_epochs(self.connection, topics)

    async def ends(self, epochs: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Up to which offset each log has records of an epoch or of earlier ones; -1 where it has none, and where the
        broker does not know the question.

        Raises BrokerUnavailable where the leaders do not say in time, KafkaError for what waiting does not mend.
        """
        if not epochs:
            return {}
        client = AIOKafkaClient(**self.connection.quick_kwargs())
        found: dict[TopicPartition, int] = {}
        deadline = time.monotonic() + SILENCE_SECONDS
        try:
            await client.bootstrap()
            await client.set_topics({tp.topic for tp in epochs})
            while left := {tp: epoch for tp, epoch in epochs.items() if tp not in found}:
                found |= await _ask(client, left)
                if len(found) < len(epochs):
                    if time.monotonic() > deadline:
                        raise BrokerUnavailable("the leaders of changelogs do not answer", "is the broker up?")
                    await asyncio.sleep(RETRY_SECONDS)
                    await client.force_metadata_update()
        except (kafka_errors.IncompatibleBrokerVersion, NotImplementedError):
            return dict.fromkeys(epochs, NOWHERE)
        finally:
            await client.close()
        return found

    async def silent(self, tp: TopicPartition, gaps: Sequence[Gap]) -> bool:
        """Whether there is no committed record in any of the gaps. Waits until their transactions are over."""
        consumer = AIOKafkaConsumer(
            **self.connection.client_kwargs(),
            isolation_level="read_committed",
            auto_offset_reset="none",
            enable_auto_commit=False,
            fetch_max_wait_ms=50,
        )
        await consumer.start()
        try:
            consumer.assign([tp])
            for gap in gaps:
                consumer.seek(tp, gap.start)
                while await consumer.position(tp) < gap.end:
                    records = (await take(consumer, {tp}, seconds=POLL_SECONDS, most=1)).get(tp)
                    if records is not None and records.offsets[0] < gap.end:
                        return False
        finally:
            await consumer.stop()
        return True


async def _ask(client: AIOKafkaClient, epochs: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
    """What the leaders say that are known and answer."""
    by_node: dict[int, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for tp, epoch in epochs.items():
        node = client.cluster.leader_for_partition(tp)
        if node is not None and node >= 0:
            by_node[node][tp.topic].append((tp.partition, -1, epoch, {}))
    found = {}
    for node, topics in by_node.items():
        request = OffsetForLeaderEpochRequest([(name, partitions, {}) for name, partitions in topics.items()])
        try:
            response = await client.send(node, request)
        except kafka_errors.KafkaError as error:
            if not error.retriable:
                raise
            continue
        for topic, partitions, _ in response.topics:
            for code, partition, _, end, _ in partitions:
                if code == 0:
                    found[TopicPartition(topic, partition)] = end
                elif not (refused := kafka_errors.for_code(code)).retriable:
                    raise refused(f"the epochs of {topic}-{partition}")
    return found
