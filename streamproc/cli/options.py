"""Options that several commands share."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from streamproc.kafka.connection import Connection
from streamproc.logs import LEVELS


def connection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--kafka`` and ``--settings``, and passes what they and the environment say as ``connection``."""

    @click.option(
        "--kafka",
        metavar="HOST:PORT",
        help="Kafka's address, several with commas between them.  [env: STREAMPROC_KAFKA; default: 127.0.0.1:9092]",
    )
    @click.option(
        "--settings",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        envvar="STREAMPROC_SETTINGS",
        help="How to reach Kafka: a YAML file with a section kafka:, or a Java client's .properties file."
        "  [env: STREAMPROC_SETTINGS]",
    )
    @functools.wraps(command)
    def with_connection(*args: Any, kafka: str | None, settings: Path | None, **kwargs: Any) -> Any:
        return command(*args, connection=Connection.load(kafka, settings, os.environ), **kwargs)

    return with_connection


pipeline_argument = click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
"""The pipeline file."""


def table_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--table`` and ``--table-time``, and passes ``tables`` and ``table_times``: by name, a file and a field."""

    @click.option(
        "--table",
        "given",
        metavar="NAME=FILE",
        multiple=True,
        help="The rows of a table or store: NDJSON, CSV or Parquet, with its key as a field. Several times.",
    )
    @click.option(
        "--table-time",
        "timed",
        metavar="NAME=FIELD",
        multiple=True,
        help="The field that says from when on a row holds: events are given the row that held at their time.",
    )
    @functools.wraps(command)
    def with_tables(*args: Any, given: Sequence[str], timed: Sequence[str], **kwargs: Any) -> Any:
        files = {name: Path(path) for name, path in map(_named, given)}
        return command(*args, tables=files, table_times=dict(map(_named, timed)), **kwargs)

    return with_tables


def _named(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise click.UsageError(f"{text!r} is not NAME=…")
    return name, value


def log_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--log-format`` and ``--log-level``."""
    command = click.option(
        "--log-level",
        type=click.Choice(LEVELS),
        default="info",
        show_default=True,
        help="Least level logged.",
    )(command)
    return click.option(
        "--log-format",
        type=click.Choice(["human", "json"]),
        default="human",
        show_default=True,
        help="Logs for people, or one JSON object a line.",
    )(command)
