"""``streamproc batch``: a pipeline over a file, without Kafka."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import click
import orjson
import polars as pl

from streamproc.cli.letters import letter_lines
from streamproc.cli.options import pipeline_argument, table_options
from streamproc.cli.progress import deciding
from streamproc.core.decide import TABLES
from streamproc.core.processor import Effects
from streamproc.errors import UserError
from streamproc.offline import EPOCH, Offline, batch_of
from streamproc.pipeline import Pipeline, open_pipeline
from streamproc.rows import chunks
from streamproc.table_files import with_tables
from streamproc.wording import counted


@click.command()
@pipeline_argument
@click.argument("source", metavar="INPUT", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Where the results go.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["ndjson", "parquet"]),
    default="ndjson",
    show_default=True,
    help="How the results are written.",
)
@click.option(
    "--partition",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="The lane that the rows are decided in.",
)
@click.option(
    "--now",
    type=click.DateTime(),
    help="When it is decided (UTC), for max_age; without it nothing is too old.",
)
@table_options
def batch(
    file: Path,
    source: str,
    out: Path,
    form: str,
    partition: int,
    now: datetime | None,
    tables: Mapping[str, Path],
    table_times: Mapping[str, str],
) -> None:
    """Decide the rows of INPUT (NDJSON, CSV, Parquet, or - for NDJSON on standard input).

    Row n gets offset n; empty lines are no rows. The same processors run as in the worker: for the same events
    and coordinates the bytes of the decisions are the same. DIR gets decisions, review and dead-letters.

    \b
    Examples:
      streamproc batch pipeline.yaml events.ndjson --out results
      streamproc batch pipeline.yaml loans.csv --out results --format parquet
      streamproc batch pipeline.yaml events.ndjson --out results --table profiles=profiles.csv
    """
    pipeline = with_tables(open_pipeline(file), tables, table_times)
    pipeline.answers.warm_up()
    moment = EPOCH if now is None else now.replace(tzinfo=UTC)
    offline = Offline(pipeline.processor, pipeline.answers.now, tables=TABLES, now=moment)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {out}: {error.strerror}", "name a directory that can be written to") from error
    started = time.perf_counter()
    with Files(out, pipeline) as files:
        asyncio.run(_decide(pipeline, offline, files, source, partition))
    if form == "parquet":
        files.to_parquet()
    _tell(files, time.perf_counter() - started, out)


async def _decide(pipeline: Pipeline, offline: Offline, files: Files, source: str, partition: int) -> None:
    offset = 0
    with deciding("deciding") as told:
        async for chunk in chunks(source):
            if chunk.values:
                events = batch_of(pipeline.plan.events.topic, chunk.values, partition=partition, first_offset=offset)
                files.write(offline.process(events))
                offset += len(chunk.values)
            told(offset, chunk.progress)


class Files:
    """The results of a run as NDJSON, one file for each kind of record."""

    def __init__(self, folder: Path, pipeline: Pipeline) -> None:
        topics = pipeline.plan.topics
        self.decisions: dict[str, int] = {}
        self._names = {
            topics.decisions: "decisions",
            topics.review: "review",
            topics.dead_letters: "dead-letters",
        }
        self._folder = folder
        self._open: dict[str, BinaryIO] = {}
        self._stack = ExitStack()
        self.counts = dict.fromkeys(self._names.values(), 0)

    def __enter__(self) -> Files:
        for topic, name in self._names.items():
            try:
                self._open[topic] = self._stack.enter_context((self._folder / f"{name}.ndjson").open("wb"))
            except OSError as error:
                raise UserError(f"cannot write to {self._folder}: {error.strerror}") from error
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def write(self, effects: Effects) -> None:
        """Append the records of one batch; action topics carry the decisions' own bytes and are not repeated."""
        for (name, label), count in effects.counts.items():
            if name == "decisions":
                self.decisions[label] = self.decisions.get(label, 0) + count
        for output in effects.records:
            if output.topic in self._open:
                name = self._names[output.topic]
                lines = letter_lines(output) if name == "dead-letters" else output.values
                self._open[output.topic].writelines(line + b"\n" for line in lines if line is not None)
                self.counts[name] += len(output)

    def to_parquet(self) -> None:
        """Turn every file into Parquet. What differs from pipeline to pipeline (features, events) stays JSON text."""
        for name in self.counts:
            source = self._folder / f"{name}.ndjson"
            with source.open("rb") as lines:
                rows = [orjson.loads(line) for line in lines]
            frame = pl.DataFrame([_flat(row, COLUMNS[name]) for row in rows], schema=COLUMNS[name])
            frame.write_parquet(self._folder / f"{name}.parquet")
            source.unlink()


LISTS = pl.List(pl.String)
SOURCE = pl.Struct({"topic": pl.String, "partition": pl.Int64, "offset": pl.Int64, "timestamp": pl.Int64})
COLUMNS: dict[str, dict[str, Any]] = {
    "decisions": {
        "id": pl.String, "source": SOURCE, "key": pl.String, "time": pl.String, "decision": pl.String,
        "tier": pl.String, "why": pl.String, "fallback_reason": pl.String, "rule": pl.String,
        "scored_by": pl.String, "would_be": pl.String,
        "without_drift": pl.String, "drift_capped": pl.String, "rules": LISTS, "reasons": LISTS, "observed": LISTS,
        "undecided": LISTS, "score": pl.Float64, "scored": pl.Boolean,
        "score_reason": pl.String, "confidence": pl.Float64, "shadows": pl.String, "features": pl.String,
        "pipeline": pl.String, "plan": pl.String, "model": pl.String, "confidence_hash": pl.String, "seen": pl.String,
    },
    "review": {"id": pl.String, "decision": pl.String, "event": pl.String},
    "dead-letters": {"key": pl.String, "headers": pl.String, "value": pl.String, "value_base64": pl.String},
}  # fmt: skip
"""The columns of the Parquet files: the records' fields."""


def _flat(row: dict[str, Any], columns: dict[str, Any]) -> dict[str, Any]:
    return {
        name: orjson.dumps(item).decode() if columns[name] == pl.String and isinstance(item, dict) else item
        for name, item in row.items()
    }


def _tell(files: Files, seconds: float, out: Path) -> None:
    letters = files.counts["dead-letters"]
    total = files.counts["decisions"] + letters
    decided = ", ".join(f"{count:,} {name}" for name, count in sorted(files.decisions.items()))
    what = f"{decided or 'no decisions'}, {counted(letters, 'dead letter')}"
    click.echo(f"{counted(total, 'event')} in {seconds:.1f} s: {what}")
    click.echo(f"in {out}: " + ", ".join(sorted(path.name for path in out.iterdir())))
