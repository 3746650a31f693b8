"""Kafka record batches of everything that goes out together; for a transaction in a thread beside the event loop.

aiokafka has a builder that takes one record at a time; here a batch is known as a whole, and is put together by
column. The layout is Kafka's message format 2.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TypeAlias

import cramjam
import numpy as np
from aiokafka.record.util import calc_crc32c
from numpy.typing import NDArray

from streamproc.core.processor import Headers
from streamproc.core.state import changelog_key
from streamproc.kafka.lane import Entries, Outgoing, Share, Work

MAX_BATCH_BYTES = 900_000  # a record batch has to stay under the broker's default of 1,048,588

# base offset, length, leader epoch, magic, checksum, attributes, last offset, first and last timestamp, producer id,
# producer epoch, first sequence number, count
HEADER = struct.Struct(">qiibIhiqqqhii")
LENGTH_FROM = 12  # the length is of all from here on
NO_EPOCH = -1
MAGIC = 2
SNAPPY, TRANSACTIONAL = 2, 0x10
SNAPPY_HEADER = b"\x82SNAPPY\0" + (1).to_bytes(4, "big") * 2
SNAPPY_BLOCK = 32 << 10
CRC = struct.Struct(">I")
CRC_AT = 17
ATTRIBUTES_AT = 21  # the checksum is of all from here on
PRODUCER = struct.Struct(">qhi")
PRODUCER_AT = 43
NO_ATTRIBUTES_NO_DELAY = b"\0\0"
NULL_LENGTH = -1
MOST_KEPT = 1 << 15
LIMITS = (1 << 6, 1 << 13, 1 << 20, 1 << 27)
"""A number takes one byte more from each of these on."""


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """A record batch of ``records`` records: ``data`` is complete, and compressed, but for who sends it."""

    data: bytearray
    records: int

    def seal(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        """Write in who sends it, and as what number of his, and the checksum."""
        PRODUCER.pack_into(self.data, PRODUCER_AT, producer_id, producer_epoch, base_sequence)
        CRC.pack_into(self.data, CRC_AT, calc_crc32c(memoryview(self.data)[ATTRIBUTES_AT:]))


Batches: TypeAlias = dict[tuple[str, int], list[RecordBatch]]
"""By topic and partition."""


def encode(app: str, work: Work, limits: Mapping[str, int]) -> Batches:
    """Record batches for everything that a work sends, changelogs included. Its own records are let go of.

    ``limits`` are the most bytes of a batch, by topic.
    """
    outgoing, work.outgoing = work.outgoing, {}
    changelog = work.agent.changelog(app)
    for share in work.shares:
        changes = changelog_entries(share)
        if len(changes):
            outgoing[changelog, share.lane.partition] = changes
    return record_batches(outgoing, int(time.time() * 1000), limits)


def changelog_entries(share: Share) -> Entries:
    """What a share changes in its lane's tables."""
    entries = Entries()
    for table, changed in share.effects.state.items():
        entries.keys += [changelog_key(table, key) for key in changed]
        entries.values += changed.values()
    entries.headers = [()] * len(entries)
    return entries


def record_batches(
    outgoing: Outgoing, timestamp: int, limits: Mapping[str, int], attributes: int = SNAPPY | TRANSACTIONAL
) -> Batches:
    """Everything as record batches, each of at most its topic's limit before compression, but of at least one record.

    The numbers in front of all parts of all records are worked out together: one partition may have only a few.
    """
    whole = Entries()
    for entries in outgoing.values():
        whole.extend(entries)
    keys, values, headers = _lengths(whole.keys), _lengths(whole.values), _headers(whole.headers)
    sizes = 2 + _width(keys) + np.maximum(keys, 0) + _width(values) + np.maximum(values, 0) + _lengths(headers)
    most = sizes + len(LIMITS) + 1  # with the widest of numbers within the batch
    ends = np.cumsum(most + _width(most))
    targets, cuts = _cut(outgoing, ends, limits)
    counts = np.diff(cuts)
    numbers = np.arange(len(whole)) - np.repeat(cuts[:-1], counts)
    parts: list[bytes] = [b""] * (8 * len(whole))
    parts[0::8] = _varints(sizes + _width(numbers))
    parts[1::8] = repeat(NO_ATTRIBUTES_NO_DELAY, len(whole))
    parts[2::8] = _varints(numbers)
    parts[3::8] = _varints(keys)
    parts[4::8] = _present(whole.keys)
    parts[5::8] = _varints(values)
    parts[6::8] = _present(whole.values)
    parts[7::8] = headers
    batches: Batches = {target: [] for target in outgoing}
    for target, begin, end in zip(targets, cuts, cuts[1:], strict=False):
        batches[target].append(_batch(b"".join(parts[8 * begin : 8 * end]), end - begin, timestamp, attributes))
    return batches


def _cut(
    outgoing: Outgoing, ends: NDArray[np.int64], limits: Mapping[str, int]
) -> tuple[list[tuple[str, int]], list[int]]:
    """The target of each batch, and where it begins, with the end of the last. ``ends`` are sums of records' sizes."""
    targets, cuts, end = [], [0], 0
    for target, entries in outgoing.items():
        room = min(MAX_BATCH_BYTES, limits.get(target[0], MAX_BATCH_BYTES)) - HEADER.size
        end += len(entries)
        while cuts[-1] < end:
            begin = cuts[-1]
            before = int(ends[begin - 1]) if begin else 0
            fitting = int(np.searchsorted(ends, before + room, side="right"))
            targets.append(target)
            cuts.append(min(max(fitting, begin + 1), end))
    return targets, cuts


def _batch(records: bytes, count: int, timestamp: int, attributes: int) -> RecordBatch:
    payload = records
    if attributes & SNAPPY:
        packed = _snappy(records)
        payload, attributes = (packed, attributes) if len(packed) < len(records) else (records, attributes & ~SNAPPY)
    data = bytearray(HEADER.size + len(payload))
    length, last = len(data) - LENGTH_FROM, count - 1
    times = (timestamp, timestamp)
    HEADER.pack_into(data, 0, 0, length, NO_EPOCH, MAGIC, 0, attributes, last, *times, -1, -1, 0, count)
    data[HEADER.size :] = payload
    return RecordBatch(data, count)


def _snappy(data: bytes) -> bytes:
    """The framing of snappy-java, which is what Kafka takes. Decisions shrink to less than a third.

    zstd would halve that again, at twice the time.
    """
    view, parts = memoryview(data), [SNAPPY_HEADER]
    for begin in range(0, len(data), SNAPPY_BLOCK):
        block = bytes(cramjam.snappy.compress_raw(view[begin : begin + SNAPPY_BLOCK]))
        parts += [len(block).to_bytes(4, "big"), block]
    return b"".join(parts)


def _headers(headers: Sequence[Headers]) -> list[bytes]:
    """Each record's headers as they stand in it, with their number in front."""
    made: dict[Headers, bytes] = {}  # most records have the same headers
    for one in set(headers):
        parts = [VARINTS[len(one)]]
        for name, content in one:
            encoded = name.encode()
            length = NULL_LENGTH if content is None else len(content)
            parts += [VARINTS[len(encoded)], encoded, VARINTS[length], content or b""]
        made[one] = b"".join(parts)
    return [made[one] for one in headers]


def _present(parts: list[bytes | None]) -> list[bytes]:
    return parts if None not in parts else [part or b"" for part in parts]  # type: ignore[return-value]


def _lengths(parts: Sequence[bytes | None]) -> NDArray[np.int64]:
    lengths = map(len, parts) if None not in parts else (NULL_LENGTH if one is None else len(one) for one in parts)  # type: ignore[arg-type]
    return np.fromiter(lengths, np.int64, len(parts))


def _width(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many bytes each number takes; none is below -1."""
    return 1 + np.searchsorted(LIMITS, numbers, side="right")


def _varints(numbers: NDArray[np.int64]) -> list[bytes]:
    return list(map(VARINTS.__getitem__, numbers.tolist()))


class _Varints(dict[int, bytes]):
    """Numbers as zigzag varints, as Protocol Buffers define them. Those that come up again are kept.

    >>> VARINTS[-1], VARINTS[63], VARINTS[64]
    (b'\\x01', b'~', b'\\x80\\x01')
    """

    def __missing__(self, number: int) -> bytes:
        rest, made = number << 1 ^ number >> 63, bytearray()
        while rest > 0x7F:
            made.append(rest & 0x7F | 0x80)
            rest >>= 7
        made.append(rest)
        if number < MOST_KEPT:
            self[number] = bytes(made)
        return bytes(made)


VARINTS = _Varints()
