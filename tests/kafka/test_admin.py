"""Topics on a real broker."""

from __future__ import annotations

import asyncio
import base64

import pytest
from aiokafka import AIOKafkaProducer

from streamproc.errors import UserError
from streamproc.kafka.admin import (
    TopicSpec,
    create,
    delete_topics,
    describe,
    mismatches,
    watermarks,
)
from streamproc.kafka.connection import Connection
from tests.kafka.conftest import TopicFactory


def test_a_topic_is_made_as_specified_and_only_once(connection: Connection) -> None:
    spec = TopicSpec(
        "as-specified",
        partitions=3,
        cleanup_policy="compact",
        retention_ms=3_600_000,
        max_message_bytes=2_000_000,
        config={"segment.bytes": "16777216"},
    )
    assert asyncio.run(create(connection, [spec])) == ["as-specified"]
    info = asyncio.run(describe(connection, ["as-specified", "not-there"]))["as-specified"]
    assert (info.partitions, info.replication, info.has_leaders) == (3, 1, True)
    assert spec.configs.items() <= info.configs.items()
    assert mismatches(spec, info) == []
    assert asyncio.run(create(connection, [spec])) == []


def test_two_that_make_the_same_topics_at_once(connection: Connection) -> None:
    specs = [TopicSpec(f"at-once-{number}", 2) for number in range(5)]

    async def together() -> list[list[str]]:
        return await asyncio.gather(*(create(connection, specs) for _ in range(3)))

    made = asyncio.run(together())
    assert sorted(name for names in made for name in names) == [spec.name for spec in specs]


def test_a_topic_made_anew_has_another_id(connection: Connection) -> None:
    spec = TopicSpec("made-anew", 1)
    ids = []
    for _ in range(2):
        asyncio.run(create(connection, [spec]))
        ids.append(asyncio.run(describe(connection, [spec.name]))[spec.name].topic_id)
        asyncio.run(delete_topics(connection, [spec.name, "never-there"]))
    assert asyncio.run(describe(connection, [spec.name])) == {}
    assert ids[0] != ids[1]
    assert [len(base64.urlsafe_b64decode(one + "==")) for one in ids] == [16, 16]


def test_mismatches_say_what_to_do(connection: Connection) -> None:
    asyncio.run(create(connection, [TopicSpec("wrong", 2, retention_ms=1000, max_message_bytes=1000)]))
    info = asyncio.run(describe(connection, ["wrong"]))["wrong"]
    wanted = TopicSpec(
        "wrong", 4, replication=3, cleanup_policy="delete,compact", retention_ms=-1, max_message_bytes=5000
    )
    found = {one.what: one for one in mismatches(wanted, info)}
    assert set(found) == {
        "its partition count",
        "its replication factor",
        "cleanup.policy",
        "retention.ms",
        "max.message.bytes",
    }
    assert str(found["its partition count"]) == "topic wrong: its partition count is 2, not 4"
    assert "--add-config max.message.bytes=[5000]" in found["max.message.bytes"].remedy
    assert mismatches(TopicSpec("wrong", 2, retention_ms=500), info) == []  # longer than needed is fine


def test_what_the_broker_refuses_is_the_users_error(connection: Connection) -> None:
    with pytest.raises(UserError, match="'bad/name' cannot be the name of a topic"):
        asyncio.run(create(connection, [TopicSpec("bad/name", 1)]))
    with pytest.raises(UserError, match=r"Create of topic replicas was refused: .*replication"):
        asyncio.run(create(connection, [TopicSpec("replicas", 1, replication=3)]))
    with pytest.raises(UserError, match="topic nowhere does not exist"):
        asyncio.run(watermarks(connection, "nowhere"))


def test_all_topics(connection: Connection, topic: TopicFactory) -> None:
    name = topic(partitions=2)
    assert asyncio.run(describe(connection))[name].partitions == 2
    assert asyncio.run(describe(connection, [])) == {}


def test_watermarks_count_open_transactions(connection: Connection, topic: TopicFactory) -> None:
    name = topic(partitions=2)

    async def send() -> dict[int, tuple[int, int]]:
        producer = AIOKafkaProducer(**connection.client_kwargs(), transactional_id=f"{name}-open")
        await producer.start()
        try:
            async with producer.transaction():
                await producer.send_and_wait(name, b"x", partition=1)
                return await watermarks(connection, name)
        finally:
            await producer.stop()

    assert asyncio.run(send()) == {0: (0, 0), 1: (0, 1)}
    assert asyncio.run(watermarks(connection, name)) == {0: (0, 0), 1: (0, 2)}  # the marker counts
