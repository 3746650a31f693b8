"""``streamproc review``: cases for people, in a hurry or in a script."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
import orjson
from rich import box
from rich.markup import escape
from rich.table import Table

from streamproc.cli.console import console_for
from streamproc.cli.control import by_option, sign_option
from streamproc.cli.options import connection_options, pipeline_argument
from streamproc.cli.progress import scanning
from streamproc.core.review.said import Said, SaidKind, encode
from streamproc.errors import UserError
from streamproc.io.signatures import sign
from streamproc.kafka.connection import Connection
from streamproc.operations import moment, pipeline_file
from streamproc.plan.durations import to_duration
from streamproc.plan.models import PipelineFile
from streamproc.review import SLACK, Shown, read_cases, say
from streamproc.wording import counted

PLAIN_WIDTH = 140

json_option = click.option("--json", "as_json", is_flag=True, help="JSON, for scripts.")


@click.group(short_help="Cases for people: list, show, claim and decide them.")
@pipeline_argument
@click.pass_context
def review(ctx: click.Context, file: Path) -> None:
    """Look at what waits for people, and answer it.

    Any Kafka client can do the same: items stand on PIPELINE.review, answers go to PIPELINE.verdicts.

    \b
    Examples:
      streamproc review pipeline.yaml list
      streamproc review pipeline.yaml decide 3-23d420e67828f419a4ce11dd approve --note "called the customer"
    """
    ctx.obj = file


@review.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="The most urgent so many.")
@click.option("--since", help="Cases that were opened since then: 1h, 3d or a time; by default all that may be open.")
@json_option
@connection_options
@click.pass_obj
def list_command(file: Path, *, limit: int, since: str | None, as_json: bool, connection: Connection) -> None:
    """List the open cases, the most urgent first: by priority, then by deadline.

    \b
    Examples:
      streamproc review pipeline.yaml list --limit 10
      streamproc review pipeline.yaml list --json
    """
    pipeline, now = _with_review(file), datetime.now(UTC)
    cases = [shown for shown in _read(pipeline, connection, since, now).values() if shown.is_open]
    known = sorted(shown.item["priority"] for shown in cases if shown.item and shown.item["priority"] is not None)
    cases.sort(key=partial(_urgency, middle=known[len(known) // 2] if known else 0.0))
    if as_json:
        for shown in cases[:limit]:
            click.echo(orjson.dumps({**(shown.item or {}), "claimed_by": shown.claimed(now)}))
        return
    table = Table(box=box.SIMPLE)
    for column in ("item", "priority", "waits until", "why", "score", "automation alone", "claimed by"):
        table.add_column(column, overflow="fold", no_wrap=column == "item")
    for shown in cases[:limit]:
        table.add_row(*map(escape, _row(shown, now)))
    console_for(PLAIN_WIDTH).print(table)
    more = f", {limit} shown (--limit shows more)" if len(cases) > limit else ""
    click.echo(counted(len(cases), "open case") + more, err=True)


@review.command("show")
@click.argument("item")
@click.option("--since", help="How far to look back: 1h, 3d or a time; by default as long as a case may be open.")
@json_option
@connection_options
@click.pass_obj
def show_command(file: Path, *, item: str, since: str | None, as_json: bool, connection: Connection) -> None:
    """Show one case: what is asked, and what happened to it so far.

    \b
    Examples:
      streamproc review pipeline.yaml show 3-23d420e67828f419a4ce11dd
    """
    shown = _read(_with_review(file), connection, since, datetime.now(UTC)).get(item)
    if shown is None:
        raise UserError(f"nothing is told of {item}", "is it older? `--since 30d` looks further back")
    if as_json:
        events = list(map(_shown, shown.events))
        click.echo(orjson.dumps({"item": shown.item, "events": events}, option=orjson.OPT_INDENT_2))
        return
    click.echo(orjson.dumps(shown.item, option=orjson.OPT_INDENT_2).decode())
    for event in shown.events:
        click.echo(_told(event))


@review.command()
@click.argument("item")
@click.option("--for", "lease", help="For how long: `10m`; never longer than review.lease.")
@by_option
@sign_option
@json_option
@connection_options
@click.pass_obj
def claim(
    file: Path, *, item: str, lease: str | None, by: str, private: Path | None, as_json: bool, connection: Connection
) -> None:
    """Claim a case, so that nobody else answers it meanwhile. What is printed has the number of the claim.

    \b
    Examples:
      streamproc review pipeline.yaml claim 3-23d420e67828f419a4ce11dd --for 10m
    """
    try:
        seconds = None if lease is None else to_duration(lease).total_seconds()
    except ValueError as error:
        raise UserError(f"{lease!r} is no duration", str(error)) from error
    _say(file, connection, Said(kind="claim", id=item, by=by, lease=seconds), private, as_json)


@review.command()
@click.argument("item")
@by_option
@sign_option
@json_option
@connection_options
@click.pass_obj
def release(file: Path, *, item: str, by: str, private: Path | None, as_json: bool, connection: Connection) -> None:
    """Give a claim back.

    \b
    Examples:
      streamproc review pipeline.yaml release 3-23d420e67828f419a4ce11dd
    """
    _say(file, connection, Said(kind="release", id=item, by=by), private, as_json)


@review.command()
@click.argument("item")
@click.option("--note", help="Why; it is kept.")
@by_option
@sign_option
@json_option
@connection_options
@click.pass_obj
def cancel(
    file: Path, *, item: str, note: str | None, by: str, private: Path | None, as_json: bool, connection: Connection
) -> None:
    """Close a case that nobody need answer any more: nothing is decided.

    \b
    Examples:
      streamproc review pipeline.yaml cancel 3-23d420e67828f419a4ce11dd --note "withdrawn"
    """
    _say(file, connection, Said(kind="cancel", id=item, by=by, note=note), private, as_json)


@review.command()
@click.argument("item")
@click.argument("decision")
@click.option("--note", help="Why; it is kept with the decision.")
@click.option("--fence", type=click.IntRange(min=1), help="The number of your claim: the answer counts only under it.")
@click.option("--verdict", help="An id of this answer; sent again with the same one it changes nothing.")
@by_option
@sign_option
@json_option
@connection_options
@click.pass_obj
def decide(
    file: Path,
    *,
    item: str,
    decision: str,
    note: str | None,
    fence: int | None,
    verdict: str | None,
    by: str,
    private: Path | None,
    as_json: bool,
    connection: Connection,
) -> None:
    """Answer a case: DECISION is carried out, as if automation had made it.

    \b
    Examples:
      streamproc review pipeline.yaml decide 3-23d420e67828f419a4ce11dd approve
      streamproc review pipeline.yaml decide 3-23d420e67828f419a4ce11dd decline --fence 1 --note "income not proven"
    """
    said = Said(id=item, by=by, decision=decision, note=note, fence=fence, verdict=verdict)
    _say(file, connection, said, private, as_json)


def _say(file: Path, connection: Connection, said: Said, private: Path | None, as_json: bool) -> None:
    pipeline = _with_review(file)
    signature = None if private is None else (said.by, sign(private, encode(said)))
    event = asyncio.run(say(connection, pipeline.pipeline, said, signature))
    if event["step"] == "refused":
        raise UserError(f"{said.kind} refused: {REASONS.get(event['reason'], event['reason'])}", HINTS[said.kind])
    click.echo(orjson.dumps(_shown(event)) if as_json else _told(event))


BEFORE_AN_ANSWER = ("opened", "claimed", "released", "refused")
UNBLINDING = frozenset({"kind", "was", "would_be", "tier", "rule", "priority"})
"""What a review event says of what was decided before."""
REASONS = {
    "claimed": "somebody else is working on it",
    "lease_lost": "that claim does not hold any more",
    "closed": "the case is closed",
    "not_claimed": "nobody claims it",
    "no_such_decision": "the pipeline knows no such decision",
    "same_person": "a second opinion is somebody else's",
}
HINTS: Mapping[SaidKind, str] = dict.fromkeys(
    ("verdict", "claim", "release", "cancel"), "`streamproc review FILE show ITEM` tells what happened to it"
)


def _with_review(file: Path) -> PipelineFile:
    pipeline = pipeline_file(file)
    if pipeline.review is None:
        raise UserError(f"{file} has no `review` part", "docs/pipeline-file.md has one to start from")
    return pipeline


def _read(pipeline: PipelineFile, connection: Connection, since: str | None, now: datetime) -> dict[str, Shown]:
    assert pipeline.review is not None
    start = moment(since, now) if since else now - pipeline.review.ttl - SLACK
    with scanning(pipeline.pipeline) as progress:
        return asyncio.run(read_cases(connection, pipeline.pipeline, start, progress))


def _urgency(shown: Shown, middle: float) -> tuple[float, str]:
    """Blind cases tell no priority: they stand in the middle of the others."""
    assert shown.item is not None
    priority = middle if shown.item["blind"] else shown.item["priority"]
    return -(float("-inf") if priority is None else priority), shown.item["deadline"] or ""


def _row(shown: Shown, now: datetime) -> tuple[str, ...]:
    item, about = shown.item or {}, (shown.item or {}).get("decision") or {}
    priority, score = item["priority"], about.get("score")
    why = f"{about['why']}: {about['rule']}" if about.get("rule") else about.get("why", "blind")
    return (
        item["id"],
        "" if priority is None else f"{priority:g}",
        _short(item["deadline"]),
        why,
        "" if score is None else f"{score:.3f}",
        about.get("would_be") or "",
        shown.claimed(now) or "",
    )


def _told(event: Mapping[str, Any]) -> str:
    """A review event as a line."""
    said = [event["step"], event["decision"] or "", f"by {event['by']}" if event["by"] else ""]
    if event["fence"] is not None and event["step"] == "claimed":
        said.append(f"as claim {event['fence']}, until {_short(event['until'])}")
    for name in ("reason", "note"):
        if event[name]:
            said.append(f"({event[name]})")
    line = f"{_short(event['time'])} " + " ".join(filter(None, said))
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)


def _shown(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """An event as whoever judges blind may see it."""
    if event["kind"] == "review" or event["step"] not in BEFORE_AN_ANSWER:
        return event
    return {name: value for name, value in event.items() if name not in UNBLINDING}


def _short(time: str | None) -> str:
    return "" if time is None else f"{datetime.fromisoformat(time):%Y-%m-%d %H:%M:%S}"
