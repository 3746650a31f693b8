"""The command: ``python -m tests.torture --seconds 120 --seed 7 --workers 3``."""

from __future__ import annotations

import signal
import sys
import time
from types import FrameType

import click
import orjson
from rich.console import Console

from tests.torture.faults import FAULTS
from tests.torture.report import show
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


@click.command()
@click.option(
    "--seconds", type=click.FloatRange(1), default=120.0, show_default=True, help="For how long to break things."
)
@click.option("--seed", type=int, help="What the faults are drawn from.  [default: another one each time]")
@click.option("--workers", type=click.IntRange(1, 8), default=3, show_default=True, help="Worker processes.")
@click.option("--partitions", type=click.IntRange(1, 64), default=4, show_default=True, help="Of the events topic.")
@click.option("--rate", type=click.IntRange(1), default=600, show_default=True, help="Events a second.")
@click.option("--faults", callback=_faults, help=f"Which, with commas: {', '.join(NAMES)}.  [default: all but cluster]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def main(
    seconds: float, seed: int | None, workers: int, partitions: int, rate: int, faults: tuple[str, ...], as_json: bool
) -> None:
    """Run a pipeline under faults against a Kafka of its own, then check everything that it wrote.

    Exit code 1 when a check fails; the same seed draws the same faults again. `cluster` needs three brokers and so more
    memory; it is only done when asked for.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin by ignoring it
    signal.signal(signal.SIGTERM, _interrupt)
    settings = Settings(
        seconds, time.time_ns() % 1_000_000 if seed is None else seed, workers, partitions, rate, faults=faults
    )
    progress, started = (
        Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True),
        time.monotonic(),
    )
    progress.print(f"seed {settings.seed}: {settings.command}")
    report = torture(
        settings,
        lambda text: progress.print(f"{time.monotonic() - started:6.1f} s  {text}"),
    )
    if as_json:
        sys.stdout.write(orjson.dumps(report.as_json(), option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        show(report, Console(width=None if sys.stdout.isatty() else WIDTH))
    sys.exit(0 if report.good else 1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM is Ctrl-C: everything that was started is stopped."""
    signal.raise_signal(signal.SIGINT)


if __name__ == "__main__":
    main()
