"""What aiokafka has fetched, taken by column and by record batch: no Python object and no generator step per record."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.consumer.fetcher import Fetcher, FetchError, FetchResult, PartitionRecords

from streamproc.core.processor import Records
from streamproc.errors import HeaderNotText

LITTLE = 1_000
MORE_SECONDS = 0.01
"""Where fewer than ``LITTLE`` records are there, the next fetch is waited for, so long."""
IDLE_WAIT_MS = 200


def fetch_without_pause(consumer: AIOKafkaConsumer, not_before: Callable[[], float] = lambda: 0.0) -> None:
    """Of a consumer that was started: aiokafka holds back fetches of all partitions of a broker for 100 ms while one
    has records that nobody took.

    It also has one fetch under way per broker, so a partition whose records were just taken waits for the others'.
    These may stay at the broker for long only when all partitions are among them. No fetch begins before ``not_before``
    (monotonic seconds).
    """
    fetcher = consumer._fetcher
    fetcher._prefetch_backoff = 0.0
    short, actions = fetcher._fetch_max_wait_ms, fetcher._get_actions_per_node

    def actions_per_node(assignment: Any) -> Any:
        fetcher._fetch_max_wait_ms = short if fetcher._records else max(short, IDLE_WAIT_MS)
        found = actions(assignment)
        left = not_before() - time.monotonic()
        if not found[0] or left <= 0.0:
            return found
        return [], found[1], min(found[2], left), *found[3:]

    fetcher._get_actions_per_node = actions_per_node


async def take(
    consumer: AIOKafkaConsumer,
    wanted: Collection[TopicPartition],
    *,
    seconds: float,
    most: int,
    more: float = MORE_SECONDS,
    enough: asyncio.Future[None] | None = None,
) -> dict[TopicPartition, Records]:
    """Committed records of the wanted partitions; waits up to ``seconds`` for some, and where there are few up to
    ``more`` for those behind them, until ``enough``. The consumer's positions follow.

    Stands for ``getmany``. Takes whole batches: the last one may go beyond ``most`` records. Raises what the fetch of a
    partition met.
    """
    with consumer._subscription.fetch_context():
        return await _take(consumer._fetcher, wanted, seconds, most, more, enough)


async def _take(
    fetcher: Fetcher,
    wanted: Collection[TopicPartition],
    seconds: float,
    most: int,
    more: float,
    enough: asyncio.Future[None] | None,
) -> dict[TopicPartition, Records]:
    if fetcher._subscriptions.reassignment_in_progress:
        await asyncio.sleep(seconds)  # not until it is over: the caller may hold what others wait for
        return {}
    taken: dict[TopicPartition, list[Any]] = {}
    _drain(fetcher, wanted, most, taken)
    # aiokafka fetches ahead, so what it has is what came just after the last time; with little of it, what has come
    # since is worth waiting for: it would be late by a whole transaction.
    if sum(map(len, taken.values())) < LITTLE and (more or not taken):
        waiter = fetcher._create_fetch_waiter()
        await asyncio.wait(
            [waiter] if enough is None else [waiter, enough],
            timeout=min(seconds, more) if taken else seconds,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if not waiter.done():
            waiter.cancel()
        elif (error := waiter.exception()) is not None and not taken:
            raise error
        if not fetcher._closed:
            _drain(fetcher, wanted, most, taken)
    return {tp: columns(tp, raw) for tp, raw in taken.items()}


def _drain(
    fetcher: Fetcher, wanted: Collection[TopicPartition], most: int, taken: dict[TopicPartition, list[Any]]
) -> None:
    """Add to what was ``taken``: raw records by partition."""
    for tp, result in list(fetcher._records.items()):
        if tp not in wanted:
            if not fetcher._subscriptions.is_assigned(tp):
                del fetcher._records[tp]
            continue
        if taken and type(result) is not FetchResult:
            break  # first these, or they would be lost: the error is raised the next time
        try:
            if type(result) is not FetchResult:
                result.check_raise()
            raw = _raw(result, most)
        except (kafka_errors.KafkaError, HeaderNotText):
            del fetcher._records[tp]  # the partition is fetched again from where it was
            fetcher._notify(fetcher._wait_consume_future)
            if taken:
                break
            raise
        except UnicodeDecodeError as error:
            told = HeaderNotText(tp.topic, tp.partition, result._partition_records.next_fetch_offset)
            if taken:
                fetcher._records[tp] = FetchError(error=told, backoff=0.0)
                break
            del fetcher._records[tp]
            raise told from error
        if not result.has_more():
            del fetcher._records[tp]
            fetcher._notify(fetcher._wait_consume_future)  # it may be fetched again
        if raw:
            taken.setdefault(tp, []).extend(raw)
            most -= len(raw)
            if most <= 0:
                break


def _raw(result: FetchResult, most: int) -> list[Any]:
    """The same as ``FetchResult.getall``, by batch."""
    if not result.check_assignment(result._topic_partition) or not result.has_more():
        return []
    source: PartitionRecords = result._partition_records
    raw: list[Any] = []
    while len(raw) < most:
        if not source._records.has_next():
            result._update_position()
            result._partition_records = None
            return raw
        raw += next_batch(source)
    result._update_position()
    return raw


def next_batch(source: PartitionRecords) -> list[Any]:
    """The same as one round of ``PartitionRecords._unpack_records`` with read_committed."""
    batch = source._records.next_batch()
    if source._check_crcs and not batch.validate_crc():
        raise kafka_errors.CorruptRecordException(f"Invalid CRC - {source._tp}")
    if batch.producer_id is not None:
        source._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch and source._contains_abort_marker(batch):
            source._aborted_producers.discard(batch.producer_id)
    aborted = batch.is_transactional and batch.producer_id in source._aborted_producers
    records = [] if batch.is_control_batch or aborted else list(batch)
    if records and records[0].offset < source.next_fetch_offset:  # a fetch from the middle of a batch
        records = [record for record in records if record.offset >= source.next_fetch_offset]
    source.next_fetch_offset = batch.next_offset
    return records


def columns(tp: TopicPartition, raw: list[Any]) -> Records:
    headers = [record.headers for record in raw]
    return Records(
        topic=tp.topic,
        partition=tp.partition,
        keys=[record.key for record in raw],
        values=[record.value for record in raw],
        headers=[tuple(one) for one in headers] if any(headers) else [()] * len(raw),
        offsets=np.array([record.offset for record in raw], np.int64),
        timestamps=np.array([record.timestamp for record in raw], np.int64),
    )
