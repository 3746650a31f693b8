"""``streamproc dead-letters``: what could not be taken, and giving it back."""

from __future__ import annotations

import asyncio
import heapq
import os
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import orjson
from rich import box
from rich.markup import escape
from rich.table import Table

from streamproc.cli.console import console_for
from streamproc.cli.options import connection_options, pipeline_argument
from streamproc.cli.progress import scanning
from streamproc.dead_letters import Choice, Letter, Opener, chosen, moment_of, one, open_body, where
from streamproc.errors import UserError
from streamproc.io.seal import opener
from streamproc.kafka.connection import Connection
from streamproc.operations import confirm, moment, open_for_operations
from streamproc.pipeline import SECRET, sealing_key
from streamproc.plan.load import Loaded
from streamproc.redrive import Redrive, is_noted, read_notes, redrive
from streamproc.topics import redriven_topic
from streamproc.wording import counted

PLAIN_WIDTH = 140
LARGEST_REDRIVE = 512 << 20  # bytes of events that are held at once


class _Id(click.ParamType):
    name = "PARTITION-OFFSET"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        partition, _, offset = str(value).partition("-")
        if not (partition.isdecimal() and offset.isdecimal()):
            self.fail(f"{value!r} is no PARTITION-OFFSET, like 3-17", param, ctx)
        return f"{int(partition)}-{int(offset)}"


CHOICE = (
    click.option("--reason", help="Only this reason, like contract_required."),
    click.option("--since", metavar="WHEN", help="Only those written since: 90s, 1h, 3d ago, or an ISO time."),
    click.option(
        "--where",
        "condition",
        metavar="SQL",
        help="Only those that this holds for; columns: stage, reason, path, detail, key,"
        " and the event's topic, partition, offset, timestamp.",
    ),
)


def _choice(command: Any) -> Any:
    for option in reversed(CHOICE):
        command = option(command)
    return connection_options(command)


@click.group("dead-letters", short_help="Look at dead letters, and redrive them.")
@pipeline_argument
@click.pass_context
def dead_letters(ctx: click.Context, file: Path) -> None:
    """Look at the dead letters of the pipeline in FILE, and send their events again.

    \b
    Examples:
      streamproc dead-letters pipeline.yaml list --since 1h
      streamproc dead-letters pipeline.yaml show 3-17
      streamproc dead-letters pipeline.yaml redrive --where "reason = 'contract_required' AND path = '$.id'"
    """
    ctx.obj = file


@dead_letters.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="The youngest so many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@_choice
@click.pass_obj
def list_command(
    file: Path,
    *,
    limit: int,
    as_json: bool,
    reason: str | None,
    since: str | None,
    condition: str | None,
    connection: Connection,
) -> None:
    """List dead letters, the youngest last, and count them by reason.

    \b
    Examples:
      streamproc dead-letters pipeline.yaml list --since 1h
      streamproc dead-letters pipeline.yaml list --reason not_json --limit 5 --json
    """
    loaded = open_for_operations(file)[0]
    topic = loaded.plan.topics.dead_letters
    choice = _chosen(reason, since, condition, ())

    async def gather() -> tuple[list[Letter], Counter[str], dict[str, int]]:
        youngest: list[tuple[int, int, int, Letter]] = []
        counts = Counter[str]()
        notes = await read_notes(connection, redriven_topic(loaded).spec.name)
        with scanning(topic) as progress:
            async for letters in chosen(connection, topic, choice, progress):
                counts.update(letter.reason for letter in letters)
                for letter in letters:
                    entry = (letter.written, letter.partition, letter.offset, letter)
                    (heapq.heappush if len(youngest) < limit else heapq.heappushpop)(youngest, entry)
        return [letter for *_, letter in sorted(youngest)], counts, notes

    letters, counts, notes = asyncio.run(gather())
    if as_json:
        for letter in letters:
            click.echo(orjson.dumps(_as_json(letter) | {"redriven": is_noted(letter, notes)}))
        return
    table = Table(box=box.SIMPLE)
    for name in ("id", "written", "key", "reason", "path", "detail", "event", "redriven"):
        table.add_column(name, overflow="fold", no_wrap=name == "id")
    for letter in letters:
        source = letter.source
        event = "" if source is None else f"{source.topic}-{source.partition}@{source.offset}"
        cells = (
            letter.id,
            f"{moment_of(letter.written):%Y-%m-%d %H:%M:%S}",
            _text(letter.key) or "",
            letter.reason,
            letter.text.get("sp-path", ""),
            letter.text.get("sp-detail", ""),
            event,
            "yes" if is_noted(letter, notes) else "",
        )
        table.add_row(*map(escape, cells))
    console_for(PLAIN_WIDTH).print(table)
    for name, count in counts.most_common():
        click.echo(f"{count:>8}  {name}")
    listed = "" if len(letters) == counts.total() else f", the youngest {len(letters)} listed"
    click.echo(f"{counts.total():>8}  in all{listed}")


@dead_letters.command()
@click.argument("letter_id", metavar="PARTITION-OFFSET", type=_Id())
@click.option("--reveal", is_flag=True, help=f"Decrypt the event with {SECRET}.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@connection_options
@click.pass_obj
def show(file: Path, *, letter_id: str, reveal: bool, as_json: bool, connection: Connection) -> None:
    """Show one dead letter: why it is one, and the event as it was.

    \b
    Examples:
      streamproc dead-letters pipeline.yaml show 3-17
      streamproc dead-letters pipeline.yaml show 3-17 --reveal
    """
    loaded = open_for_operations(file)[0]
    partition, _, offset = letter_id.partition("-")
    letter = asyncio.run(one(connection, loaded.plan.topics.dead_letters, int(partition), int(offset)))
    raw = letter.value
    if letter.form == "encrypted" and reveal:
        body = open_body(letter, _opener(loaded))
        if body.missing is not None:
            raise UserError(f"the event cannot be shown: {body.missing}")
        raw = body.raw
    if as_json:
        click.echo(orjson.dumps(_as_json(letter) | {"headers": letter.text, "body": _text(raw)}))
        return
    for name, value in letter.text.items():
        click.echo(f"{name:<14} {value}")
    click.echo(f"{'key':<14} {_text(letter.key)}\n")
    if letter.form == "encrypted" and not reveal:
        click.echo("(encrypted: --reveal shows it)")
    else:
        click.echo("(no value)" if raw is None else _text(raw))


@dead_letters.command("redrive")
@click.option("--id", "ids", type=_Id(), multiple=True, help="Only this one; may be repeated.")
@click.option("--again", is_flag=True, help="Also those that were redriven before.")
@click.option("--dry-run", is_flag=True, help="Only count them.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_choice
@click.pass_obj
def redrive_command(
    file: Path,
    *,
    ids: tuple[str, ...],
    again: bool,
    dry_run: bool,
    yes: bool,
    reason: str | None,
    since: str | None,
    condition: str | None,
    connection: Connection,
) -> None:
    """Send the events of dead letters to the events topic again, as they were, each once.

    What was redriven before is left out (unless --again). A redriven event carries the header
    sp-redriven-from with the place of its dead letter, and so does everything that is made of it. Masked dead
    letters hold no event any more; encrypted ones are opened with the key in STREAMPROC_SENSITIVE_KEY.

    \b
    Examples:
      streamproc dead-letters pipeline.yaml redrive --reason not_json --dry-run
      streamproc dead-letters pipeline.yaml redrive --where "path = '$.car_value' AND partition = 3" --yes
      streamproc dead-letters pipeline.yaml redrive --id 3-17 --id 3-18
    """
    loaded = open_for_operations(file)[0]
    choice = _chosen(reason, since, condition, ids)
    asyncio.run(_redrive(connection, loaded, choice, again=again, dry_run=dry_run, yes=yes))


@dataclass
class _Plan:
    """What a redrive will send, and how many it leaves out, by why."""

    items: list[Redrive]
    left_out: Counter[str]
    size: int = 0


async def _redrive(
    connection: Connection, loaded: Loaded, choice: Choice, *, again: bool, dry_run: bool, yes: bool
) -> None:
    plan = loaded.plan
    noted, opening = redriven_topic(loaded), _opener(loaded)
    notes = {} if again else await read_notes(connection, noted.spec.name)
    found = _Plan([], Counter())
    with scanning(plan.topics.dead_letters) as progress:
        async for letters in chosen(connection, plan.topics.dead_letters, choice, progress):
            for letter in letters:
                _sort(found, letter, notes, opening)
    reasons = Counter(item.letter.reason for item in found.items)
    for name, count in reasons.most_common():
        click.echo(f"{count:>8}  {name}")
    click.echo(f"{len(found.items):>8}  to redrive to {plan.events.input}")
    for name, count in found.left_out.most_common():
        click.echo(f"{count:>8}  left out ({name})")
    if dry_run or not found.items:
        click.echo("nothing was sent" + (" (--dry-run)" if dry_run else ""))
        return
    confirm(f"send {counted(len(found.items), 'event')} to {plan.events.input} again?", yes)
    sent = await redrive(connection, plan.events.input, noted, plan.pipeline, found.items, again=again)
    click.echo(f"{sent:>8}  sent")


def _sort(found: _Plan, letter: Letter, notes: dict[str, int], opening: Opener | None) -> None:
    if is_noted(letter, notes):
        found.left_out["redriven before; --again takes them too"] += 1
        return
    body = open_body(letter, opening)
    if body.missing is not None:
        found.left_out[body.missing] += 1
    else:
        found.items.append(Redrive(letter, body.raw))
        found.size += len(body.raw or b"")
        if found.size > LARGEST_REDRIVE:
            raise UserError(
                f"these are more than {LARGEST_REDRIVE >> 20} MB of events",
                "narrow them with --since, --reason, --where or --id, and redrive in parts",
            )


def _chosen(reason: str | None, since: str | None, condition: str | None, ids: tuple[str, ...]) -> Choice:
    return Choice(
        reason=reason,
        since=moment(since, datetime.now(UTC)) if since else None,
        ids=frozenset(ids),
        where=where(condition) if condition else None,
    )


def _opener(loaded: Loaded) -> Opener | None:
    if loaded.plan.dead_letter_mode != "encrypted":
        return None
    secret = os.environ.get(SECRET, "")
    if not secret:
        raise UserError(f"these dead letters are encrypted, and {SECRET} is not set", "set it as the workers have it")
    return opener(sealing_key(secret.encode()))


def _as_json(letter: Letter) -> dict[str, Any]:
    source = letter.source
    return {
        "id": letter.id,
        "written": moment_of(letter.written).isoformat(timespec="milliseconds"),
        "key": _text(letter.key),
        "stage": letter.text.get("sp-stage"),
        "reason": letter.reason,
        "path": letter.text.get("sp-path"),
        "detail": letter.text.get("sp-detail"),
        "source": None
        if source is None
        else {
            "topic": source.topic,
            "partition": source.partition,
            "offset": source.offset,
            "timestamp": source.timestamp,
        },
        "size": None if letter.value is None else len(letter.value),
    }


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="backslashreplace")
