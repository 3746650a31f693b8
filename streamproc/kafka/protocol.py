"""Requests that aiokafka 0.14 lacks: KIP-447's checked offsets in a transaction, stable offset reads, and KIP-320's
question of how far a log agrees with one that was seen before.

Field order and types follow Apache Kafka's message definitions (``TxnOffsetCommitRequest.json`` and the others).
aiokafka negotiates per connection: a broker without these versions answers with ``IncompatibleBrokerVersion``.
"""

from __future__ import annotations

from typing import Any

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

TEXT = CompactString("utf-8")
TAGS = ("tags", TaggedFields)


def _array(name: str, *fields: tuple[str, Any]) -> tuple[str, Any]:
    return (name, CompactArray(*fields, TAGS))


def _by_partition(*fields: tuple[str, Any]) -> tuple[str, Any]:
    """Topics by name, each with its partitions, which have these fields."""
    return _array("topics", ("name", TEXT), _array("partitions", *fields))


class TxnOffsetCommitResponse_v3(Response):  # noqa: N801 - aiokafka's way of naming versions
    """An error code per partition; 0 is good."""

    API_KEY = 28
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        _by_partition(("partition", Int32), ("error_code", Int16)),
        TAGS,
    )


class TxnOffsetCommitRequest_v3(RequestStruct):  # noqa: N801
    """The first version with the member's id and generation (KIP-447)."""

    API_KEY = 28
    API_VERSION = 3
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = TxnOffsetCommitResponse_v3
    SCHEMA = Schema(
        ("transactional_id", TEXT),
        ("group_id", TEXT),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("generation_id", Int32),
        ("member_id", TEXT),
        ("group_instance_id", TEXT),
        _by_partition(("partition", Int32), ("offset", Int64), ("leader_epoch", Int32), ("metadata", TEXT)),
        TAGS,
    )


class OffsetFetchResponse_v7(Response):  # noqa: N801
    """An offset and its metadata per partition: offset -1 where nothing was committed."""

    API_KEY = 9
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        _by_partition(
            ("partition", Int32), ("offset", Int64), ("leader_epoch", Int32), ("metadata", TEXT), ("error_code", Int16)
        ),
        ("error_code", Int16),
        TAGS,
    )


class OffsetFetchRequest_v7(RequestStruct):  # noqa: N801
    """The first version with ``require_stable`` (KIP-447)."""

    API_KEY = 9
    API_VERSION = 7
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = OffsetFetchResponse_v7
    SCHEMA = Schema(
        ("group", TEXT),
        _array("topics", ("name", TEXT), ("partitions", CompactArray(Int32))),
        ("require_stable", Boolean),
        TAGS,
    )


class OffsetCommitResponse_v8(Response):  # noqa: N801
    """An error code per partition; 0 is good."""

    API_KEY = 8
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        _by_partition(("partition", Int32), ("error_code", Int16)),
        TAGS,
    )


class OffsetCommitRequest_v8(RequestStruct):  # noqa: N801
    """The first flexible version; generation and member are as in older ones."""

    API_KEY = 8
    API_VERSION = 8
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = OffsetCommitResponse_v8
    SCHEMA = Schema(
        ("group_id", TEXT),
        ("generation_id", Int32),
        ("member_id", TEXT),
        ("group_instance_id", TEXT),
        _by_partition(("partition", Int32), ("offset", Int64), ("leader_epoch", Int32), ("metadata", TEXT)),
        TAGS,
    )


class OffsetForLeaderEpochResponse_v4(Response):  # noqa: N801
    """Where the records of the youngest epoch end that is not after the one asked for; -1 where there is none."""

    API_KEY = 23
    API_VERSION = 4
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        _by_partition(("error_code", Int16), ("partition", Int32), ("leader_epoch", Int32), ("end_offset", Int64)),
        TAGS,
    )


class OffsetForLeaderEpochRequest_v4(RequestStruct):  # noqa: N801
    """The first flexible version. A client's replica id is -1; so is the current epoch, where it does not matter."""

    API_KEY = 23
    API_VERSION = 4
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = OffsetForLeaderEpochResponse_v4
    SCHEMA = Schema(
        ("replica_id", Int32),
        _by_partition(("partition", Int32), ("current_leader_epoch", Int32), ("leader_epoch", Int32)),
        TAGS,
    )


class OffsetForLeaderEpochRequest(Request[OffsetForLeaderEpochRequest_v4]):
    """Where epochs of leaders end in their partitions' logs: to be asked of the leaders."""

    API_KEY = 23

    def __init__(self, *fields: Any) -> None:
        self._fields = fields

    def build(self, request_struct_class: type[OffsetForLeaderEpochRequest_v4]) -> OffsetForLeaderEpochRequest_v4:
        """The request of the version that was negotiated."""
        return request_struct_class(-1, *self._fields, {})


class TxnOffsetCommitRequest(Request[TxnOffsetCommitRequest_v3]):
    """Offsets in a transaction, refused unless the generation and the member are the group's current ones."""

    API_KEY = 28

    def __init__(self, *fields: Any) -> None:
        self._fields = fields

    def build(self, request_struct_class: type[TxnOffsetCommitRequest_v3]) -> TxnOffsetCommitRequest_v3:
        """The request of the version that was negotiated."""
        return request_struct_class(*self._fields, {})


class OffsetFetchRequest(Request[OffsetFetchRequest_v7]):
    """Committed offsets; with ``require_stable`` none is told while a transaction is pending on it."""

    API_KEY = 9

    def __init__(self, *fields: Any) -> None:
        self._fields = fields

    def build(self, request_struct_class: type[OffsetFetchRequest_v7]) -> OffsetFetchRequest_v7:
        """The request of the version that was negotiated."""
        return request_struct_class(*self._fields, {})


class OffsetCommitRequest(Request[OffsetCommitRequest_v8]):
    """Offsets outside a transaction, checked against generation and member."""

    API_KEY = 8

    def __init__(self, *fields: Any) -> None:
        self._fields = fields

    def build(self, request_struct_class: type[OffsetCommitRequest_v8]) -> OffsetCommitRequest_v8:
        """The request of the version that was negotiated."""
        return request_struct_class(*self._fields, {})
