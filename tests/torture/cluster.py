"""Which broker of a cluster has which part to play: node ids."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from streamproc.kafka.connection import Connection

SECONDS = 30.0
PAUSE = 0.2


async def leader(connection: Connection, topic: str, partition: int) -> int:
    """The leader of a partition."""
    async with _client(connection) as client:
        while True:
            await client._wait_on_metadata(topic)
            node = client.cluster.leader_for_partition(TopicPartition(topic, partition))
            if node is not None and node >= 0:
                return int(node)
            await asyncio.sleep(PAUSE)
            await client.force_metadata_update()


async def group_coordinator(connection: Connection, group: str) -> int:
    """The coordinator of a consumer group."""
    return await _coordinator(connection, CoordinationType.GROUP, group)


async def transaction_coordinator(connection: Connection, transactional_id: str) -> int:
    """The coordinator of a producer's transactions."""
    return await _coordinator(connection, CoordinationType.TRANSACTION, transactional_id)


async def _coordinator(connection: Connection, kind: Any, name: str) -> int:
    async with _client(connection) as client:
        while True:
            try:
                return int(await client.coordinator_lookup(kind, name))
            except KafkaError as error:
                if not error.retriable:
                    raise
                await asyncio.sleep(PAUSE)


@asynccontextmanager
async def _client(connection: Connection) -> AsyncIterator[Any]:
    client = AIOKafkaClient(**connection.client_kwargs())
    try:
        async with asyncio.timeout(SECONDS):
            await client.bootstrap()
            yield client
    finally:
        await client.close()
