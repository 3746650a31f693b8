"""``streamproc drift``: what is normal, what would have alarmed, and why."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import orjson
import polars as pl
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from streamproc.backtest import Accuracy, Backtest, after, delays, panes_of, run_backtest
from streamproc.baselines import baseline_path, learn, open_watched, stream_reference, watching
from streamproc.cli import drift_control
from streamproc.cli.console import console_for
from streamproc.cli.options import connection_options, pipeline_argument, table_options
from streamproc.cli.progress import deciding, scanning
from streamproc.control import current_baseline
from streamproc.core.drift.alarms import monitor_key
from streamproc.core.drift.baseline import EVERYTHING, Baseline
from streamproc.core.drift.panes import loads as load_panes
from streamproc.core.drift.processor import layouts as layouts_of
from streamproc.core.records import TYPE
from streamproc.drift_report import page, story_of
from streamproc.drift_text import explained
from streamproc.errors import UserError
from streamproc.kafka.connection import Connection
from streamproc.kafka.reader import reading
from streamproc.pipeline import Pipeline
from streamproc.rivals import Rival, rivals
from streamproc.stream_reference import learned
from streamproc.table_files import with_tables
from streamproc.wording import counted

PLAIN_WIDTH = 140


@click.group(short_help="Baselines, backtests and alarms.")
def drift() -> None:
    """What is normal, what would have alarmed, and why it did.

    \b
    Examples:
      streamproc drift calibrate pipeline.yaml
      streamproc drift backtest pipeline.yaml january.parquet --truth 35000
      streamproc drift explain pipeline.yaml
      streamproc drift report pipeline.yaml --html drift.html
      streamproc drift incidents pipeline.yaml
      streamproc drift ack pipeline.yaml 91408d8a --why "looking at it" --owner ada
      streamproc drift rebase pipeline.yaml --why "prices rose, as announced"
    """


for command in (drift_control.incidents, drift_control.ack, drift_control.rebase):
    drift.add_command(command)


@drift.command()
@pipeline_argument
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where it goes.  [default: beside FILE]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object with every monitor.")
@table_options
@connection_options
def calibrate(
    file: Path,
    out: Path | None,
    as_json: bool,
    tables: Mapping[str, Path],
    table_times: Mapping[str, str],
    connection: Connection,
) -> None:
    """Learn what is normal from the reference that FILE names, and keep it as a baseline.

    Workers use it where it belongs to the plan, the model and the reference; else each learns its own. Kafka is needed
    only where a topic is the reference.

    \b
    Examples:
      streamproc drift calibrate pipeline.yaml
      streamproc drift calibrate pipeline.yaml --out /tmp/baseline.json --json
    """
    pipeline = with_tables(open_watched(file), tables, table_times)
    stream = stream_reference(pipeline)
    with deciding("learning") as told:
        if stream is None:
            baseline = learn(pipeline, told)
        else:
            _, baseline = asyncio.run(learned(connection, pipeline, stream.topic, stream.events, told))
    path = out or baseline_path(file)
    try:
        path.write_bytes(baseline.dumps())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}", "name another file with --out") from error
    if as_json:
        click.echo(orjson.dumps({"path": str(path), **orjson.loads(baseline.dumps())}))
        return
    _show_baseline(baseline)
    click.echo(f"baseline {baseline.hash} in {path}")


@drift.command()
@pipeline_argument
@click.argument("source", metavar="INPUT", type=click.Path(exists=True, dir_okay=False))
@click.option("--truth", type=click.IntRange(min=1), help="The row of INPUT where things changed, counted from 0.")
@click.option("--compare/--no-compare", default=True, show_default=True, help="Run other detectors beside.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@table_options
def backtest(
    file: Path,
    source: str,
    truth: int | None,
    compare: bool,
    as_json: bool,
    tables: Mapping[str, Path],
    table_times: Mapping[str, str],
) -> None:
    """Say what would have alarmed on the events of INPUT (NDJSON, CSV or Parquet), and when.

    Rows are the events of one partition, in their order. With --truth: false alarms before that row, and delays after
    it. Where rows have the field that `drift.outcome` names: their accuracy beside the expected one, and what ADWIN and
    HDDM_A make of the errors under the same budget. Beside it stand what river's ADWIN, PageHinkley and KSWIN make of
    the numeric columns, and what one makes that looks at nothing.

    \b
    Examples:
      streamproc drift backtest pipeline.yaml january.parquet
      streamproc drift backtest pipeline.yaml january.parquet --truth 35000 --no-compare --json
    """
    pipeline, baseline = _open_watching(file, tables, table_times)
    with deciding("deciding") as told:
        found = asyncio.run(run_backtest(pipeline, baseline, source, told, keep=compare))
    others = list[Rival]()
    if compare:
        with _comparing() as heard:
            others = list(rivals(pl.concat(found.watched), heard))
    if as_json:
        click.echo(orjson.dumps(_as_json(found, others, truth, baseline)))
    else:
        _show_backtest(found, others, truth)


@drift.command()
@pipeline_argument
@click.option(
    "--alarm", "wanted", metavar="ID", help="The alarm, or the first characters of its id.  [default: the last]"
)
@click.option("--json", "as_json", is_flag=True, help="The record as it is.")
@connection_options
def explain(file: Path, wanted: str | None, as_json: bool, connection: Connection) -> None:
    """Explain an alarm of the running pipeline: what changed, since when, by how much, and what moved with it.

    \b
    Examples:
      streamproc drift explain pipeline.yaml
      streamproc drift explain pipeline.yaml --alarm 91408d8a
    """
    topic = open_watched(file).plan.topics.drift

    async def find() -> dict[str, Any] | None:
        last = None
        async with reading(connection, topic) as reader:
            with scanning(topic) as progress:
                async for records in reader.scan(progress=progress):
                    for record in records:
                        if dict(record.headers).get(TYPE) != b"drift":
                            continue
                        change = orjson.loads(record.value)
                        if change["state"] == "drifting" if wanted is None else change["id"].startswith(wanted):
                            last = change
        return last

    alarm = asyncio.run(find())
    if alarm is None:
        what = f"no alarm {wanted!r}" if wanted else "no alarm"
        raise UserError(f"{what} in {topic}", "it is kept there as long as `topics.retention` says")
    click.echo(orjson.dumps(alarm) if as_json else explained(alarm))


@drift.command()
@pipeline_argument
@click.option("--html", "out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Where it goes.")
@click.option(
    "--input",
    "source",
    type=click.Path(exists=True, dir_okay=False),
    help="Report on the events of a file instead of the running pipeline.",
)
@table_options
@connection_options
def report(
    file: Path,
    out: Path,
    source: str | None,
    tables: Mapping[str, Path],
    table_times: Mapping[str, str],
    connection: Connection,
) -> None:
    """Write a page that shows what every monitor did: a timeline, before and after, and the incidents.

    It judges again the panes that the running pipeline keeps, or the events of a file. It opens without a network.

    \b
    Examples:
      streamproc drift report pipeline.yaml --html drift.html
      streamproc drift report pipeline.yaml --html january.html --input january.parquet
    """
    if source is not None:
        pipeline, baseline = _open_watching(file, tables, table_times)
        with deciding("deciding") as told:
            baseline, panes = asyncio.run(panes_of(pipeline, baseline, source, told))
    else:
        pipeline = open_watched(file)
        with deciding("learning") as told:
            present = asyncio.run(current_baseline(connection, pipeline, told))
        if present is None:
            raise UserError("the running pipeline is still learning what is normal", "wait for more events")
        baseline = present
        panes = asyncio.run(_kept_panes(connection, pipeline.plan.topics.panes))
    plan = pipeline.plan
    assert plan.drift is not None
    layouts = layouts_of(baseline)
    read = [one for value in panes if (one := load_panes(value or b"", baseline.hash, layouts)) is not None]
    if not read:
        raise UserError("there are no panes of this baseline", "run the pipeline, or give events with --input")
    story = story_of(plan.pipeline, baseline, plan.drift.recover, read)
    try:
        out.write_text(page(plan.pipeline, story), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}", "name another file with --html") from error
    click.echo(f"{counted(story.panes, 'pane')}, {counted(len(story.incidents), 'incident')}: {out}")


async def _kept_panes(connection: Connection, topic: str) -> list[bytes | None]:
    async with reading(connection, topic) as reader:
        with scanning(topic) as progress:
            return [record.value async for records in reader.scan(progress=progress) for record in records]


def _open_watching(file: Path, tables: Mapping[str, Path], table_times: Mapping[str, str]) -> tuple[Pipeline, Baseline]:
    pipeline = with_tables(open_watched(file), tables, table_times)
    with deciding("learning") as told:
        pipeline, baseline = watching(pipeline, told)
    assert baseline is not None
    return pipeline, baseline


def _show_baseline(baseline: Baseline) -> None:
    """The monitors of everything; those of segments are like them, and only what is off among them is told."""
    table = Table(box=box.SIMPLE)
    for name in ("column", "test", "window", "threshold", "small", "medium", "large shift"):
        table.add_column(name, overflow="fold", justify="left" if name in ("column", "test") else "right")
    told = list[str]()
    for monitor in baseline.monitors:
        name = monitor_key(baseline, monitor)
        if monitor.note:
            told.append(f"note {name}: {monitor.note}")
        if monitor.fit is None:
            told.append(f"off  {name}: {monitor.off}")
        elif monitor.row == EVERYTHING:
            rare = monitor.fit.family == "rare"
            threshold = baseline.thresholds.ratio if rare else baseline.thresholds.cusum
            waits = ["" if delay is None else f"{delay:,.0f}" for delay in monitor.delays]
            cells = (monitor.column, monitor.test, f"{monitor.window:,}", f"{threshold:.1f}", *waits)
            table.add_row(*map(escape, cells))
    console_for(PLAIN_WIDTH).print(table)
    for line in [*told, *(f"off  {name}: {reason}" for name, reason in baseline.unwatched.items())]:
        click.echo(line)
    on = sum(monitor.fit is not None for monitor in baseline.monitors)
    per = baseline.source["budget"]["events_per_false_alarm"]
    click.echo(f"{counted(on, 'monitor')} for everything and {counted(len(baseline.segments), 'segment')}, ", nl=False)
    click.echo(f"one false alarm per {per:,.0f} events; events to the alarm are expected values")


def _as_json(found: Backtest, others: list[Rival], truth: int | None, baseline: Baseline) -> dict[str, Any]:
    shown: dict[str, Any] = {"events": found.events, "baseline": baseline.hash, "alarms": found.alarms}
    if found.unwatched:
        shown["unwatched"] = dict(found.unwatched)
    if truth is not None:
        shown["false_alarms"] = len(found.alarms) - len(after(found.alarms, truth))
        shown["delays"] = delays(found.alarms, truth, "monitor")
    if found.accuracy is not None:
        shown["errors"] = {name: list(rows) for name, rows in found.accuracy.alarms.items()}
        shown["accuracy"] = found.accuracy.between(0, truth or found.events)
        if truth is not None:
            shown["accuracy_after"] = found.accuracy.between(truth, found.events)
    shown["others"] = [
        {"name": other.name, "alarms": len(other.alarms), **({} if truth is None else _judged_json(other, truth))}
        for other in others
    ]
    return shown


def _judged_json(other: Rival, truth: int) -> dict[str, int | None]:
    before, delay = _judged(other.alarms, truth)
    return {"false_alarms": before, "delay": delay}


def _judged(rows: Sequence[int], truth: int) -> tuple[int, int | None]:
    """The alarms before a row, and the events from it to the first after it."""
    return sum(row < truth for row in rows), next((row + 1 - truth for row in rows if row >= truth), None)


def _show_backtest(found: Backtest, others: list[Rival], truth: int | None) -> None:
    incidents = dict[str, list[dict[str, Any]]]()
    for alarm in found.alarms:
        incidents.setdefault(alarm["incident"]["id"], []).append(alarm)
    for number, its in incidents.items():
        first, columns = its[0], Counter(alarm["column"] for alarm in its)
        row, onset = first["window"]["to"]["offset"], first["onset"]["offset"]
        click.echo(f"incident {number}: {counted(len(its), 'alarm')} from row {row:,}, began about row {onset:,}")
        click.echo(f"  first {first['monitor']}, severity {first['severity']}, PSI {first['psi']}")
        click.echo(f"  in {', '.join(columns)}")
    alarms = f"{counted(len(found.alarms), 'alarm')} in {counted(len(incidents), 'incident')}"
    click.echo(f"{counted(found.events, 'event')}, {alarms}")
    for name, reason in found.unwatched.items():
        click.echo(f"off  {name}: {reason}")
    if truth is not None:
        _show_delays(found, truth)
    if found.accuracy is not None:
        _show_accuracy(found.accuracy, found.events, truth)
    for other in others:
        click.echo(_rows_told(other.name, other.alarms, truth))


def _show_accuracy(accuracy: Accuracy, events: int, truth: int | None) -> None:
    """What came true beside what scores let expect, and what detectors make of the errors under the same budget."""
    stretches = [("", 0, events)] if truth is None else [("before: ", 0, truth), ("after: ", truth, events)]
    for name, begin, end in stretches:
        told = accuracy.between(begin, end)
        realised, expected = ("unknown" if told[of] is None else f"{told[of]:.2%}" for of in ("realised", "expected"))
        click.echo(f"{name}accuracy {realised} of {counted(told['outcomes'], 'outcome')}, expected {expected}")
    for name, rows in accuracy.alarms.items():
        click.echo(_rows_told(f"errors, {name}, were outcomes there at once", rows, truth))


def _rows_told(name: str, rows: Sequence[int], truth: int | None) -> str:
    told = counted(len(rows), "alarm")
    if truth is not None:
        before, first = _judged(rows, truth)
        told += f", {before:,} before; the next after {first or '–'} events"
    return f"{name}: {told}"


def _show_delays(found: Backtest, truth: int) -> None:
    before = len(found.alarms) - len(after(found.alarms, truth))
    click.echo(f"before row {truth:,}: {counted(before, 'alarm')}")
    for column, delay in sorted(delays(found.alarms, truth, "column").items(), key=lambda item: item[1]):
        click.echo(f"{delay:>8,} events to the first alarm of {column}")


@contextmanager
def _comparing() -> Iterator[Any]:
    columns = TextColumn("{task.description}"), BarColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("comparing", total=None)
        yield lambda name, done, total: bar.update(task, description=name, completed=done, total=total)
