"""A reviewer that answers part of what it is shown: twice, under claims, in any partition, and sometimes too late."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

from streamproc.core.records import Topics
from streamproc.kafka.connection import Connection
from tests.torture.load import stopped

PAUSE = 0.2
ANSWERED = 0.7
CHOICES = ("approve", "decline")


class Reviewer:
    """Answers until it is cancelled, through whatever happens to the broker."""

    def __init__(self, connection: Connection, pipeline: str, partitions: int, chance: Random) -> None:
        self._connection, self._topics = connection, Topics.of(pipeline)
        self._partitions, self._chance = partitions, chance
        self._seen = set[str]()

    async def run(self) -> None:
        """Read items and answer them."""
        while True:
            # Whatever a broker that goes away does to the clients: others take over, and begin at the beginning.
            with contextlib.suppress(KafkaError, OSError, AssertionError, TimeoutError):
                await self._session()
            await asyncio.sleep(PAUSE)

    async def _session(self) -> None:
        consumer = AIOKafkaConsumer(
            self._topics.review,
            **self._connection.client_kwargs(),
            isolation_level="read_committed",
            auto_offset_reset="earliest",
        )
        producer = AIOKafkaProducer(**self._connection.client_kwargs())
        try:
            await producer.start()
            await consumer.start()
            while True:
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    for record in records:
                        await self._look(producer, orjson.loads(record.value))
        finally:
            for client in (consumer, producer):
                await stopped(client)

    async def _look(self, producer: Any, item: dict[str, Any]) -> None:
        if item["id"] in self._seen:
            return
        by = "bob" if item["id"].endswith(".2") else "ada"
        said: list[dict[str, Any]] = []
        if self._chance.random() < ANSWERED:
            if self._chance.random() < 0.2:
                said.append({"kind": "claim", "by": by})
            answer = {"by": by, "decision": self._chance.choice(CHOICES), "verdict": f"{item['id']}-1"}
            said += [answer] * self._chance.choice((1, 1, 2))
        if self._chance.random() < 0.1:
            said.append({"by": "eve", "decision": self._chance.choice(CHOICES), "verdict": f"{item['id']}-2"})
        for one in said:
            value = orjson.dumps({"id": item["id"], **one})
            partition = self._chance.randrange(self._partitions)
            await asyncio.wait_for(producer.send_and_wait(self._topics.verdicts, value, partition=partition), 20.0)
        self._seen.add(item["id"])
