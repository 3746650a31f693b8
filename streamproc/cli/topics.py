"""``streamproc topics``: what a pipeline reads and writes, whether it is there, and the ACLs for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import orjson
from rich import box
from rich.table import Table

from streamproc.access import Grant, door_grants, operator_grants, worker_grants
from streamproc.cli.console import console_for
from streamproc.cli.options import connection_options, pipeline_argument
from streamproc.errors import Exit, UserError
from streamproc.kafka import admin
from streamproc.kafka.admin import TopicInfo
from streamproc.kafka.agent import Agent
from streamproc.kafka.connection import Connection
from streamproc.operations import open_for_operations
from streamproc.plan.load import Loaded
from streamproc.topics import TopicRole, differences, matters, pipeline_topics, redriven_topic, unseen_topic

Status = Literal["ok", "missing", "differs", "unknown"]
NOT_OF_WORKERS = ("redriven", "unseen")
"""A worker runs without them, and whoever needs them makes them."""
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


@dataclass(frozen=True, slots=True)
class Row:
    """A topic as it should be and as it is, and what to do. ``stops`` means that no worker runs like this."""

    topic: TopicRole
    info: TopicInfo | None
    status: Status
    stops: bool
    todo: tuple[str, ...] = ()


@click.command(short_help="The topics of a pipeline, and the ACLs for them.")
@pipeline_argument
@click.option("--create", is_flag=True, help="Make those that are missing; never the events topic.")
@click.option("--offline", is_flag=True, help="Ask no broker: only what should be.")
@click.option("--acls", is_flag=True, help="Print the ACLs as kafka-acls commands, and nothing else.")
@click.option("--worker", default="User:WORKER", show_default=True, help="The workers' principal.")
@click.option("--operator", default="User:OPERATOR", show_default=True, help="The principal of people.")
@click.option("--door", help="The doors' principal.  [default: User:DOOR, where the file has a `serve` part]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@connection_options
@click.pass_context
def topics(
    ctx: click.Context,
    *,
    file: Path,
    create: bool,
    offline: bool,
    acls: bool,
    worker: str,
    operator: str,
    door: str | None,
    as_json: bool,
    connection: Connection,
) -> None:
    """Show what the pipeline in FILE reads and writes, and the ACLs that its agents need.

    The events topic belongs to its producers: it is checked and never made. A topic that "differs" still
    works, unless it says that no worker runs like this. Exit code 1 when something is missing or stops
    workers.

    \b
    Examples:
      streamproc topics pipeline.yaml
      streamproc topics pipeline.yaml --create --kafka kafka:9092
      streamproc topics pipeline.yaml --acls --worker User:loans --door User:till --offline
    """
    if create and offline:
        raise click.UsageError("--create needs a broker: leave out --offline")
    loaded, agents = open_for_operations(file)
    rows = static(loaded, agents) if offline else asyncio.run(actual(loaded, agents, connection, create))
    everything = [row.topic for row in rows]
    wanted = [topic for topic in everything if topic.role not in NOT_OF_WORKERS]
    grants = [*worker_grants(loaded, agents, wanted), *operator_grants(loaded, agents, wanted)]
    if door is not None or "serve" in loaded.file.model_fields_set:
        grants += door_grants(loaded, everything)
    principals = {"worker": worker, "operator": operator, "door": door or "User:DOOR"}
    if acls:
        _print_commands(grants, principals, connection.address)
    elif as_json:
        click.echo(orjson.dumps(_as_json(loaded, rows, grants), option=orjson.OPT_INDENT_2))
    else:
        _print(rows, grants, principals)
    if any(row.stops for row in rows):
        ctx.exit(Exit.INPUT)


def static(loaded: Loaded, agents: Sequence[Agent]) -> list[Row]:
    """What should be, without asking. A partition count of 0 is "as many as the events topic has"."""
    wanted = [*pipeline_topics(loaded, agents, 0), unseen_topic(loaded, 0), redriven_topic(loaded)]
    return [Row(topic, None, "unknown", False) for topic in wanted]


async def actual(loaded: Loaded, agents: Sequence[Agent], connection: Connection, create: bool) -> list[Row]:
    """What should be beside what is, after making what is missing where ``create`` says so."""
    events = loaded.plan.events.input
    infos = await admin.describe(connection, [events])
    count = infos[events].partitions if infos else (loaded.file.topics.partitions or 0)
    wanted = [*pipeline_topics(loaded, agents, count), unseen_topic(loaded, count), redriven_topic(loaded)]
    if create:
        specs = [topic.spec for topic in wanted if topic.role != "events"]
        if any(spec.partitions == 0 for spec in specs):
            raise UserError(
                f"the events topic {events!r} does not exist: how many partitions do the others need?",
                "its producers own it: make it first, or state `topics: {partitions: N}` in the file",
            )
        for name in await admin.create(connection, specs):
            click.echo(f"made {name}", err=True)
    infos |= await admin.describe(connection, [topic.spec.name for topic in wanted])
    return [_compare(topic, infos.get(topic.spec.name)) for topic in wanted]


def _compare(topic: TopicRole, info: TopicInfo | None) -> Row:
    if info is None:
        todo = {
            "events": "its producers own it: make it as they need it",
            "redriven": "made by the first redrive, or with --create",
            "unseen": "made by the first door, or with --create",
        }.get(topic.role, "make it with --create, or let `streamproc run` do it")
        # a worker makes its own topics, unless it may not: missing ones count as wrong here
        return Row(topic, None, "missing", topic.role not in NOT_OF_WORKERS, (todo,))
    found = differences(topic, info)
    stops = [difference for difference in found if matters(topic, difference.what)]
    todo_lines = tuple(
        f"{one.what} is {one.actual}, not {one.expected}"
        + (f"; no worker runs like this: {one.remedy}" if one in stops else f" ({one.remedy})")
        for one in found
    )
    return Row(topic, info, "differs" if found else "ok", bool(stops), todo_lines)


# output


def _print(rows: Sequence[Row], grants: Sequence[Grant], principals: dict[str, str]) -> None:
    console = console_for(160)
    table = Table(box=box.SIMPLE, title="Topics", title_justify="left")
    for name in ("role", "topic", "workers", "partitions", "cleanup", "retention", "status"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(
            row.topic.role,
            row.topic.spec.name,
            row.topic.access if row.topic.access != "none" else "",
            _partitions(row),
            row.info.configs.get("cleanup.policy", "") if row.info else row.topic.spec.cleanup_policy,
            _retention(row),
            "" if row.status == "unknown" else row.status,
        )
    console.print(table)
    for row in rows:
        for todo in row.todo:
            console.print(f"{row.topic.spec.name}: {todo}", highlight=False, soft_wrap=True)
    acls = Table(box=box.SIMPLE, title="ACLs (as commands: --acls)", title_justify="left")
    for name in ("principal", "resource", "name", "operations", "for"):
        acls.add_column(name, overflow="fold")
    for grant in grants:
        name = f"{grant.name}*" if grant.prefixed else grant.name
        acls.add_row(principals[grant.who], grant.resource, name, ", ".join(grant.operations), grant.why)
    console.print(acls)


def _print_commands(grants: Sequence[Grant], principals: dict[str, str], address: str) -> None:
    for grant in grants:
        click.echo(f"# {grant.why}")
        click.echo(grant.command(principals[grant.who], address))


def _partitions(row: Row) -> str:
    wanted = str(row.topic.spec.partitions or "as events")
    if row.info is None or row.topic.role == "events":
        return str(row.info.partitions) if row.info else wanted
    return wanted if row.info.partitions == row.topic.spec.partitions else f"{row.info.partitions} (wanted {wanted})"


def _retention(row: Row) -> str:
    wanted = row.topic.spec.retention_ms
    if row.info is not None:
        if row.info.configs.get("cleanup.policy") == "compact":
            return "for ever"
        return duration(int(row.info.configs.get("retention.ms", "-1")))
    if wanted is None:
        return "for ever" if row.topic.spec.cleanup_policy == "compact" else ""
    return duration(wanted)


def duration(milliseconds: int) -> str:
    """A retention for people.

    >>> duration(30 * 86_400_000), duration(90_000), duration(-1)
    ('30d', '90s', 'for ever')
    """
    if milliseconds < 0:
        return "for ever"
    if milliseconds % DAY_MS == 0:
        return f"{milliseconds // DAY_MS}d"
    return f"{milliseconds // HOUR_MS}h" if milliseconds % HOUR_MS == 0 else f"{milliseconds / 1000:g}s"


def _as_json(loaded: Loaded, rows: Sequence[Row], grants: Sequence[Grant]) -> dict[str, Any]:
    return {
        "pipeline": loaded.plan.pipeline,
        "topics": [
            {
                "role": row.topic.role,
                "topic": row.topic.spec.name,
                "access": row.topic.access,
                "status": row.status,
                "stops": row.stops,
                "todo": row.todo,
                "wanted": {
                    "partitions": row.topic.spec.partitions or None,
                    "configs": row.topic.spec.configs,
                },
                "actual": None
                if row.info is None
                else {
                    "partitions": row.info.partitions,
                    "replication": row.info.replication,
                    "topic_id": row.info.topic_id,
                    "configs": {name: row.info.configs.get(name) for name in row.topic.spec.configs},
                },
            }
            for row in rows
        ],
        "acls": [
            {
                "who": grant.who,
                "resource": grant.resource,
                "name": grant.name,
                "prefixed": grant.prefixed,
                "operations": grant.operations,
                "why": grant.why,
            }
            for grant in grants
        ],
    }
