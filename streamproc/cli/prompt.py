"""``streamproc prompt``: the versions of the prompts that a pipeline's language models are given."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import click
import orjson
from rich import box
from rich.markup import escape
from rich.table import Table

from streamproc.cli import prompt_test
from streamproc.cli.console import console_for
from streamproc.cli.control import by_option, sign_option, signed
from streamproc.cli.options import connection_options, pipeline_argument
from streamproc.control import running_labels, say, soundness
from streamproc.core.control import NewLabels
from streamproc.core.llm.prompts import Prompts
from streamproc.errors import UserError
from streamproc.kafka.connection import Connection
from streamproc.labels import (
    Label,
    Labels,
    Used,
    agree,
    in_words,
    load_prompts,
    record_of,
    relabelled,
    the_prompt,
    write,
)
from streamproc.pipeline import signatures_of
from streamproc.plan.budgets import to_share
from streamproc.plan.names import near
from streamproc.plan.prompts import front_of, in_percent

PLAIN_WIDTH = 140
COLOURS = {"+": "green", "-": "red", "@": "cyan"}


@click.group(short_help="Prompts of language models.")
def prompt() -> None:
    """The versions of the prompts that a pipeline's language models are given: which there are, which are used,
    what differs between them, and which of two is better.

    \b
    Examples:
      streamproc prompt list pipeline.yaml
      streamproc prompt diff pipeline.yaml triage 1 2
      streamproc prompt test pipeline.yaml triage --data labelled.ndjson --label expected
      streamproc prompt label pipeline.yaml triage canary 2 --share 10% --why "asks for the order's number"
      streamproc prompt label pipeline.yaml triage production 2 --why "better on all counts"
    """


prompt.add_command(prompt_test.test)


@prompt.command("list")
@pipeline_argument
@click.option("--running", is_flag=True, help="Ask Kafka too: which versions do workers use?")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a version.")
@connection_options
def list_command(file: Path, running: bool, as_json: bool, connection: Connection) -> None:
    """List the versions of the prompts that FILE uses, and how they are labelled.

    Labels on the control topic hold over those in the files: where the two differ, --running says so.

    \b
    Examples:
      streamproc prompt list pipeline.yaml
      streamproc prompt list pipeline.yaml --running --json
    """
    loaded, found = load_prompts(file)
    said: Mapping[str, tuple[NewLabels, Prompts]] = {}
    if running:
        labels = asyncio.run(running_labels(connection, loaded.plan))
        said = labels.counted
        _tell_wrong(labels)
    rows = [row for name, used in found.items() for row in _rows(used, said.get(name))]
    if as_json:
        for row in rows:
            click.echo(orjson.dumps(row))
        return
    if not rows:
        click.echo(f"{loaded.plan.pipeline} has no language model")
        return
    table = Table(box=box.SIMPLE)
    shown = ("prompt", "version", "label", *(["running"] if running else []))
    for name in (*shown, "tokens", "sha256", "created", "author", "description"):
        table.add_column(name, overflow="fold", justify="right" if name == "tokens" else "left")
    for row in rows:
        cells = [*(row[name] for name in shown), f"{row['tokens']:,}", row["sha256"][:12]]
        table.add_row(
            *map(
                escape, (str(cell or "") for cell in (*cells, *(row[k] for k in ("created", "author", "description"))))
            )
        )
    console_for(PLAIN_WIDTH).print(table)
    for name, used in found.items():
        if name in said and said[name][1] != used.registry.prompts():
            one, prompts = said[name]
            now, files = in_words(prompts), in_words(used.registry.prompts())
            click.echo(f"{name}: workers use {now}, says {one.by}: {one.why}; its files say {files}")


def _tell_wrong(labels: Labels) -> None:
    for name, wrong in labels.wrong.items():
        click.echo(f"{name}: the newest labels on the control topic do not count: {wrong}", err=True)


def _rows(used: Used, said: tuple[NewLabels, Prompts] | None) -> list[dict[str, Any]]:
    registry, labels = used.registry, used.registry.labels
    found = []
    for version in registry.versions():
        one = registry.read(version)
        front = front_of(one)
        canary = None if labels.canary is None else (labels.canary.version, labels.canary.share)
        found.append(
            {
                "prompt": registry.name,
                "version": version,
                "label": _label(version, labels.production, canary),
                "running": None if said is None else _said(version, one.hash, said[1]),
                "tokens": max(llm.instruction_tokens(one) for llm in used.llms),
                "sha256": one.hash,
                "registered": version in labels.versions,
                "created": None if front.created is None else str(front.created),
                "author": front.author,
                "description": front.description,
            }
        )
    return found


def _said(version: str, hash_: str, prompts: Prompts) -> str | None:
    """What workers use this version as, if it is the same text."""
    canary = None if prompts.canary is None else (prompts.canary.version, prompts.share)
    told = _label(version, prompts.production.version, canary)
    same = any((one.version, one.hash) == (version, hash_) for one in prompts.versions)
    return told if told is None or same else f"{told}, another text"


def _label(version: str, production: str, canary: tuple[str, int] | None) -> str | None:
    if version == production:
        return "production"
    return None if canary is None or canary[0] != version else f"canary {in_percent(canary[1])}"


@prompt.command()
@pipeline_argument
@click.argument("name")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
def diff(file: Path, name: str, before: str, after: str) -> None:
    """Show what version B of the prompt NAME has otherwise than version A, as a unified diff; nothing where they are
    alike.

    \b
    Examples:
      streamproc prompt diff pipeline.yaml triage 1 2
    """
    registry = the_prompt(load_prompts(file)[1], name).registry
    known = registry.versions()
    for version in (before, after):
        if version not in known:
            raise UserError(f"the prompt {name} has no version {version!r}", near(version, known, "versions"))
    was, now = (registry.read(version).file.splitlines() for version in (before, after))
    for line in difflib.unified_diff(was, now, f"{name}@{before}", f"{name}@{after}", lineterm=""):
        click.secho(line, fg=COLOURS.get(line[:1]))


@prompt.command()
@pipeline_argument
@click.argument("name")
@click.argument("label", type=click.Choice(get_args(Label)))
@click.argument("version", required=False)
@click.option("--share", default="10%", show_default=True, help="Of all keys, for the canary.")
@click.option("--off", is_flag=True, help="Instead of VERSION: there is no canary any more.")
@click.option("--why", required=True, help="The reason; it is kept with who said so, and when.")
@click.option("--file-only", is_flag=True, help="Tell no workers: write labels.yaml and no more.")
@by_option
@sign_option
@connection_options
def label(
    file: Path,
    name: str,
    label: Label,
    version: str | None,
    share: str,
    off: bool,
    why: str,
    file_only: bool,
    by: str,
    private: Path | None,
    connection: Connection,
) -> None:
    """Let VERSION of the prompt NAME be that of production, or the canary that a share of the keys is given.

    It is checked, written to labels.yaml with its SHA-256, and said on the control topic: workers use it within two
    seconds, also those that start later and whose files say otherwise. A canary that becomes production is none any
    more.

    \b
    Examples:
      streamproc prompt label pipeline.yaml triage canary 2 --share 10% --why "asks for the order's number"
      streamproc prompt label pipeline.yaml triage production 2 --why "better on all counts"
      streamproc prompt label pipeline.yaml triage canary --off --why "too many refusals"
      streamproc prompt label pipeline.yaml triage production 2 --why "for the next deployment" --file-only
    """
    if (version is None) != off:
        raise click.UsageError("give a VERSION, or --off")
    try:
        millionths = to_share(share)
    except ValueError as error:
        raise click.UsageError(f"--share {share}: {error}") from error
    loaded, found = load_prompts(file)
    used, pipeline = the_prompt(found, name), loaded.plan.pipeline
    prompts = relabelled(used, label, version, millionths)
    if file_only:
        write(used.registry, prompts)
        click.echo(f"{name}: {in_words(prompts)}, in its files alone")
        return
    record = signed(record_of(pipeline, prompts, datetime.now(UTC), by, why), private)

    outcome = soundness(signatures_of(loaded.plan), record)
    if not isinstance(outcome, bool):
        hint = "give `--sign KEY`, and `--by` the name of its public key under review.keys; or write the file alone"
        raise UserError(f"workers would not heed that: {outcome.replace('_', ' ')}", f"{hint}, with `--file-only`")

    async def tell() -> None:
        labels = await running_labels(connection, loaded.plan)
        _tell_wrong(labels)
        if name in labels.counted:
            agree(labels.counted[name][1], prompts, label)
        write(used.registry, prompts)
        await say(connection, record)

    asyncio.run(tell())
    click.echo(f"{name}: {in_words(prompts)}")
