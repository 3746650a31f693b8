"""``streamproc demo``: see it work."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from streamproc import logs
from streamproc.errors import Exit
from streamproc.kafka.connection import Connection
from streamproc.kafka.dev_broker import DevBroker
from streamproc.operations import pipeline_file as parts_of
from streamproc.pipeline import Pipeline, open_pipeline
from streamproc.plan.scoring import placed
from streamproc.sample import example
from streamproc.wording import counted

REFRESH_SECONDS = 0.2
MISSING_SHARE = 0.1
"""Of the events that could have a value missing."""
STORY_SECONDS = 20.0
SEED = 7


@click.command()
@click.option(
    "--events",
    type=click.IntRange(1, 100_000_000),
    default=50_000,
    show_default=True,
    help="How many events.",
)
@click.option("--workers", type=click.IntRange(1, 16), default=1, show_default=True, help="Worker processes.")
@click.option(
    "--rate",
    type=click.FloatRange(1),
    help="Events a second.  [default: all within 20 s; with --alone as fast as it goes]",
)
@click.option("--alone", is_flag=True, help="Only what decides: no model server, nobody who answers, no outcomes.")
@click.option(
    "--bad-share",
    type=click.FloatRange(0, 1),
    default=0.005,
    show_default=True,
    help="Share of events damaged on purpose.",
)
@click.option("--keep", is_flag=True, help="Leave broker and worker running until Ctrl-C, and say where they are.")
@click.option("--kafka", metavar="HOST:PORT", help="Use this Kafka instead of starting one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, and nothing else there.")
@click.pass_context
def demo(
    ctx: click.Context,
    events: int,
    workers: int,
    rate: float | None,
    alone: bool,
    bad_share: float,
    keep: bool,
    kafka: str | None,
    as_json: bool,
) -> None:
    """See it work: a real Kafka, 50,000 car-loan applications, decisions, and a recount of what came out.

    Half-way its model server is killed, and comes back: meanwhile the fallback chain decides. A scripted reviewer
    answers part of what is for people, the rest is escalated. At the end it is told which loans were repaid, and what
    that says.

    Needs no Docker and no Java. Everything that is started is stopped again.

    \b
    Examples:
      streamproc demo
      streamproc demo --alone --events 500000 --workers 2
      streamproc demo --alone --rate 5000 --json
    """
    from streamproc import demo as show

    logs.configure("human", "error")
    console = Console(stderr=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamproc-demo-")))
        say = _silent if as_json else console.print
        sample = show.real_events(events, bad_share, 0.0 if alone else MISSING_SHARE)
        if kafka is None:
            say("starting Apache Kafka (the first time, its jars are fetched: some 45 MB)")
            broker = stack.enter_context(DevBroker())
            connection, version = Connection((broker.address,)), broker.version
        else:
            connection = Connection.load(kafka, None, {})
            version = asyncio.run(_version(connection))
        file = show.prepare(folder / "car_loan", f"car-loan-{secrets.token_hex(3)}" if kafka else None)
        story, server = None if alone else show.Story(), None
        if alone:
            show.without_people(file)
        else:
            server = _model_server(show, file, stack)
            rate = rate or events / STORY_SECONDS
        pipeline = open_pipeline(file)
        asyncio.run(show.make_events_topic(connection, pipeline.plan))
        web_port = show.free_ports(workers)
        worker = show.Worker(file, connection, workers, web_port, folder / "worker.log")
        stack.callback(worker.stop)
        what = f"{counted(workers, 'worker')} of {file.parent.name}"
        say(f"Kafka {version} on {connection.address}; starting {what}")
        tally = show.Tally(expected=events, story=story)
        watching = None if as_json else console
        measures = asyncio.run(_run(show, pipeline, connection, sample, tally, worker, rate, watching, server))
        summary = tally.summary(version)
        if as_json:
            click.echo(orjson.dumps(summary | ({} if measures is None else {"measures": measures})).decode())
        else:
            _print(console, summary, sample, pipeline)
            if measures is not None:
                _print_story(console, summary["story"], measures)
            _look_next(console)
        if kafka is not None and not keep:
            worker.stop()
            asyncio.run(show.remove_topics(connection, pipeline.plan))
        if keep:
            _keep(console, connection, web_port, folder, pipeline.plan.topics.decisions)
    good = summary["missing"] == 0 and summary["duplicates"] == 0
    ctx.exit(Exit.GOOD if good else Exit.BUG)


def _silent(text: str) -> None:
    return None


async def _version(connection: Connection) -> str:
    from streamproc.kafka.connection import probe, require

    info = await probe(connection, 10.0)
    require(info)
    return info.release.removeprefix("Kafka ")


def _model_server(show: Any, file: Path, stack: ExitStack) -> Any:
    """The example's model in a server of its own, and the file changed to ask that."""
    [(_, _, part)], _ = placed(parts_of(file))
    assert part.onnx is not None
    server = show.ModelServer(file.parent / part.onnx, part.inputs, show.free_ports(1))
    stack.callback(server.kill)
    server.start()
    show.told(file, server.url)
    return server


async def _run(
    show: Any, pipeline: Pipeline, connection: Connection, sample: Any, tally: Any, worker: Any,
    rate: float | None, console: Console | None, server: Any,
) -> dict[str, Any] | None:  # fmt: skip
    """Send, watch and count; with a model server, what its story comes to."""
    plan, story = pipeline.plan, tally.story
    await show.until_ready(connection, plan, worker)
    if story is None:
        await _decide(show, pipeline, connection, sample, tally, worker, rate, console)
        return None
    reviewing, true = show.Reviewing(), show.repaid()
    async with asyncio.TaskGroup() as group:
        interrupting = group.create_task(show.interrupt(server, story))
        answering = group.create_task(show.review(connection, plan, true, reviewing, SEED))
        await _decide(show, pipeline, connection, sample, tally, worker, rate, console)
        interrupting.cancel()  # it has come to its end, unless the events did not
        if console is not None:
            console.print("waiting for people, and for what they do not answer to be escalated")
        await show.until_over(reviewing)
        answering.cancel()
    await show.read_later(connection, plan, story, reviewing.revisions)
    outcomes = await show.tell_outcomes(connection, plan, story.approved, true)
    measures: dict[str, Any] = await show.settled(connection, plan, outcomes)
    return measures


async def _decide(
    show: Any, pipeline: Pipeline, connection: Connection, sample: Any, tally: Any, worker: Any,
    rate: float | None, console: Console | None,
) -> None:  # fmt: skip
    plan = pipeline.plan
    async with show.reader(connection, show.deciding(plan)) as consumer:
        tally.started = tally.finished = time.perf_counter()
        producing = asyncio.create_task(show.produce(connection, plan.events.topic, sample, rate))
        counting = asyncio.create_task(show.recount(consumer, plan, tally, worker))
        if console is None:
            await counting
        else:
            with Live(console=console, refresh_per_second=5) as live:
                while not counting.done():
                    live.update(_progress(tally))
                    await asyncio.wait({counting}, timeout=REFRESH_SECONDS)
                live.update(_progress(tally))
        await asyncio.gather(producing, counting)
    async with show.reader(connection, show.following(plan)) as consumer:
        await show.recount(consumer, plan, tally, worker)


def _progress(tally: Any) -> Group:
    figures = tally.summary("")
    table = Table.grid(padding=(0, 2))
    decided = "  ".join(f"{name} {count:,}" for name, count in figures["decisions"].items())
    done = len(tally.decided)
    table.add_row("decided", f"{done:,} of {tally.expected:,}", decided, f"dead letters {tally.dead_letters:,}")
    latency = figures["latency_ms"]
    table.add_row(
        "rate",
        f"{figures['events_per_second']:,}/s",
        f"latency p50 {latency['p50'] or 0:.0f} ms",
        f"p99 {latency['p99'] or 0:.0f} ms",
    )
    return Group(ProgressBar(total=tally.expected, completed=done, width=60), table)


def _print(console: Console, summary: dict[str, Any], sample: Any, pipeline: Pipeline) -> None:
    table = Table(title="What came out (read back with read_committed)", title_justify="left", show_header=False)
    table.add_row("events", f"{summary['events']:,}, {sample.damaged:,} of them damaged on purpose")
    if sample.incomplete:
        table.add_row("", f"{sample.incomplete:,} with a value missing")
    for name, count in summary["decisions"].items():
        table.add_row(f"  {name}", f"{count:,}  ({count / summary['events']:.1%})")
    drift = summary["drift"]
    if drift["changed"]:
        wrong, capped = sum(drift["wrong"].values()), drift["capped"]
        told = f"{drift['changed']:,} decided otherwise because the score drifted, {wrong:,} would have been errors"
        told += f"; {capped:,} more were not, because max_extra_review was used up" if capped else ""
        table.add_row("  by drift", told)
    table.add_row("actions", f"{summary['actions']:,}")
    table.add_row("review items", f"{summary['reviews']:,}")
    table.add_row("dead letters", f"{summary['dead_letters']:,}")
    latency = summary["latency_ms"]
    style = "green" if summary["missing"] == summary["duplicates"] == 0 else "red"
    table.add_row("missing, duplicates", f"[{style}]{summary['missing']}, {summary['duplicates']}[/]")
    table.add_row("rate", f"{summary['events_per_second']:,} events/s over {summary['seconds']:.1f} s")
    table.add_row(
        "latency",
        f"p50 {latency['p50'] or 0:.0f} ms, p99 {latency['p99'] or 0:.0f} ms (queueing included)",
    )
    console.print(table)


def _print_story(console: Console, story: dict[str, Any], measures: dict[str, Any]) -> None:
    from streamproc.cli.stats import show as show_measures

    gap = story["gap"]
    table = Table(title="While the model was gone", title_justify="left", show_header=False)
    table.add_row("without a score", ", ".join(f"{name} {count:,}" for name, count in story["without_score"].items()))
    table.add_row("for", f"{gap['seconds']} s; {gap['recovered_after_seconds']} s after it was back it was used again")
    for name, count in gap["decided"].items():
        table.add_row("  decided", f"{name}: {count:,}")
    table.add_row("by whom, all in all", ", ".join(f"{name} {count:,}" for name, count in story["tiers"].items()))
    table.add_row("then", ", ".join(f"{name} {count:,}" for name, count in story["decided_later"].items()))
    console.print(table)
    console.print("What it came to (streamproc stats):")
    show_measures(measures)


def _look_next(console: Console) -> None:
    console.print("where to look next:")
    console.print(f"  {pipeline_file()}   the pipeline that decided", soft_wrap=True, markup=False)
    console.print("  streamproc demo --keep        leave it running and look into its topics")
    console.print("  streamproc demo --alone --rate 5000   latency without a queue")
    console.print("  streamproc init my-pipeline   begin one of your own")


def pipeline_file() -> str:
    """Where the example's pipeline file is, in a checkout or in an installed package; relative if it is below here."""
    path = example("car_loan") / "pipeline.yaml"
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _keep(console: Console, connection: Connection, web_port: int, folder: Path, decisions: str) -> None:
    address = connection.address
    console.print(f"\nKafka            {address}")
    console.print(f"health, metrics  http://127.0.0.1:{web_port}/healthz  /metrics")
    console.print(f"worker's log     {folder / 'worker.log'}")
    console.print(f"try              streamproc tail {decisions} --from beginning --limit 3 --kafka {address}")
    console.print("Ctrl-C stops everything")
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print("stopping")
