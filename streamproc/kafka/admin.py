"""Topics: what they should be, what they are, and how the two differ."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest

from streamproc.errors import BrokerUnavailable, EnvironmentFault, UserError
from streamproc.kafka.connection import Connection, probe
from streamproc.kafka.metadata import NO_ID, TopicsRequest

READY_SECONDS = 30.0
POLL_SECONDS = 0.05
DEFAULT_LIMIT = 1_048_588  # the broker's default of message.max.bytes
_TOPIC = 2  # the resource type in requests about configuration

_UNKNOWN = (kafka_errors.UnknownTopicOrPartitionError,)
_NOT_YET = (
    kafka_errors.UnknownTopicOrPartitionError,
    kafka_errors.LeaderNotAvailableError,
)


@dataclass(frozen=True)
class TopicSpec:
    """A topic as it should be. What is None is the broker's to choose.

    ``replication`` None is three, or as many as there are brokers. ``retention_ms`` is the least that
    will do; -1 is for ever.
    """

    name: str
    partitions: int
    replication: int | None = None
    cleanup_policy: str = "delete"
    retention_ms: int | None = None
    max_message_bytes: int | None = None
    config: Mapping[str, str] = field(default_factory=dict)
    internal: bool = False

    @property
    def configs(self) -> dict[str, str]:
        """The topic's configuration in Kafka's names."""
        configs = {"cleanup.policy": self.cleanup_policy}
        if self.retention_ms is not None:
            configs["retention.ms"] = str(self.retention_ms)
        if self.max_message_bytes is not None:
            configs["max.message.bytes"] = str(self.max_message_bytes)
        return configs | dict(self.config)


@dataclass(frozen=True)
class TopicInfo:
    """A topic as it is. ``topic_id`` is Kafka's text form of the id; a topic made anew has another one.

    A broker without topic ids (with metadata of before 2.8) gives none: the text is empty then, and nothing follows
    from two that are alike. ``epochs`` are the epochs of the partitions' leaders, by number.
    """

    name: str
    topic_id: str
    partitions: int
    replication: int
    configs: Mapping[str, str]
    has_leaders: bool
    epochs: tuple[int, ...] = ()

    @property
    def most_bytes(self) -> int:
        """The most bytes of a record batch."""
        return int(self.configs.get("max.message.bytes", DEFAULT_LIMIT))


@dataclass(frozen=True)
class Mismatch:
    """One way in which a topic is not what it should be, and what to do about it."""

    topic: str
    what: str
    expected: str
    actual: str
    remedy: str

    def __str__(self) -> str:
        return f"topic {self.topic}: {self.what} is {self.actual}, not {self.expected}"


def mismatches(spec: TopicSpec, info: TopicInfo) -> list[Mismatch]:
    """How the topic differs from its specification, in a way that matters."""
    found = []

    def differs(what: str, expected: object, actual: object, remedy: str) -> None:
        found.append(Mismatch(spec.name, what, str(expected), str(actual), remedy))

    if info.partitions != spec.partitions:
        remedy = (
            "delete the topic and let streamproc make it again"
            if spec.internal
            else "use equal partition counts for all topics of an agent, or another topic"
        )
        differs("its partition count", spec.partitions, info.partitions, remedy)
    if spec.replication is not None and info.replication < spec.replication:
        differs("its replication factor", spec.replication, info.replication, "kafka-reassign-partitions")
    for name, expected in spec.configs.items():
        actual = info.configs.get(name)
        if actual is not None and not _satisfies(name, expected, actual):
            at_least = "at least " if name in _MINIMA else ""
            change = f"kafka-configs --alter --topic {spec.name} --add-config {name}=[{expected}]"
            differs(name, at_least + expected, actual, change)
    return found


_MINIMA = (
    "retention.ms",
    "retention.bytes",
    "max.message.bytes",
    "delete.retention.ms",
    "min.insync.replicas",
)


def _satisfies(name: str, expected: str, actual: str) -> bool:
    if name == "cleanup.policy":
        return _words(expected) == _words(actual)
    if name in _MINIMA:
        return int(actual) < 0 or (int(expected) >= 0 and int(actual) >= int(expected))
    return expected == actual


def _words(text: str) -> set[str]:
    return {word.strip() for word in text.split(",")}


async def describe(connection: Connection, names: Sequence[str] | None = None) -> dict[str, TopicInfo]:
    """The topics among ``names`` that exist; all topics for None.

    Raises UserError that names the ACL where a permission is missing.
    """
    async with _client(connection) as client:
        return await _describe(client, names)


async def leader_epochs(connection: Connection, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The epochs of the leaders of those topics that exist, by partition. A broker may be behind, never ahead."""
    async with _client(connection) as client:
        return {name: topic.epochs for name, topic in (await _topics(client, names)).items()}


async def create(connection: Connection, specs: Sequence[TopicSpec]) -> list[str]:
    """Make the topics that do not exist, wait until each has its leaders, and return the names of those made.

    Existing topics are left as they are: ``mismatches`` says how they differ.
    """
    async with _client(connection) as client:
        existing = await _topics(client, [spec.name for spec in specs])
        missing = [spec for spec in specs if spec.name not in existing]
        made = await _create(client, missing)
        await _wait_for_leaders(client, [spec.name for spec in specs])
        return made


async def delete_topics(connection: Connection, names: Sequence[str]) -> None:
    """Delete the topics that exist, and wait until they are gone."""
    async with _client(connection) as client:
        answer = await _send(client, DeleteTopicsRequest(list(names), 30_000))
        for name, code in answer.topic_error_codes:
            _check(code, "Delete", f"topic {name}", ignore=_UNKNOWN)
        async with _bounded(f"topics {', '.join(names)} were not deleted in time"):
            while True:
                if not await _topics(client, list(names)):
                    return
                await asyncio.sleep(POLL_SECONDS)


async def watermarks(connection: Connection, topic: str) -> dict[int, tuple[int, int]]:
    """Per partition, the first offset that is kept and the one after the last, open transactions included."""
    async with _client(connection) as client:
        if topic not in await _topics(client, [topic]):
            raise UserError(f"topic {topic} does not exist", hint="`streamproc topics FILE --create` makes it")
        info = (await _topics(client, [topic]))[topic]
    consumer = AIOKafkaConsumer(**connection.client_kwargs(), isolation_level="read_uncommitted")
    try:
        await consumer.start()
        partitions = [TopicPartition(topic, number) for number in range(len(info.partitions))]
        async with _bounded(f"the broker did not tell the offsets of {topic} in time"):
            low = await consumer.beginning_offsets(partitions)
            high = await consumer.end_offsets(partitions)
    except kafka_errors.TopicAuthorizationFailedError as error:
        raise _denied("Describe", f"topic {topic}") from error
    except kafka_errors.KafkaError as error:
        raise BrokerUnavailable(f"the broker did not tell the offsets of {topic}: {error}") from error
    finally:
        await consumer.stop()
    return {one.partition: (low[one], high[one]) for one in partitions}


# the requests


@dataclass(frozen=True)
class _Topic:
    topic_id: bytes
    leaders: tuple[int, ...]
    epochs: tuple[int, ...]
    partitions: tuple[int, ...]
    replication: int


@asynccontextmanager
async def _client(connection: Connection) -> AsyncIterator[Any]:
    await probe(connection)  # its errors say what is wrong, aiokafka's do not
    client = AIOKafkaClient(**connection.client_kwargs())
    try:
        await client.bootstrap()
        yield client
    except (kafka_errors.KafkaError, OSError) as error:
        raise BrokerUnavailable(f"the broker at {connection.address} failed: {error}") from error
    finally:
        await client.close()


async def _send(client: Any, request: Any) -> Any:
    """To any broker: what only the controller can do is forwarded to it."""
    return await client.send(client.get_random_node(), request)


async def _topics(client: Any, names: Sequence[str] | None) -> dict[str, _Topic]:
    answer = await _send(client, TopicsRequest(None if names is None else list(names)))
    found = {}
    for code, name, topic_id, _, partitions, *_ in answer.topics:
        if kafka_errors.for_code(code) in _UNKNOWN:
            continue
        _check(code, "Describe", f"topic {name}", ignore=_NOT_YET)
        rows = sorted(partitions, key=lambda row: row[1])
        found[name] = _Topic(
            topic_id=topic_id,
            leaders=tuple(row[2] for row in rows),
            epochs=tuple(row[3] for row in rows),
            partitions=tuple(row[1] for row in rows),
            replication=min((len(row[4]) for row in rows), default=0),
        )
    return found


async def _describe(client: Any, names: Sequence[str] | None) -> dict[str, TopicInfo]:
    topics = await _topics(client, names)
    configs = await _configs(client, topics)
    return {
        name: TopicInfo(
            name=name,
            topic_id=id_text(topic.topic_id),
            partitions=len(topic.partitions),
            replication=topic.replication,
            configs=configs[name],
            has_leaders=_has_leaders(topic),
            epochs=topic.epochs,
        )
        for name, topic in topics.items()
    }


def id_text(topic_id: bytes) -> str:
    """A topic's id as Kafka writes it, or an empty text where the broker knows none.

    >>> id_text(bytes(15) + b"1"), id_text(bytes(16))
    ('AAAAAAAAAAAAAAAAAAAAMQ', '')
    """
    return "" if topic_id == NO_ID else base64.urlsafe_b64encode(topic_id).decode().rstrip("=")


async def _configs(client: Any, names: Iterable[str]) -> dict[str, dict[str, str]]:
    resources = [(_TOPIC, name, None) for name in names]
    if not resources:
        return {}
    answer = await _send(client, DescribeConfigsRequest(resources, False))
    found = {}
    for code, _, _, name, entries in answer.resources:
        _check(code, "DescribeConfigs", f"topic {name}", ignore=_UNKNOWN)
        found[name] = {entry[0]: entry[1] for entry in entries if entry[1] is not None}
    return {name: found.get(name, {}) for name in names}


async def _create(client: Any, specs: Sequence[TopicSpec]) -> list[str]:
    if not specs:
        return []
    brokers = len(client.cluster.brokers())
    wanted: Any = [
        (spec.name, spec.partitions, spec.replication or min(3, brokers), [], list(spec.configs.items()))
        for spec in specs
    ]
    answer = await _send(client, CreateTopicsRequest(wanted, 30_000, False))
    made = []
    for name, code, message in answer.topic_errors:
        # somebody else may make it at the same time
        _check(code, "Create", f"topic {name}", message, ignore=(kafka_errors.TopicAlreadyExistsError,))
        if code == 0:
            made.append(name)
    return made


async def _wait_for_leaders(client: Any, names: Sequence[str]) -> None:
    async with _bounded(f"topics {', '.join(names)} had no leaders in time"):
        while True:
            topics = await _topics(client, names)
            if all(name in topics and _has_leaders(topics[name]) for name in names):
                return
            await asyncio.sleep(POLL_SECONDS)


def _has_leaders(topic: _Topic) -> bool:
    return bool(topic.leaders) and all(leader >= 0 for leader in topic.leaders)


@asynccontextmanager
async def _bounded(message: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(READY_SECONDS):
            yield
    except TimeoutError:
        raise EnvironmentFault(f"{message} ({READY_SECONDS:.0f} s)") from None


def _check(code: int, operation: str, resource: str, message: str | None = None, ignore: tuple[type, ...] = ()) -> None:
    error = kafka_errors.for_code(code)
    if code == 0 or error in ignore:
        return
    if error in (kafka_errors.TopicAuthorizationFailedError, kafka_errors.ClusterAuthorizationFailedError):
        raise _denied(operation, resource)
    if error is kafka_errors.InvalidTopicError:
        raise UserError(f"{resource.removeprefix('topic ')!r} cannot be the name of a topic")
    if error.retriable or error in (kafka_errors.RequestTimedOutError, kafka_errors.UnknownError):
        raise BrokerUnavailable(f"{operation} of {resource} failed for now: {error.__name__}", "try again")
    raise UserError(f"{operation} of {resource} was refused: {message or error.__name__}")


def _denied(operation: str, resource: str) -> UserError:
    kind, _, name = resource.partition(" ")
    return UserError(
        f"not allowed: {operation} on {resource}",
        hint=f"grant it: kafka-acls --add --allow-principal User:… --operation {operation} --{kind} {name}",
    )
