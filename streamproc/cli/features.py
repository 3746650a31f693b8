"""``streamproc features``: the features of a history, as they were when each event was decided."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import click
import polars as pl

from streamproc.cli.letters import letter_lines
from streamproc.cli.options import pipeline_argument, table_options
from streamproc.cli.progress import deciding
from streamproc.core.outcomes.joining import text
from streamproc.core.outcomes.labels import OUTCOME, ROW, Labels
from streamproc.core.outcomes.outcome import Outcome
from streamproc.core.plan import EVENT_TIME, Plan
from streamproc.errors import UserError
from streamproc.late import MOST, from_file
from streamproc.operations import moment
from streamproc.parquet import ParquetFile
from streamproc.pipeline import Pipeline, open_before_models
from streamproc.rows import CHUNK_ROWS, Chunk, Progress, chunks
from streamproc.table_files import with_tables
from streamproc.training import History, LabelField
from streamproc.whole_file import writing
from streamproc.wording import counted


@click.command(short_help="The features of a history, to train a model with.")
@pipeline_argument
@click.argument("source", metavar="INPUT", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The Parquet file to write."
)
@click.option("--lanes", type=click.IntRange(1), default=1, show_default=True, help="Partitions of the events topic.")
@click.option("--key", metavar="FIELD", help="The field that keyed the records.  [default: what `events.key` names]")
@click.option("--fields", is_flag=True, help="All fields of the contract too, not only those that something reads.")
@click.option("--outcomes", "data", type=click.Path(exists=True, dir_okay=False), help="What came true, as labels.")
@click.option("--known-by", metavar="TIME", help="Leave out what came true later: 30d, or 2026-01-31.")
@click.option("--outcome-field", metavar="FIELD", help="The field of INPUT itself that says what came true.")
@click.option("--dead-letters", type=click.Path(dir_okay=False, path_type=Path), help="Where those go, as NDJSON.")
@table_options
def features(
    file: Path,
    source: str,
    out: Path,
    lanes: int,
    key: str | None,
    fields: bool,
    data: str | None,
    known_by: str | None,
    outcome_field: str | None,
    dead_letters: Path | None,
    tables: Mapping[str, Path],
    table_times: Mapping[str, str],
) -> None:
    """Write the features of the events in INPUT (NDJSON, CSV, Parquet, or - for NDJSON on standard input).

    They are computed by what computes them in the worker, so a model learns from what it will be asked with. Each event
    sees the events before it in the file, and no later ones: history should be in the order in which the events
    arrived. The model of FILE is not needed, and may be still to be trained.

    What is looked up comes from --table, and with --table-time as it was when each event happened: no store is asked,
    since it knows only what is now.

    The outcomes of --outcomes are rows as `streamproc outcomes send` takes them. No outcome ever becomes a feature.

    \b
    Examples:
      streamproc features pipeline.yaml events.ndjson --out train.parquet
      streamproc features pipeline.yaml events.parquet --outcomes repaid.csv --known-by 2026-01-31 --out train.parquet
      streamproc features pipeline.yaml payments.csv --outcome-field fraud --lanes 12 --out train.parquet
      streamproc features pipeline.yaml events.ndjson --table risk=risk.csv --table-time risk=from --out train.parquet
    """
    if data is not None and outcome_field is not None:
        raise UserError("--outcomes and --outcome-field both say what came true", "leave one of them out")
    if known_by is not None and data is None:
        raise UserError("--known-by is about outcomes with a time", "name them with --outcomes")
    read = [file, Path(source), *([Path(data)] if data is not None else []), *tables.values()]
    written = [out, *([dead_letters] if dead_letters is not None else [])]
    _check_files(read, written)
    pipeline = with_tables(open_before_models(file), tables, table_times)
    _check_lookups(pipeline, table_times)
    now = datetime.now(UTC)
    history = History(pipeline, now, lanes=lanes, key=key, fields=fields, outcome=outcome_field)
    field = None if outcome_field is None else LabelField(outcome_field, pipeline.processor)
    until = None if known_by is None else moment(known_by, now)
    labels = None if data is None else Labels(asyncio.run(_outcomes(data, pipeline.plan, until)))
    if pipeline.plan.events.time is None:
        click.echo("the pipeline names no time of events: all of them have the same one, that of 1970", err=True)
    started = time.perf_counter()
    with nullcontext() if dead_letters is None else writing(dead_letters) as letters, ParquetFile(out) as table:
        rows = asyncio.run(_compute(source, history, field, labels, table, letters))
        if not rows:
            raise UserError(f"no row of {source} is an event", _reasons(history) or "it has none")
        table.finish(None if labels is None else labels.table(), on=ROW)
    _tell(history, rows, time.perf_counter() - started, out)
    if labels is not None:
        lost = len(labels) - labels.joined
        click.echo(f"{counted(labels.joined, 'outcome')} joined, {lost:,} of no event that had happened by then")
    elif field is not None:
        click.echo(f"{counted(field.there, 'row')} with an outcome")


async def _compute(
    source: str,
    history: History,
    field: LabelField | None,
    labels: Labels | None,
    table: ParquetFile,
    letters: BinaryIO | None,
) -> int:
    """Write what becomes of each row; how many were events."""
    rows = 0
    with deciding("computing features") as told:
        async for chunk in _gathered(source):
            values, first = chunk.values, history.rows
            said: list[str | None] = []
            if field is not None:
                values, said = field.take(values)
            made = history.take(values)
            columns, at = made.columns, made.columns[ROW].to_numpy()
            if field is not None:
                columns = columns.with_columns(pl.Series(OUTCOME, said, dtype=pl.String).gather(at - first))
            if labels is not None:
                labels.see(at, made.keys, columns[EVENT_TIME], made.ids)
            if letters is not None:
                letters.writelines(line + b"\n" for line in letter_lines(made.letters))
            if len(columns):
                table.write(columns)
            rows += len(columns)
            told(history.rows, chunk.progress)
    return rows


async def _gathered(source: str) -> AsyncIterator[Chunk]:
    """The rows of a source, many at a time also where they come one by one."""
    waiting = list[bytes]()
    progress: Progress = 0, None
    async for chunk in chunks(source):
        waiting += chunk.values
        progress = chunk.progress
        if len(waiting) >= CHUNK_ROWS:
            yield Chunk(waiting, progress)
            waiting = []
    if waiting:
        yield Chunk(waiting, progress)


async def _outcomes(source: str, plan: Plan, until: datetime | None) -> list[Outcome]:
    """The outcomes of a file, without those that were known later. Raises UserError where the plan knows them not."""
    found = list[Outcome]()
    async for outcome in from_file(source):
        if plan.outcomes is not None and text(outcome.value) not in plan.outcomes.values:
            raise UserError(
                f"{source} has the value {text(outcome.value)!r}, which the pipeline does not name",
                f"it is one of {', '.join(plan.outcomes.values)}",
            )
        if until is None or outcome.time <= until:
            found.append(outcome)
        if len(found) > MOST:
            raise UserError(f"more than {MOST:,} outcomes", "give a history in parts")
    return found


def _check_files(read: Sequence[Path], written: Sequence[Path]) -> None:
    """Raise UserError where what is read would be written over, or two files have one name."""
    places = [path.resolve() for path in read]
    for path in written:
        if path.resolve() in places:
            raise UserError(f"{path} is read, and would be written over", "give --out and --dead-letters other names")
        places.append(path.resolve())


def _check_lookups(pipeline: Pipeline, table_times: Mapping[str, str]) -> None:
    """Say where look-ups are not of then. Raises UserError where there is no file to look up in."""
    for source in pipeline.plan.sources:
        if not pipeline.answers.looks_up_in(source.name):
            message = f"there is no file of {source.name}: what is looked up there would be missing everywhere"
            raise UserError(message, f"`--table {source.name}=FILE`, with `--table-time {source.name}=FIELD`")
        if source.name not in table_times:
            click.echo(f"{source.name} is looked up as it is now, and not as it was: see --table-time", err=True)


def _tell(history: History, rows: int, seconds: float, out: Path) -> None:
    letters = history.reasons.total()
    what = f"{counted(rows, 'event')}, {counted(letters, 'dead letter')}"
    what += f" ({_reasons(history)})" if letters else ""
    click.echo(f"{counted(history.rows, 'row')} in {seconds:.1f} s: {what}")
    click.echo(f"in {out}: {counted(len(history.columns), 'column')} of the pipeline, and key, time and row")


def _reasons(history: History) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in history.reasons.most_common())
