"""``streamproc control``: what automation of a running pipeline may do."""

from __future__ import annotations

import asyncio
import getpass
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar, get_args

import click
import msgspec
import orjson

from streamproc.cli.options import connection_options, pipeline_argument
from streamproc.control import read_control, say
from streamproc.core.control import IncidentNote, NewLabels, NewMode, NewNormal, dumps, signable
from streamproc.core.plan import Mode
from streamproc.core.signatures import Signatures
from streamproc.io.signatures import sign, verifier
from streamproc.kafka.connection import Connection
from streamproc.operations import pipeline_file, pipeline_name
from streamproc.plan.review import public_key

SaidRecord = TypeVar("SaidRecord", NewMode, NewNormal, IncidentNote, NewLabels)


def _whoever() -> str:
    """The name of who runs this; a container may have a user that has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


by_option = click.option(
    "--by", default=_whoever, show_default="you", help="Who says so; it stands on the audit topic."
)


sign_option = click.option(
    "--sign",
    "private",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Sign with a private key (ed25519, PEM) whose public one stands under review.keys as --by.",
)


def signed(record: SaidRecord, private: Path | None) -> SaidRecord:
    """The record with its signature, where there is a key to sign with."""
    if private is None:
        return record
    return msgspec.structs.replace(record, signature=sign(private, signable(record)).decode())


@click.group(short_help="What automation may do.")
@pipeline_argument
@click.pass_context
def control(ctx: click.Context, file: Path) -> None:
    """Say what automation of a running pipeline may do, or see what was said last.

    \b
    Examples:
      streamproc control pipeline.yaml mode review-all --why "the model approves everything"
      streamproc control pipeline.yaml mode automatic --why "the model was rolled back"
      streamproc control pipeline.yaml show
    """
    ctx.obj = file


@control.command()
@click.argument("mode", type=click.Choice(get_args(Mode)))
@click.option("--why", required=True, help="The reason; it is kept with who said so, and when.")
@by_option
@sign_option
@connection_options
@click.pass_obj
def mode(file: Path, mode: Mode, why: str, by: str, private: Path | None, connection: Connection) -> None:
    """Let automation decide (automatic), let the fallback chain alone decide, without asking the model (fallback), or
    send everything to people (review-all).

    Workers obey within two seconds. Decisions say so under `why`, and what automation alone would have decided under
    `would_be`.

    \b
    Examples:
      streamproc control pipeline.yaml mode fallback --why "the model server is overloaded"
      streamproc control pipeline.yaml mode automatic --why "it is well again" --by ada
    """
    record = NewMode(pipeline=pipeline_name(file), time=datetime.now(UTC), by=by, why=why, mode=mode)
    asyncio.run(say(connection, signed(record, private)))
    click.echo(f"{record.pipeline}: {mode}")


def _signed(file: Path, said: NewMode) -> str:
    """What is to be said of a signature, as workers of this file see it."""
    review = pipeline_file(file).review
    if review is None or (said.signature is None and not review.require_signature):
        return ""
    keys = {name: public_key(text) for name, text in review.keys.items()}
    signatures = Signatures(keys, review.require_signature, verifier() if keys else None)
    signature = None if said.signature is None else said.signature.encode()
    outcome = signatures.check(signable(said), said.by, said.by, signature)
    return " (signed)" if outcome is True else f" (does not count: {str(outcome).replace('_', ' ')})"


@control.command()
@click.option("--json", "as_json", is_flag=True, help="The record as it is; null where nothing was ever said.")
@connection_options
@click.pass_obj
def show(file: Path, as_json: bool, connection: Connection) -> None:
    """Show what automation may do, who said so, when and why.

    \b
    Examples:
      streamproc control pipeline.yaml show
      streamproc control pipeline.yaml show --json
    """
    said = asyncio.run(read_control(connection, pipeline_name(file))).mode
    if as_json:
        click.echo(orjson.dumps(None) if said is None else dumps(said))
    elif said is None:
        click.echo("automatic: nobody ever said otherwise")
    else:
        by = f"{said.by}{_signed(file, said)}"
        click.echo(f"{said.mode}: {by} at {said.time:%Y-%m-%d %H:%M:%S} UTC: {said.why}")
