"""Kafka record batches of everything that goes out in one transaction, made in a thread beside the event loop."""

from __future__ import annotations

import struct
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from streamproc.core.processor import Headers
from streamproc.core.state import changelog_key
from streamproc.kafka.lane import Entry, Outgoing, Share, Work

MAX_BATCH_BYTES = 900_000  # a record batch has to stay under the broker's default of 1,048,588

# Where the fields of a record batch are, by Kafka's message format 2.
CRC = struct.Struct(">I")
CRC_AT = 17
ATTRIBUTES_AT = 21  # the checksum is of all from here on
PRODUCER = struct.Struct(">qhi")
PRODUCER_AT = 43


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """A record batch of ``records`` records: ``data`` is complete, and compressed, but for who sends it."""

    data: bytearray
    records: int

    def seal(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        """Write in who sends it, and as what number of his, and the checksum."""
        PRODUCER.pack_into(self.data, PRODUCER_AT, producer_id, producer_epoch, base_sequence)
        CRC.pack_into(self.data, CRC_AT, calc_crc32c(memoryview(self.data)[ATTRIBUTES_AT:]))


def encode(app: str, works: Sequence[Work], limits: Mapping[str, int]) -> dict[tuple[str, int], list[RecordBatch]]:
    """Record batches for everything that the works send, changelogs included, by topic and partition.

    ``limits`` are the most bytes of a batch, by topic.
    """
    merged: Outgoing = defaultdict(list)
    for work in works:
        for target, entries in work.outgoing.items():
            merged[target] += entries
        for share in work.shares:
            changes = changelog_entries(share)
            if changes:
                merged[work.agent.changelog(app), share.lane.partition] += changes
    now = int(time.time() * 1000)
    return {
        target: record_batches(entries, now, limits.get(target[0], MAX_BATCH_BYTES))
        for target, entries in merged.items()
    }


def changelog_entries(share: Share) -> list[Entry]:
    """What a share changes in its lane's tables."""
    return [
        (changelog_key(table, key), value, ())
        for table, entries in share.effects.state.items()
        for key, value in entries.items()
    ]


def record_batches(entries: list[Entry], timestamp: int, limit: int) -> list[RecordBatch]:
    """The entries as record batches of at most ``limit`` bytes before compression, but of at least one record."""
    size = min(MAX_BATCH_BYTES, limit)
    lists: dict[Headers, list[tuple[str, bytes | None]]] = {}  # most records of a topic have the same headers
    builder, count, full = _builder(size), 0, []
    for key, value, headers in entries:
        listed = lists.get(headers)
        if listed is None:
            listed = lists[headers] = list(headers)
        if builder.append(count, timestamp, key, value, listed) is None:
            full.append(RecordBatch(builder.build(), count))
            builder, count = _builder(size), 0
            builder.append(count, timestamp, key, value, listed)
        count += 1
    return [*full, RecordBatch(builder.build(), count)]


def _builder(size: int) -> DefaultRecordBatchBuilder:
    # Decisions shrink to less than a third. zstd would halve that again, at twice the time.
    return DefaultRecordBatchBuilder(
        magic=2,
        compression_type=DefaultRecordBatch.CODEC_SNAPPY,
        is_transactional=1,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=0,
        batch_size=size,
    )
