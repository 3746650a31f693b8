"""The command: ``python -m tests.torture --seconds 120 --seed 7 --workers 3``; several seeds with ``--seed 1-20``."""

from __future__ import annotations

import signal
import sys
import time
from types import FrameType

import click
import orjson
from rich.console import Console

from tests.torture.faults import FAULTS
from tests.torture.report import Report, show, total
from tests.torture.run import TOPIC, Settings, torture

NAMES = (*FAULTS, TOPIC)
WIDTH = 120


def _faults(context: click.Context, option: click.Parameter, text: str | None) -> tuple[str, ...]:
    if text is None:
        return Settings(0, 0).faults
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if unknown := [name for name in names if name not in NAMES]:
        raise click.BadParameter(f"no such fault: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    return names


def _seeds(context: click.Context, option: click.Parameter, text: str | None) -> range:
    if text is None:
        seed = time.time_ns() % 1_000_000
        return range(seed, seed + 1)
    first, _, last = text.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal() or int(last or first) < int(first):
        raise click.BadParameter("a number, or two with a dash between: 1-20")
    return range(int(first), int(last or first) + 1)


@click.command()
@click.option(
    "--seconds", type=click.FloatRange(1), default=120.0, show_default=True, help="For how long to break things."
)
@click.option(
    "--seed",
    "seeds",
    callback=_seeds,
    metavar="N or N-N",
    help="What the faults are drawn from; a run for each of several.  [default: another one each time]",
)
@click.option("--workers", type=click.IntRange(1, 8), default=3, show_default=True, help="Worker processes.")
@click.option("--partitions", type=click.IntRange(1, 64), default=4, show_default=True, help="Of the events topic.")
@click.option("--rate", type=click.IntRange(1), default=600, show_default=True, help="Events a second.")
@click.option("--faults", callback=_faults, help=f"Which, with commas: {', '.join(NAMES)}.  [default: all but cluster]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def main(
    seconds: float, seeds: range, workers: int, partitions: int, rate: int, faults: tuple[str, ...], as_json: bool
) -> None:
    """Run a pipeline under faults against a Kafka of its own, then check everything that it wrote.

    Exit code 1 when a check fails; the same seed draws the same faults again. `cluster` needs three brokers and so more
    memory; it is only done when asked for.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin by ignoring it
    signal.signal(signal.SIGTERM, _interrupt)
    progress, started = (
        Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True),
        time.monotonic(),
    )
    console, reports = Console(stderr=as_json, width=None if sys.stdout.isatty() else WIDTH), list[Report]()
    for seed in seeds:
        settings = Settings(seconds, seed, workers, partitions, rate, faults=faults)
        progress.print(f"seed {settings.seed}: {settings.command}")
        report = torture(
            settings,
            lambda text: progress.print(f"{time.monotonic() - started:6.1f} s  {text}"),
        )
        show(report, console)
        reports.append(report)
    whole = reports[0] if len(reports) == 1 else total(reports)
    if len(reports) > 1:
        show(whole, console)
    if as_json:
        sys.stdout.write(orjson.dumps(whole.as_json(), option=orjson.OPT_INDENT_2).decode() + "\n")
    sys.exit(0 if whole.good else 1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM is Ctrl-C: everything that was started is stopped."""
    signal.raise_signal(signal.SIGINT)


if __name__ == "__main__":
    main()
