"""``streamproc drift incidents | ack | rebase``: what people say to a running pipeline about its drift."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import orjson
from rich import box
from rich.markup import escape
from rich.table import Table

from streamproc.baselines import kept_or_learned, open_watched, stream_reference
from streamproc.cli.console import console_for
from streamproc.cli.control import by_option, sign_option, signed
from streamproc.cli.options import connection_options, pipeline_argument
from streamproc.cli.progress import deciding
from streamproc.control import counted_by, newest_values, read_control, running_plan, said_baseline, say
from streamproc.core.control import IncidentNote, NewNormal
from streamproc.core.drift.baseline import loads as load_baseline
from streamproc.core.plan import Plan
from streamproc.errors import UserError
from streamproc.incidents import Incident, open_incidents, read_states
from streamproc.kafka.connection import Connection
from streamproc.operations import moment
from streamproc.pipeline import Pipeline
from streamproc.plan.durations import to_duration
from streamproc.recorded_answers import FIELD, Recorded, ids_of, in_decisions
from streamproc.stream_reference import Stretch, learn_stretch, new_normal, newest
from streamproc.wording import counted

PLAIN_WIDTH = 140


@click.command(short_help="Incidents that are not over.")
@pipeline_argument
@click.option("--json", "as_json", is_flag=True, help="One JSON object an incident.")
@connection_options
def incidents(file: Path, as_json: bool, connection: Connection) -> None:
    """List the incidents of the running pipeline that are not over: what drifts, since when, and who looks at it.

    \b
    Examples:
      streamproc drift incidents pipeline.yaml
      streamproc drift incidents pipeline.yaml --json
    """
    found = asyncio.run(_open_incidents(open_watched(file), connection))
    if as_json:
        for incident in found:
            click.echo(orjson.dumps(incident.as_json(datetime.now(UTC))))
        return
    table = Table(box=box.SIMPLE)
    for name in ("incident", "since", "state", "owner", "severity", "what drifts"):
        table.add_column(name, overflow="fold")
    for incident in found:
        told = incident.as_json(datetime.now(UTC))
        shown = (told["id"], told["since"], told["state"], told["owner"] or "", f"{told['severity']:.2f}")
        table.add_row(*map(escape, shown), escape(", ".join(told["monitors"])))
    if found:
        console_for(PLAIN_WIDTH).print(table)
    click.echo(f"{counted(len(found), 'incident')} not over")


@click.command(short_help="Say that somebody looks at an incident.")
@pipeline_argument
@click.argument("incident", metavar="ID")
@click.option("--why", required=True, help="What is known of it, or being done.")
@click.option("--owner", help="Who looks after it.  [default: as before]")
@click.option("--snooze", metavar="DURATION", help="Let nobody be called because of it for so long: 30m, 4h, 2d.")
@click.option("--reopen", is_flag=True, help="Take back that it was acknowledged or snoozed.")
@by_option
@sign_option
@connection_options
def ack(
    file: Path,
    incident: str,
    why: str,
    owner: str | None,
    snooze: str | None,
    reopen: bool,
    by: str,
    private: Path | None,
    connection: Connection,
) -> None:
    """Acknowledge an incident, own it, or have it keep quiet for a while. ID is its id, or how that begins.

    Decisions do not change by it: what drifts goes on to drift. Alerts on `streamproc_drift_incidents{state="open"}`
    hold their tongue. Workers hear of it within two seconds.

    \b
    Examples:
      streamproc drift ack pipeline.yaml 91408d8a --why "new producer, looking at it" --owner ada
      streamproc drift ack pipeline.yaml 91408d8a --why "the backfill ends at four" --snooze 4h
    """
    if reopen and snooze is not None:
        raise UserError("--reopen and --snooze say different things", "give one of them")
    try:
        quiet = to_duration(snooze) if snooze is not None else None
    except ValueError as error:
        raise UserError(f"--snooze {snooze}: {error}", "write 30m, 4h or 2d") from error
    pipeline = open_watched(file)

    async def write() -> IncidentNote:
        found = [one for one in await _open_incidents(pipeline, connection) if one.id.startswith(incident)]
        if len(found) != 1:
            what = f"{len(found)} incidents begin with" if found else "no incident that is not over begins with"
            raise UserError(f"{what} {incident!r}", "`streamproc drift incidents FILE` lists them")
        before, now = found[0].note, datetime.now(UTC)
        note = IncidentNote(
            pipeline=pipeline.plan.pipeline,
            time=now,
            by=by,
            why=why,
            incident=found[0].id,
            acknowledged=not reopen and (quiet is None or (before is not None and before.acknowledged)),
            owner=owner or (before.owner if before is not None else None),
            snoozed_until=None if quiet is None else now + quiet,
        )
        await say(connection, signed(note, private))
        return note

    note = asyncio.run(write())
    told = "reopened" if reopen else "acknowledged"
    if note.snoozed_until is not None:
        told = f"snoozed until {note.snoozed_until:%Y-%m-%d %H:%M:%S} UTC"
    click.echo(f"incident {note.incident}: {told}" + (f", owner {note.owner}" if note.owner else ""))


@click.command(short_help="Accept the present as normal.")
@pipeline_argument
@click.option("--why", required=True, help="Why what drifted is normal now.")
@click.option("--since", metavar="WHEN", help="Learn from what came since: 90s, 1h, 3d ago, or an ISO time.")
@click.option(
    "--events",
    type=click.IntRange(1_000, 1_000_000),
    default=50_000,
    show_default=True,
    help="Learn from at most so many: the newest, or with --since the first ones.",
)
@click.option(
    "--keep",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write these events as NDJSON, sensitive fields included: the reference of the next version of FILE.",
)
@click.option("--undo", is_flag=True, help="Let the reference that FILE names be normal again.")
@by_option
@sign_option
@connection_options
def rebase(
    file: Path,
    why: str,
    since: str | None,
    events: int,
    keep: Path | None,
    undo: bool,
    by: str,
    private: Path | None,
    connection: Connection,
) -> None:
    """Accept the new normal: learn a baseline from the newest events, and have all workers judge by it from now on.

    It is said on the control topic, and kept on the audit topic. What drifted by the old baseline is over. It holds for
    this plan and model: a changed FILE starts with its own reference again, so keep the events for it.

    \b
    Examples:
      streamproc drift rebase pipeline.yaml --why "prices rose in March, as announced" --since 2d
      streamproc drift rebase pipeline.yaml --why "the new form" --events 20000 --keep reference.ndjson
      streamproc drift rebase pipeline.yaml --why "that was a mistake" --undo
    """
    if undo and (since is not None or keep is not None):
        raise UserError("--undo learns nothing", "leave out --since and --keep")
    pipeline = open_watched(file)
    if undo:
        _undo(pipeline, by, why, private, connection)
        return
    running = asyncio.run(running_plan(connection, pipeline.plan.topics.decisions))
    if running not in (None, pipeline.plan.hash):
        raise UserError(
            f"the pipeline runs with plan {running}, and {file} is plan {pipeline.plan.hash}",
            "a baseline holds for one plan: give the file that runs, or run this one first",
        )
    start = moment(since, datetime.now(UTC)) if since else None
    topic = pipeline.plan.events.topic
    with deciding("reading") as told:
        stretch = asyncio.run(newest(connection, topic, events, since=start, told=told))
    recorded = asyncio.run(in_decisions(connection, pipeline.plan, stretch.topic, stretch.records))
    baseline = learn_stretch(pipeline, stretch, recorded)
    if keep is not None:
        try:
            keep.write_bytes(b"".join(_lines(pipeline.plan, stretch, recorded)))
        except OSError as error:
            raise UserError(f"cannot write {keep}: {error.strerror}", "name another file with --keep") from error
    said = _say_normal(connection, signed(new_normal(pipeline, baseline, by, why, stretch), private))
    on = sum(monitor.fit is not None for monitor in baseline.monitors)
    click.echo(f"baseline {said} of {counted(len(stretch.records), 'event')}: {counted(on, 'monitor')}")
    for partition, offset in sorted(stretch.start.items()):
        click.echo(f"  partition {partition}: offsets {offset:,} to {stretch.end[partition]:,}")
    if pipeline.plan.drift is not None and pipeline.plan.drift.outcome is not None:
        click.echo("without expected accuracy: the stream does not say what came true")
    for name, reason in baseline.unwatched.items():
        click.echo(f"{name} is not watched: {reason}")
    off = [monitor for monitor in baseline.monitors if monitor.fit is None]
    if off:
        click.echo(f"{counted(len(off), 'monitor')} off, for instance {off[0].column}/{off[0].test}: {off[0].off}")


def _lines(plan: Plan, stretch: Stretch, recorded: Recorded | None) -> Iterator[bytes]:
    """Its events as NDJSON, with what language models answered; what is no JSON was none of the baseline's events
    either."""
    field = (plan.drift.answers if plan.drift is not None else None) or FIELD
    said = {} if recorded is None else recorded.said
    for record, id in zip(stretch.records, ids_of(plan, stretch.records), strict=True):
        try:
            row = orjson.loads(record.value or b"")
        except orjson.JSONDecodeError:
            continue
        if isinstance(row, dict) and id in said:
            row[field] = said[id]
        yield orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _undo(pipeline: Pipeline, by: str, why: str, private: Path | None, connection: Connection) -> None:
    if stream_reference(pipeline) is not None:
        raise UserError("a topic is the reference", "`streamproc drift rebase FILE --why …` learns from it again")
    with deciding("learning") as told:
        baseline = kept_or_learned(pipeline, told)
    assert baseline is not None
    said = _say_normal(connection, signed(new_normal(pipeline, baseline, by, why), private))
    click.echo(f"the reference of the pipeline file is normal again: baseline {said}")


def _say_normal(connection: Connection, record: NewNormal) -> str:
    """The hash of the baseline that is said to be normal."""
    asyncio.run(say(connection, record))
    return load_baseline(bytes(record.baseline)).hash


async def _open_incidents(pipeline: Pipeline, connection: Connection) -> list[Incident]:
    plan = pipeline.plan
    control = await read_control(connection, plan.pipeline)
    said = said_baseline(control, plan)
    baseline = await counted_by(connection, plan.topics.panes) if said is None else said.hash
    if baseline is None:
        return []
    states = await newest_values(connection, plan.topics.drift_state)
    return open_incidents(read_states(states.values(), baseline), control)
