"""What the commands for operators share: a pipeline without its secrets, times, questions."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import click

from streamproc.errors import PipelineError, UserError
from streamproc.kafka.agent import Agent
from streamproc.pipeline import open_pipeline
from streamproc.plan.durations import to_duration
from streamproc.plan.load import Loaded
from streamproc.plan.models import PipelineFile
from streamproc.plan.reader import read
from streamproc.plan.structure import shape
from streamproc.worker import agents


def open_for_operations(file: Path) -> tuple[Loaded, list[Agent]]:
    """A pipeline and its agents, to look at and not to run: no key for sensitive fields is needed."""
    pipeline = open_pipeline(file, masked=False)
    return pipeline.loaded, agents(pipeline, lanes=1)


def moment(text: str, now: datetime) -> datetime:
    """``90s``, ``1h``, ``3d`` before ``now``, or an ISO 8601 date or time (UTC unless it says otherwise).

    Raises UserError for anything else.

    >>> moment("1h", datetime(2026, 1, 1, 12, tzinfo=UTC)).isoformat()
    '2026-01-01T11:00:00+00:00'
    """
    if re.fullmatch(r"\d+(\.\d+)?(ms|s|m|h|d)", text):
        try:
            return now - to_duration(text)
        except (ValueError, OverflowError):
            return datetime.fromtimestamp(0, UTC)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"{text!r} is not a time", "write 90s, 1h or 3d for so long ago, or 2026-01-31T08:00") from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def pipeline_name(file: Path) -> str:
    """The name in a pipeline file; nothing else in it has to be right, and no model is opened."""
    return pipeline_file(file).pipeline


def pipeline_file(file: Path) -> PipelineFile:
    """The parts of a pipeline file as they are written, without what is wrong with them; no model is opened."""
    found = shape(document := read(file))
    if found is None:
        raise PipelineError(document.problems)
    return found


def confirm(question: str, yes: bool) -> None:
    """Ask, unless ``yes``. Raises UserError where the answer is no, or where nobody is there to answer."""
    if yes:
        return
    try:
        agreed = click.confirm(question)
    except click.Abort:
        click.echo()
        agreed = False
    if not agreed:
        raise UserError("nothing was changed", "answer y, or give --yes")
