"""Records that aiokafka cannot decode, as the name of a header is not UTF-8: fetched again, and read without headers.

For what reads no headers, and so need not stop at one.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.util import decode_varint

from streamproc.core.processor import Records
from streamproc.errors import HeaderNotText
from streamproc.kafka.fetching import columns, next_batch, take

FETCH_BYTES = 1 << 20
"""At most, but for a single batch that is larger."""
WAIT_MS = 500
LENGTH = slice(8, 12)
"""Where a batch says how many bytes come behind that."""
OLD_API = 10
"""Versions above this one have a field more behind the aborted transactions."""


class Plain(NamedTuple):
    """A record without its headers; ``named`` is whether their names are all UTF-8."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    named: bool
    headers: tuple[()] = ()


async def take_any(
    consumer: AIOKafkaConsumer, wanted: Collection[TopicPartition], *, seconds: float, most: int
) -> dict[TopicPartition, Records]:
    """``take`` without a wait for more, whatever the names of headers are: beside one that is not UTF-8 records come
    without headers."""
    try:
        return await take(consumer, wanted, seconds=seconds, most=most, more=0.0)
    except HeaderNotText as error:
        tp = TopicPartition(error.topic, error.partition)
        records, _, behind = await read_by_hand(consumer, tp)
        consumer.seek(tp, behind)
        return {tp: records}


async def read_by_hand(consumer: AIOKafkaConsumer, tp: TopicPartition) -> tuple[Records, list[int], int]:
    """Some committed records of a partition from the consumer's position on, without headers; the places of those with
    a name that is not UTF-8; and the offset behind them all. The position stays where it is.

    Raises KafkaError where the broker does not give them.
    """
    position = await consumer.position(tp)
    data, aborted = await _fetch(consumer, tp, position)
    source = PartitionRecords(tp, _Batches(data), aborted, position, None, None, True, READ_COMMITTED)
    raw: list[Plain] = []
    while source._records.has_next():
        raw += next_batch(source)
    return columns(tp, raw), [place for place, record in enumerate(raw) if not record.named], source.next_fetch_offset


async def _fetch(consumer: AIOKafkaConsumer, tp: TopicPartition, position: int) -> tuple[bytes, Any]:
    """The bytes of record batches, and which transactions among them were aborted."""
    client = consumer._client
    node = client.cluster.leader_for_partition(tp)
    if node is None or node == -1:
        raise kafka_errors.LeaderNotAvailableError(tp)
    wanted = [(tp.topic, [(tp.partition, position, FETCH_BYTES)])]
    response = await client.send(node, FetchRequest(WAIT_MS, 1, FETCH_BYTES, READ_COMMITTED, wanted))
    [(_, [(_, code, _, *parts)])] = response.topics
    error = kafka_errors.for_code(code)
    if error is not kafka_errors.NoError:
        raise error(tp)
    return parts[-1], parts[-3 if response.API_VERSION > OLD_API else -2]


class _Batches:
    """The same as aiokafka's ``MemoryRecords``. What the end of a fetch has cut off is not among them."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = memoryview(data), 0

    def has_next(self) -> bool:
        return self._at + LENGTH.stop <= len(self._data) and self._end() <= len(self._data)

    def next_batch(self) -> _Batch:
        begin, self._at = self._at, self._end()
        return _Batch(self._data[begin : self._at])

    def _end(self) -> int:
        length = self._data[self._at + LENGTH.start : self._at + LENGTH.stop]
        return self._at + LENGTH.stop + int.from_bytes(length, "big")


class _Batch(_DefaultRecordBatchPy):
    """A record batch whose headers are passed over."""

    _pos: int

    def _read_msg(self) -> Plain:
        """Length, attributes, deltas of time and of offset, key, value, headers."""
        self._number(), self._number()
        time, offset = self._number(), self._number()
        key, value = self._bytes(), self._bytes()
        named = True
        for _ in range(self._number()):
            named &= _is_text(self._bytes())
            self._bytes()
        timestamp = self.max_timestamp if self.timestamp_type else self.first_timestamp + time
        return Plain(self.base_offset + offset, timestamp, key, value, named)

    def _number(self) -> int:
        number, self._pos = decode_varint(self._buffer, self._pos)
        return int(number)

    def _bytes(self) -> bytes | None:
        length = self._number()
        if length < 0:
            return None
        begin, self._pos = self._pos, self._pos + length
        return bytes(self._buffer[begin : self._pos])


def _is_text(name: bytes | None) -> bool:
    try:
        (name or b"").decode()
    except UnicodeDecodeError:
        return False
    return True
