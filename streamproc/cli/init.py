"""``streamproc init``: a small pipeline to start from."""

from __future__ import annotations

import re
import shlex
from importlib import resources
from pathlib import Path

import click
import orjson

from streamproc.errors import UserError

FILES = ("pipeline.yaml", "event.schema.json", "events.ndjson", "README.md")
SCHEMA = "pipeline.schema.json"
PLACEHOLDER = "my-pipeline"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--name", help="The pipeline's name; its topics begin with it.  [default: the directory's name]")
def init(folder: Path, name: str | None) -> None:
    """Make a small pipeline in a new directory: contract, features, rules, actions, tests, sample events.

    It needs no model, passes `check` and `test` at once, and its comments explain every part.

    \b
    Examples:
      streamproc init payments
      streamproc init services/decisions --name card-payments
    """
    name = chosen_name(folder, name)
    write(folder, name)
    click.echo(f"made the pipeline {name} in {folder}: {', '.join((*FILES, SCHEMA))}")
    click.echo("next:")
    file, events = (shlex.quote(str(folder / name)) for name in ("pipeline.yaml", "events.ndjson"))
    for command in (f"check {file}", f"test {file}", f"batch {file} {events} --out out"):
        click.echo(f"  streamproc {command}")


def chosen_name(folder: Path, name: str | None) -> str:
    """The name that was given, or one made of the directory's. Raises UserError for one that cannot be."""
    if name is None:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._")
        if not name:
            raise UserError(f"the name of {folder} makes no pipeline's name", "give one: --name NAME")
    if not NAME.fullmatch(name):
        hint = "letters, digits, dots, dashes and underscores, a letter or digit in front, at most 100"
        raise UserError(f"{name!r} cannot be a pipeline's name", hint)
    return name


def write(folder: Path, name: str) -> None:
    """Write the files into a directory that is empty or not there. Raises UserError for any other."""
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty", "name a new directory; nothing was changed")
        folder.mkdir(parents=True, exist_ok=True)
        skeleton = resources.files("streamproc.cli") / "skeleton"
        for file in FILES:
            text = (skeleton / file).read_text(encoding="utf-8").replace(PLACEHOLDER, name)
            (folder / file).write_text(text, encoding="utf-8")
        (folder / SCHEMA).write_bytes(_schema())
    except FileExistsError as error:
        raise UserError(f"{folder} is a file", "name a new directory; nothing was changed") from error
    except OSError as error:
        raise UserError(f"cannot write to {error.filename or folder}: {error.strerror}") from error


def _schema() -> bytes:
    from streamproc.plan.models import json_schema

    return orjson.dumps(json_schema(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
