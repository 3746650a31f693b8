"""``streamproc outcomes send | join``: what came true, into a pipeline and beside its decisions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import click
import orjson
from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors

from streamproc.cli.console import console_for
from streamproc.cli.options import connection_options, pipeline_argument
from streamproc.cli.progress import scanning
from streamproc.cli.stats import cohorts_table
from streamproc.core.outcomes import outcome as records
from streamproc.core.outcomes.joining import text
from streamproc.core.outcomes.outcome import Outcome
from streamproc.core.outcomes.policy import OutcomesPlan
from streamproc.core.outcomes.summary import cohorts
from streamproc.core.records import TYPED, Topics
from streamproc.errors import BrokerUnavailable, UserError
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.reader import reading
from streamproc.late import Join, Outcomes, from_file, from_topic
from streamproc.measuring import outcomes_plan
from streamproc.operations import moment, open_for_operations
from streamproc.wording import counted

PLAIN_WIDTH = 120


@click.group(short_help="Send what came true, and join what comes late.")
def outcomes() -> None:
    """What came true: send it to a pipeline, and join it with decisions of which that is known only late.

    \b
    Examples:
      streamproc outcomes send pipeline.yaml repaid.csv
      streamproc outcomes join pipeline.yaml --out joined.ndjson
    """


@outcomes.command()
@pipeline_argument
@click.argument("data", type=click.Path(exists=True, dir_okay=False, allow_dash=True), metavar="DATA")
@connection_options
def send(file: Path, data: str, connection: Connection) -> None:
    """Send the outcomes in DATA to the pipeline in FILE: NDJSON, CSV, Parquet, or - for NDJSON on standard input.

    Each row has `id` (a decision's) or `key` (an event's), `value`, `time`, and if there is money in it, `amount`. All
    rows are checked before the first is sent.

    \b
    Examples:
      streamproc outcomes send pipeline.yaml repaid.csv
      cat repaid.ndjson | streamproc outcomes send pipeline.yaml -
    """
    loaded, _ = open_for_operations(file)
    plan, topic = outcomes_plan(loaded.plan), loaded.plan.topics.outcomes
    sent = asyncio.run(_send(connection, topic, plan, data))
    click.echo(f"{counted(sent, 'outcome')} to {topic}")


async def _send(connection: Connection, topic: str, plan: OutcomesPlan, data: str) -> int:
    rows = list[Outcome]()
    async for outcome in from_file(data):
        if (value := text(outcome.value)) not in plan.values:
            raise UserError(
                f"row {len(rows) + 1:,} of {data} has the value {value!r}, which the pipeline does not name",
                f"it is one of {', '.join(plan.values)}",
            )
        rows.append(outcome)
    if topic not in await admin.describe(connection, [topic]):
        raise UserError(f"topic {topic} does not exist", "`streamproc topics FILE --create` makes it")
    producer = AIOKafkaProducer(**connection.client_kwargs(), acks="all", enable_idempotence=True, linger_ms=5)
    try:
        await producer.start()
        for outcome in rows:
            key = (outcome.id or outcome.key or "").encode()
            await producer.send(topic, records.encode(outcome), key=key, headers=list(TYPED["outcome"]))
        await producer.flush()
    except kafka_errors.KafkaError as error:
        raise BrokerUnavailable(
            f"the outcomes were not all sent: {error!r}", "send them again: they replace"
        ) from error
    finally:
        await producer.stop()
    return len(rows)


@outcomes.command()
@pipeline_argument
@click.option("--outcomes", "data", type=click.Path(exists=True, dir_okay=False), help="Outcomes of a file too.")
@click.option("--no-topic", is_flag=True, help="Leave out the outcomes on the topic: only those of --outcomes.")
@click.option("--since", metavar="TIME", help="Decisions since then: 90d, or 2026-01-31.  [default: all that are kept]")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where joined decisions go, as NDJSON.")
@click.option("--json", "as_json", is_flag=True, help="The cohorts as JSON.")
@connection_options
def join(
    file: Path,
    data: str | None,
    no_topic: bool,
    since: str | None,
    out: Path | None,
    as_json: bool,
    connection: Connection,
) -> None:
    """Join outcomes with the decisions topic, also those that came after a running pipeline had let go of the decision.

    It reads the topic twice and holds the outcomes in memory. One that names an event's key is that of the newest
    decision with it, so name the id where a key has several. Each line of --out has a decision record, as it is, and
    its outcome; a decision that people revised has a line for each record, and the one with the highest `revision`
    holds. An event that was decided again, after a `reset`, is counted again unless its outcome is known.

    The measures by day of the decision are printed; they change nothing on the topics.

    \b
    Examples:
      streamproc outcomes join pipeline.yaml --out joined.ndjson
      streamproc outcomes join pipeline.yaml --outcomes chargebacks.csv --since 120d --json
    """
    loaded, _ = open_for_operations(file)
    plan, now = outcomes_plan(loaded.plan), datetime.now(UTC)
    if no_topic and data is None:
        raise UserError("--no-topic leaves no outcomes", "name a file with --outcomes")
    start = moment(since, now) if since else None
    try:
        with nullcontext() if out is None else out.open("wb") as to:
            found = asyncio.run(_join(connection, loaded.plan.topics, plan, data, not no_topic, start, to))
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}", "name another file with --out") from error
    told = cohorts(plan, found.measured(), now)
    if as_json:
        click.echo(orjson.dumps(told, option=orjson.OPT_INDENT_2))
        return
    click.echo(
        f"{counted(found.joined, 'outcome')} of {len(found.outcomes):,} joined with {found.decisions:,} decisions"
    )
    if told:
        console_for(PLAIN_WIDTH).print(cohorts_table(told))


async def _join(
    connection: Connection,
    topics: Topics,
    plan: OutcomesPlan,
    data: str | None,
    with_topic: bool,
    start: datetime | None,
    to: BinaryIO | None,
) -> Join:
    known = Outcomes()
    if with_topic:
        with scanning(topics.outcomes) as told:
            await from_topic(connection, topics.outcomes, known, told)
    if data is not None:
        async for outcome in from_file(data):
            known.add(outcome)
    async for values, stamps in _decisions(connection, topics.decisions, start):
        known.look(values, stamps)
    joining = Join(plan, known)
    async for values, stamps in _decisions(connection, topics.decisions, start):
        for line in joining.give(values, stamps):
            if to is not None:
                to.write(line)
    return joining


async def _decisions(
    connection: Connection, topic: str, start: datetime | None
) -> AsyncIterator[tuple[list[bytes], list[int]]]:
    with scanning(topic) as told:
        async with reading(connection, topic) as reader:
            async for records_ in reader.scan(start or "beginning", progress=told):
                yield [record.value or b"" for record in records_], [record.timestamp for record in records_]
