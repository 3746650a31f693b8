"""``streamproc produce``: a file's rows as events."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import click
from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from streamproc.cli.options import connection_options
from streamproc.errors import BrokerUnavailable, UserError
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.rows import chunks, key_of
from streamproc.wording import counted

AHEAD_SECONDS = 0.005  # how far a paced producer may run ahead before it waits
LARGEST = 256 << 20  # the topic decides what is too large, not we


@dataclass
class Tally:
    """What became of the rows so far."""

    sent: int = 0
    acknowledged: int = 0
    without_key: int = 0
    bytes: int = 0
    failed: int = 0
    error: BaseException | None = None

    def settle(self, future: asyncio.Future[Any]) -> None:
        """Count what the broker said of one row; the first error is kept."""
        if future.cancelled():
            self.failed += 1
        elif error := future.exception():
            self.failed += 1
            self.error = self.error or error
        else:
            self.acknowledged += 1


@click.command(short_help="Send a file's rows to a topic.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--topic", required=True, help="The topic to send to.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Rows a second.  [default: no limit]")
@click.option("--key", "key_field", metavar="FIELD", help="The field whose value is the record's key.")
@click.option("--create-topic", is_flag=True, help="Make the topic if it does not exist.")
@click.option("--partitions", type=click.IntRange(min=1), default=1, show_default=True, help="Of a topic made.")
@connection_options
def produce(
    *,
    file: str,
    topic: str,
    rate: float | None,
    key_field: str | None,
    create_topic: bool,
    partitions: int,
    connection: Connection,
) -> None:
    """Send each row of FILE to a topic, in order: NDJSON, CSV, Parquet, or - for NDJSON on standard input.

    Lines of NDJSON are sent byte for byte, bad ones too; empty lines are no rows. Rows of CSV and Parquet
    become JSON objects. Each row is sent once (idempotent producer, acks=all), to the partition that its key
    has with Java's clients.

    \b
    Examples:
      streamproc produce events.ndjson --topic loans --key id
      streamproc produce loans.parquet --topic loans --create-topic --partitions 4
      tail -F app.log | streamproc produce - --topic logs --rate 100
    """
    tally = Tally()
    began = time.monotonic()
    try:
        asyncio.run(
            _produce(
                file=file,
                topic=topic,
                rate=rate,
                key_field=key_field,
                partitions=partitions if create_topic else None,
                connection=connection,
                tally=tally,
            )
        )
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
    seconds = max(time.monotonic() - began, 1e-9)
    click.echo(
        f"{counted(tally.acknowledged, 'record')} ({tally.bytes / 1e6:.1f} MB) to {topic} in {seconds:.1f} s: "
        f"{tally.acknowledged / seconds:,.0f} a second",
        err=True,
    )
    if key_field and tally.without_key:
        rows = counted(tally.without_key, "row")
        click.echo(f"{rows} had no {key_field}: sent without a key", err=True)
    if tally.error is not None:
        raise _refused(topic, tally)


async def _produce(
    *,
    file: str,
    topic: str,
    rate: float | None,
    key_field: str | None,
    partitions: int | None,
    connection: Connection,
    tally: Tally,
) -> None:
    await _ensure_topic(topic, partitions, connection)
    producer = AIOKafkaProducer(
        **connection.client_kwargs(),
        acks="all",
        enable_idempotence=True,
        linger_ms=5,
        max_batch_size=256 << 10,
        max_request_size=LARGEST,
    )
    await producer.start()
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    try:
        with bar:
            task = bar.add_task(topic, total=None)
            began = time.monotonic()
            async for chunk in chunks(file):
                for value in chunk.values:
                    if rate is not None:
                        await _pace(began + tally.sent / rate)
                    key = key_of(value, key_field) if key_field else None
                    tally.without_key += key is None
                    future = await producer.send(topic, value, key)
                    future.add_done_callback(tally.settle)
                    tally.sent += 1
                    tally.bytes += len(value)
                    if tally.error is not None:
                        return
                done, total = chunk.progress
                bar.update(task, completed=done, total=total, description=counted(tally.sent, "record"))
                await asyncio.sleep(0)  # lets the producer's own tasks run
            await producer.flush()
    finally:
        await producer.stop()


async def _ensure_topic(topic: str, partitions: int | None, connection: Connection) -> None:
    if partitions is not None:
        await admin.create(connection, [admin.TopicSpec(topic, partitions)])
    elif topic not in await admin.describe(connection, [topic]):
        raise UserError(f"topic {topic} does not exist", hint="--create-topic --partitions N makes it")


async def _pace(due: float) -> None:
    ahead = due - time.monotonic()
    if ahead > AHEAD_SECONDS:
        await asyncio.sleep(ahead)


def _refused(topic: str, tally: Tally) -> Exception:
    """The error for rows that the broker did not take."""
    lost = f"{counted(tally.failed, 'record was', 'records were')} not taken"
    match tally.error:
        case kafka_errors.MessageSizeTooLargeError():
            return UserError(f"a record is larger than topic {topic} takes; {lost}", hint="raise its max.message.bytes")
        case kafka_errors.TopicAuthorizationFailedError():
            return UserError(
                f"not allowed: Write on topic {topic}; {lost}",
                hint=f"grant it: kafka-acls --add --allow-principal User:… --operation Write --topic {topic}",
            )
    return BrokerUnavailable(f"{lost}: {tally.error}")
