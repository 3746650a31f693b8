"""``streamproc demo``: see it work."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from streamproc.pipeline import open_pipeline
from streamproc.sample import example
from streamproc.wording import counted

if TYPE_CHECKING:
    from streamproc.demo import Events, Tally
    from streamproc.demo.show import Show, Told

MOST_BY_DEFAULT = 1_000.0
"""Events a second with ``--http``: the door, its callers and all the rest share one machine."""
EXAMPLES = ("car_loan", "card_fraud", "support_triage")


@click.command()
@click.argument("name", metavar="[EXAMPLE]", type=click.Choice(EXAMPLES), default=EXAMPLES[0])
@click.option(
    "--events",
    type=click.IntRange(1, 100_000_000),
    help="How many events.  [default: 50,000; of card_fraud all that there are; of support_triage 2,000]",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 16),
    help="Worker processes.  [default: 1; of the others 2]",
)
@click.option(
    "--rate",
    type=click.FloatRange(1),
    help="Events a second.  [default: all within 20, 30 or 65 s; with --alone mostly as fast as it goes; with --http "
    "1,000 at most]",
)
@click.option("--http", "by_http", is_flag=True, help="Send one of ten events by HTTP, through `streamproc serve`.")
@click.option("--alone", is_flag=True, help="Only what decides: nothing is killed, nobody answers, no outcomes.")
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
    name: str,
    events: int | None,
    workers: int | None,
    rate: float | None,
    by_http: bool,
    alone: bool,
    bad_share: float,
    keep: bool,
    kafka: str | None,
    as_json: bool,
) -> None:
    """See it work: a real Kafka, real events, decisions, and a recount of what came out.

    car_loan: 50,000 applications. Half-way the model server is killed, and comes back: meanwhile the fallback chain
    decides. A scripted reviewer answers part of what is for people, the rest is escalated. At the end it is told which
    loans were repaid, and what that says.

    card_fraud: seven months of payments, with features that remember what a card did. Half-way a worker is killed. At
    the end it is counted which frauds were stopped.

    support_triage: 2,000 messages in ten languages, attacks on the model among them. Its server is slow now and then,
    and away for 30 s, while the fallback chain decides. At the end it is told what that took, and what came of the
    attacks.

    With --http, part of the events does not come by Kafka: callers ask a door (`streamproc serve`) for their decisions,
    each at its own moment, and again where there is no answer. The times of both ways stand beside each other.

    Needs no Docker and no Java. Everything that is started is stopped again.

    \b
    Examples:
      streamproc demo
      streamproc demo card_fraud
      streamproc demo support_triage
      streamproc demo card_fraud --http
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
        told: Show = show.SHOWS[name](alone=alone)
        workers = workers or told.workers
        sample = told.sample(events, bad_share)
        if kafka is None:
            say("starting Apache Kafka (the first time, its jars are fetched: some 45 MB)")
            broker = stack.enter_context(DevBroker())
            connection, version = Connection((broker.address,)), broker.version
        else:
            connection = Connection.load(kafka, None, {})
            version = asyncio.run(_version(connection))
        own_name = f"{name.replace('_', '-')}-{secrets.token_hex(3)}" if kafka else None
        file = show.prepare(folder / name, own_name)
        told.change(file, stack)
        if rate is None and (told.paced or not alone or by_http):
            rate = len(sample.values) / told.seconds
            rate = min(rate, MOST_BY_DEFAULT) if by_http else rate
        pipeline = open_pipeline(file)
        asyncio.run(show.make_events_topic(connection, pipeline.plan))
        web_port = show.free_ports(workers + by_http)
        worker = show.Worker(file, connection, workers, web_port, folder / "worker.log")
        stack.callback(worker.stop)
        number = show.by_trace if by_http else show.by_place(sample.keys)
        tally = show.Tally(expected=len(sample.values), number=number, story=told.story)
        http = None
        if by_http:
            from streamproc.demo.by_http import open_door

            assert rate is not None
            port, log = web_port + workers, folder / "door.log"
            http = open_door(file, pipeline.plan, connection, tally, sample, rate, port, log)
            stack.callback(http.door.stop)
        what = f"{counted(workers, 'worker')}{' and a door' if by_http else ''} of {file.parent.name}"
        say(f"Kafka {version} on {connection.address}; starting {what}")
        running = show.Demonstration(told, pipeline, connection, sample, tally, worker, rate, http)
        measures = asyncio.run(running.run(say, partial(_live, None if as_json else console, tally)))
        summary = tally.summary(version)
        if as_json:
            click.echo(orjson.dumps(summary | ({} if measures is None else {"measures": measures})).decode())
        else:
            _print(console, summary, sample)
            if by_http:
                _print_ways(console, summary["ways"])
            if told.story is not None:
                _print_story(console, told.told(summary["story"]))
            if measures is not None:
                _print_measures(console, measures)
            _look_next(console, name)
        if kafka is not None and not keep:
            worker.stop()
            if http is not None:
                http.door.stop()
            asyncio.run(show.remove_topics(connection, pipeline.plan))
        if keep:
            door = None if http is None else http.door.url
            _keep(console, connection, web_port, door, folder, pipeline.plan.topics.decisions)
    good = summary["missing"] == 0 and summary["duplicates"] == 0
    ctx.exit(Exit.GOOD if good else Exit.BUG)


def _silent(text: str) -> None:
    return None


async def _version(connection: Connection) -> str:
    from streamproc.kafka.connection import probe, require

    info = await probe(connection, 10.0)
    require(info)
    return info.release.removeprefix("Kafka ")


@contextmanager
def _live(console: Console | None, tally: Tally) -> Iterator[Callable[[], None]]:
    """What shows people how far it is."""
    if console is None:
        yield lambda: None
        return
    with Live(console=console, refresh_per_second=5) as live:
        yield lambda: live.update(_progress(tally))


def _progress(tally: Tally) -> Group:
    figures = tally.summary("")
    table = Table.grid(padding=(0, 2))
    decided = "  ".join(f"{name} {count:,}" for name, count in figures["decisions"].items())
    done = tally.settled
    table.add_row("decided", f"{done:,} of {tally.expected:,}", decided, f"dead letters {tally.dead_letters:,}")
    latency = figures["latency_ms"]
    table.add_row(
        "rate",
        f"{figures['events_per_second']:,}/s",
        f"latency p50 {latency['p50'] or 0:.0f} ms",
        f"p99 {latency['p99'] or 0:.0f} ms",
    )
    if ways := figures.get("ways"):
        http, times = ways["http"], ways["http"]["latency_ms"]
        answered = f"{http['in_time']:,} in time, {http['late']:,} late"
        latency = f"answer p50 {times['p50'] or 0:.0f} ms", f"p99 {times['p99'] or 0:.0f} ms"
        table.add_row("by HTTP", f"{http['settled']:,} of {http['events']:,}", f"{latency[0]}  {latency[1]}", answered)
    return Group(ProgressBar(total=tally.expected, completed=done, width=60), table)


def _print(console: Console, summary: dict[str, Any], sample: Events) -> None:
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


def _print_ways(console: Console, ways: dict[str, Any]) -> None:
    kafka, http = ways["kafka"], ways["http"]
    table = Table(title="By Kafka and by HTTP, beside each other", title_justify="left")
    for name in ("", "by Kafka", "by HTTP"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("events", f"{kafka['events']:,}", f"{http['events']:,}")
    for what, name in (
        ("  answered in time (200)", "in_time"), ("  late: pending (202)", "late"),
        ("    and answered when asked again", "late_answered"), ("  refused (422)", "refused"),
        ("  given up", "unanswered"), ("sent again, after no answer, 429 or 503", "sent_again"),
    ):  # fmt: skip
        table.add_row(what, "", f"{http[name]:,}")
    for of in http["latency_ms"]:
        times = (way["latency_ms"][of] for way in (kafka, http))
        table.add_row(f"latency {of}", *("" if ms is None else f"{ms:,.0f} ms" for ms in times))
    for name in ("missing", "duplicates"):
        good = [way[name] == 0 for way in (kafka, http)]
        cells = zip(good, (kafka, http), strict=True)
        table.add_row(name, *(f"[{'green' if fine else 'red'}]{way[name]:,}[/]" for fine, way in cells))
    console.print(table)
    console.print("by Kafka: from an event's timestamp until its decision was read")
    console.print("by HTTP: from when an event was due until its first answer (200 or 202) was read")


def _print_story(console: Console, told: Told) -> None:
    table = Table(title=told.title, title_justify="left", show_header=False)
    for row in told.rows:
        table.add_row(*row)
    console.print(table)


def _print_measures(console: Console, measures: dict[str, Any]) -> None:
    from streamproc.cli.stats import show as show_measures

    console.print("What it came to (streamproc stats):")
    show_measures(measures)


def _look_next(console: Console, name: str) -> None:
    console.print("where to look next:")
    console.print(f"  {pipeline_file(name)}   the pipeline that decided", soft_wrap=True, markup=False)
    for other in EXAMPLES:
        if other != name:
            console.print(f"  streamproc demo {other}   another one")
    console.print("  streamproc demo --keep        leave it running and look into its topics")
    console.print("  streamproc demo --alone --rate 5000   latency without a queue")
    console.print("  streamproc init my-pipeline   begin one of your own")


def pipeline_file(name: str = EXAMPLES[0]) -> str:
    """Where an example's pipeline file is, in a checkout or in an installed package; relative if it is below here."""
    path = example(name) / "pipeline.yaml"
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _keep(
    console: Console, connection: Connection, web_port: int, door: str | None, folder: Path, decisions: str
) -> None:
    address = connection.address
    console.print(f"\nKafka            {address}")
    console.print(f"health, metrics  http://127.0.0.1:{web_port}/healthz  /metrics")
    if door is not None:
        console.print(f"door             {door}")
    console.print(f"worker's log     {folder / 'worker.log'}")
    console.print(f"try              streamproc tail {decisions} --from beginning --limit 3 --kafka {address}")
    console.print("Ctrl-C stops everything")
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print("stopping")
