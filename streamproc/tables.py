"""The tables of a pipeline, in memory while its worker runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from aiokafka import AIOKafkaConsumer

from streamproc import metrics
from streamproc.core.plan import LookupSource
from streamproc.core.table import RowReader
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.follower import reading
from streamproc.kafka.table import Table, TablePolicy
from streamproc.kafka.watchdog import guard
from streamproc.pipeline import Pipeline
from streamproc.plan.source_parts import TablePart

FETCH_BYTES = 4 << 20
FETCH_WAIT_MS = 200


@asynccontextmanager
async def holding(pipeline: Pipeline, connection: Connection) -> AsyncIterator[Sequence[Table]]:
    """The tables that features are looked up in, loaded, and followed until the end. Look-ups are answered by them."""
    async with AsyncExitStack() as stack:
        tables = list[Table]()
        for source in pipeline.plan.sources:
            part = pipeline.loaded.file.tables.get(source.name)
            if part is not None:
                tables.append(await stack.enter_async_context(_table(connection, source, part)))
        pipeline.answers.look_up_in({table.name: table for table in tables})
        yield tables


@asynccontextmanager
async def _table(connection: Connection, source: LookupSource, part: TablePart) -> AsyncIterator[Table]:
    assert source.contract is not None
    infos = await admin.describe(connection, [part.topic])
    consumer = AIOKafkaConsumer(
        **connection.client_kwargs(),
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=FETCH_WAIT_MS,
        max_partition_fetch_bytes=FETCH_BYTES,
    )
    policy = TablePolicy(
        source.name,
        part.topic,
        by_lane=source.by_lane,
        fresh=part.fresh,
        staleness=part.staleness.total_seconds(),
        timeout=part.timeout.total_seconds(),
    )
    try:
        with reading(connection, [part.topic]):
            await consumer.start()
            reader = RowReader(source.contract, tuple(source.fields))
            table = Table(policy, reader, consumer, infos[part.topic].partitions)
            await table.load()
            metrics.TABLE_ROWS.labels(table.name).set_function(table.__len__)
            metrics.TABLE_AGE.labels(table.name).set_function(table.age)
            keeping = [
                asyncio.create_task(guard(routine), name=f"table {table.name}")
                for routine in (table.follow(), table.check_ends())
            ]
            try:
                yield table
            finally:
                for task in keeping:
                    task.cancel()
                await asyncio.wait(keeping)
    finally:
        await consumer.stop()
