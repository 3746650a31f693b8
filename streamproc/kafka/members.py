"""Who is in a consumer group now."""

from __future__ import annotations

from dataclasses import dataclass

from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.protocol.admin import DescribeGroupsRequest

from streamproc.errors import BrokerUnavailable, UserError
from streamproc.kafka.connection import Connection

NOT_HERE = frozenset({14, 15, 16})  # loading, coordinator not available, not coordinator
NO_GROUP = 69
DENIED = 30
TRIES = 20


@dataclass(frozen=True, slots=True)
class GroupMember:
    """One live member: its client id, and the host that it connects from."""

    client: str
    host: str

    def __str__(self) -> str:
        return f"{self.client} on {self.host}"


async def group_members(connection: Connection, group: str) -> list[GroupMember]:
    """The group's live members; a worker that was killed counts until its session times out.

    Raises UserError where asking is not allowed, BrokerUnavailable where nobody answers.
    """
    client = AIOKafkaClient(**connection.client_kwargs())
    try:
        await client.bootstrap()
        for _ in range(TRIES):
            coordinator = await client.coordinator_lookup(CoordinationType.GROUP, group)
            answer = await client.send(coordinator, DescribeGroupsRequest([group]), group=ConnectionGroup.COORDINATION)
            code, _, _, _, _, members, *_ = answer.groups[0]  # versions 0 to 3 begin alike
            if code in NOT_HERE:
                await client.force_metadata_update()
                continue
            if code == DENIED:
                raise UserError(
                    f"not allowed: Describe on group {group}",
                    f"grant it: kafka-acls --add --allow-principal User:… --operation Describe --group {group}",
                )
            if code not in (0, NO_GROUP):
                raise kafka_errors.for_code(code)(f"group {group}")
            return [GroupMember(client_id, host.lstrip("/")) for _, client_id, host, *_ in members]
        raise BrokerUnavailable(f"the coordinator of group {group} cannot be found")
    except (kafka_errors.KafkaError, OSError) as error:
        raise BrokerUnavailable(f"the broker at {connection.address} failed: {error}") from error
    finally:
        await client.close()
