"""``streamproc reset``: the deliberate way on for a lane that refuses to go on by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
from rich import box
from rich.table import Table

from streamproc.cli.console import console_for
from streamproc.cli.options import connection_options, pipeline_argument
from streamproc.errors import UserError
from streamproc.kafka.agent import Agent
from streamproc.kafka.connection import Connection
from streamproc.operations import confirm, moment, open_for_operations
from streamproc.reset import LaneReset, Move, Target, carry_out, survey, wait_until_empty
from streamproc.wording import counted


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What was asked for."""

    agents: Sequence[Agent]
    lanes: list[int] | None
    target: Target
    keep_state: bool | None
    dry_run: bool
    yes: bool
    wait: float


@click.command(short_help="Move committed offsets on purpose.")
@pipeline_argument
@click.option("--lane", "lanes", type=click.IntRange(min=0), multiple=True, help="A partition number; may be repeated.")
@click.option("--all", "every", is_flag=True, help="Every lane.")
@click.option("--agent", help="Which agent's; needed where the pipeline has several.")
@click.option(
    "--to",
    required=True,
    metavar="WHERE",
    help="earliest, latest, committed, an offset, or a time (ISO or 2h ago).",
)
@click.option("--keep-state/--drop-state", default=None, help="What becomes of the lanes' tables, where there are any.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="Seconds for workers to be gone.",
)
@connection_options
def reset(
    *,
    file: Path,
    lanes: tuple[int, ...],
    every: bool,
    agent: str | None,
    to: str,
    keep_state: bool | None,
    dry_run: bool,
    yes: bool,
    wait: float,
    connection: Connection,
) -> None:
    """Move the committed offset of lanes of the pipeline in FILE, after saying what is lost or decided again.

    A worker stops a lane whose topic was made anew or has grown, or whose offset is not in the topic any
    more. All workers of the pipeline have to be stopped. "committed" keeps the offset and accepts the topic
    as it is now; "latest" skips everything that waits; an earlier place decides events again, under the same
    decision ids.

    \b
    Examples:
      streamproc reset pipeline.yaml --lane 2 --to earliest --dry-run
      streamproc reset pipeline.yaml --all --to committed
      streamproc reset pipeline.yaml --lane 0 --to 2026-01-31T08:00 --yes
    """
    if every == bool(lanes):
        raise click.UsageError("say which lanes: --lane N (several times for several), or --all")
    target = _parse(to)
    loaded, known = open_for_operations(file)
    chosen = [one for one in known if agent is None or one.name == agent]
    if not chosen or (agent is None and len(known) > 1):
        names = ", ".join(one.name for one in known)
        raise UserError(
            f"there is no agent {agent}" if agent else "the pipeline has several agents", f"--agent: {names}"
        )
    wanted = _Wanted(chosen, None if every else sorted(set(lanes)), target, keep_state, dry_run, yes, wait)
    asyncio.run(_reset(connection, loaded.plan.pipeline, wanted))


async def _reset(connection: Connection, app: str, wanted: _Wanted) -> None:
    await wait_until_empty(connection, app, wanted.wait)
    resets = await survey(connection, app, wanted.agents, wanted.lanes, wanted.target)
    show(resets)
    held = sum(len(one.state) for one in resets)
    entries = counted(held, "entry", "entries")
    if held and wanted.keep_state is None:
        raise UserError(
            f"the lanes hold {entries} of state",
            "say what becomes of them: --keep-state (repeated events count in it twice) or --drop-state",
        )
    drop = bool(held) and wanted.keep_state is False
    if drop:
        click.echo(f"state: {entries} to be deleted")
    if wanted.dry_run:
        click.echo("nothing was changed (--dry-run)")
        return
    confirm(f"move {counted(sum(len(one.moves) for one in resets), 'offset')} of {app}?", wanted.yes)
    await carry_out(connection, app, resets, drop_state=drop)
    click.echo("done: workers go on from there")


def _parse(text: str) -> Target:
    if text == "earliest":
        return "earliest"
    if text == "latest":
        return "latest"
    if text == "committed":
        return "committed"
    if text.isdecimal():
        return int(text)
    try:
        return moment(text, datetime.now(UTC))
    except UserError as error:
        raise click.UsageError(
            f"--to {text!r} is none of earliest, latest, committed, an offset, or a time like 2h or 2026-01-31T08:00"
        ) from error


def show(resets: Sequence[LaneReset]) -> None:
    """What a reset would do, a line a partition."""
    table = Table(box=box.SIMPLE)
    for name in ("lane", "topic", "holds", "committed", "to", "what follows"):
        table.add_column(name, overflow="fold")
    for one in resets:
        for move in one.moves:
            before = "none" if move.before.offset < 0 else str(move.before.offset)
            holds = f"{move.low} to {move.high}"
            name = f"{move.agent}/{one.partition}"
            table.add_row(name, move.tp.topic, holds, before, str(move.target), "\n".join(consequences(move)))
    console_for(140).print(table)


def consequences(move: Move) -> list[str]:
    """What a move loses and repeats. Offsets are counted: records are at most as many."""
    lines = []
    if move.made_anew:
        lines.append("the topic was made anew: what the old one held and nobody decided is lost")
    claim = move.before.claim
    if claim is not None and claim.partitions != move.partitions:
        had = counted(claim.partitions, "partition")
        lines.append(f"the topic had {had} and has {move.partitions}: keys have moved")
    if move.gone:
        gone = counted(move.gone, "event is", "events are")
        lines.append(f"{gone} lost already: not in the topic any more")
    if move.skipped:
        lines.append(f"{counted(move.skipped, 'event is', 'events are')} skipped and never decided")
    if move.repeated:
        repeated = counted(move.repeated, "event is", "events are")
        lines.append(f"{repeated} decided again: the same decision ids come out twice")
    waiting = move.high - move.target
    lines.append(f"{counted(waiting, 'event is', 'events are')} read from there" if waiting else "nothing waits")
    return lines
