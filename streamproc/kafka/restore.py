"""Lane state from its changelog."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka_errors

from streamproc.core.processor import Records
from streamproc.core.state import Tables, changes_of
from streamproc.kafka import failpoints
from streamproc.kafka.connection import Connection
from streamproc.kafka.failpoints import failpoint
from streamproc.kafka.fetching import take

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
MOST_RECORDS = 10_000  # at once, so that the event loop gets its turn
FETCH_BYTES = 4 << 20


async def restore(
    connection: Connection,
    changelogs: Mapping[TopicPartition, Tables],
    progress: Callable[[int], None],
    since: Mapping[TopicPartition, int] | None = None,
) -> tuple[int, dict[TopicPartition, int]]:
    """Fill the tables from committed changelog records, where stated only from an offset on.

    Returns how many records were read, and up to which offset each changelog was. A changelog that does not have such
    an offset, or loses the one that is to be read next, is read from its beginning into tables that were emptied.

    Reads up to the high watermark, not the last stable offset: that one may lag behind markers of a committed
    transaction that are still on their way to this partition. ``progress`` is told the records read so far.
    """
    if not changelogs:
        return 0, {}
    limits = await bounds(connection, list(changelogs))
    ends = {tp: end for tp, (_, end) in limits.items()}
    since = dict(since or {})
    for tp, offset in list(since.items()):
        low, high = limits[tp]
        if not low <= offset <= high:
            log.warning("%s-%d has no offset %d any more: it is read whole", tp.topic, tp.partition, offset)
            changelogs[tp].clear()
            del since[tp]
    read, behind = 0, {tp for tp in changelogs if ends[tp] > since.get(tp, 0)}
    if not behind:
        return 0, ends
    consumer = AIOKafkaConsumer(
        **connection.client_kwargs(),
        isolation_level="read_committed",
        auto_offset_reset="none",  # else it would begin again by itself, on top of what the tables have
        enable_auto_commit=False,
        fetch_max_wait_ms=50,
        max_partition_fetch_bytes=FETCH_BYTES,
    )
    await consumer.start()
    try:
        consumer.assign(list(changelogs))
        for tp, offset in since.items():
            consumer.seek(tp, offset)
        if whole := changelogs.keys() - since.keys():
            await consumer.seek_to_beginning(*whole)
        while behind:
            moved = False
            try:
                fetched = await take(consumer, behind, seconds=POLL_SECONDS, most=MOST_RECORDS)
            except kafka_errors.OffsetOutOfRangeError as error:
                lost = list(error.args[0])
                for tp in lost:
                    log.warning("%s-%d lost the offset to be read next: it is read whole", tp.topic, tp.partition)
                    changelogs[tp].clear()
                ends |= {tp: end for tp, (_, end) in (await bounds(connection, lost)).items()}
                await consumer.seek_to_beginning(*lost)
                continue
            for tp, records in fetched.items():
                _apply(changelogs[tp], records)
                read += len(records)
                moved = True
                failpoint(failpoints.RESTORING)
            for tp in list(behind):
                if await consumer.position(tp) >= ends[tp]:
                    behind.discard(tp)
                    moved = True
            if moved:
                progress(read)
        return read, ends
    finally:
        await consumer.stop()


def _apply(tables: Tables, records: Records) -> None:
    assert None not in records.keys, "a changelog record has no key"
    tables.apply(changes_of(records.keys, records.values))  # type: ignore[arg-type]


async def bounds(connection: Connection, partitions: list[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
    """First offset and one past the last of each partition, committed or not."""
    consumer = AIOKafkaConsumer(**connection.client_kwargs(), isolation_level="read_uncommitted")
    await consumer.start()
    try:
        ends, begins = await consumer.end_offsets(partitions), await consumer.beginning_offsets(partitions)
    finally:
        await consumer.stop()
    return {tp: (begins[tp], ends[tp]) for tp in partitions}
