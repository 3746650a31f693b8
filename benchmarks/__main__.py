"""The command line: ``python -m benchmarks [--job small|full] [--seconds N] [--only NAME,…] [--runs N] [--json]``."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from types import FrameType

from rich.console import Console

from benchmarks.contestants import CONTESTANTS
from benchmarks.jobs import JOBS
from benchmarks.lab import Lab, say
from benchmarks.report import Result, machine, show
from benchmarks.schedule import run_job
from streamproc.errors import StreamprocError

INTERRUPTED = 130
BUSY = 0.5
WIDTH = 230
"""Columns of the table where there is no terminal."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Runs streamproc and others on the same events and one Kafka, and compares speed and outputs.",
    )
    parser.add_argument("--job", choices=sorted(JOBS), help="one job; both if not given")
    parser.add_argument("--seconds", type=_positive, default=20.0, help="length of a run, about (default: 20)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each contestant (default: 3)")
    parser.add_argument("--only", type=_names, default=list(CONTESTANTS), metavar="NAME,…", help=", ".join(CONTESTANTS))
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on standard output; the tables go to stderr"
    )
    given = parser.parse_args()
    if given.runs < 1:
        parser.error("--runs must be at least 1")
    return given


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in CONTESTANTS]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(CONTESTANTS)}")
    return [name for name in CONTESTANTS if name in names]


def _end(number: int, frame: FrameType | None) -> None:
    """SIGTERM unwinds the stack as Ctrl-C does, so that everything that was started is stopped."""
    raise KeyboardInterrupt


def main() -> int:
    """Exit code: 0 when all that ran agreed, 1 when something was wrong or failed, 3 without a broker."""
    given = parse()
    signal.signal(signal.SIGTERM, _end)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it retries by itself while new topics get their leaders
    where = machine()
    if where["load"][0] > BUSY * where["cpus"]:
        say(f"the machine is busy (load {where['load'][0]} on {where['cpus']} CPUs): figures will be low, and vary")
    jobs = [JOBS[given.job]] if given.job else list(JOBS.values())
    console = Console(stderr=given.json)
    if not console.is_terminal:
        console.width = WIDTH
    found: dict[str, list[Result]] = {}
    report: dict[str, object] = {}
    try:
        with Lab() as lab:
            for job in jobs:
                chosen = [CONTESTANTS[name] for name in given.only]
                found[job.name] = results = run_job(lab, job, chosen, given.runs, given.seconds)
                size = lab.pool(job).mean_size
                show(job.name, results, size, console)
                figures = {result.contestant.name: result.figures() for result in results}
                report[job.name] = {"event_bytes": round(size, 1), "contestants": figures}
    except KeyboardInterrupt:
        say("interrupted; everything that was started has been stopped")
        return INTERRUPTED
    except StreamprocError as error:
        say(str(error))
        return 3
    if given.json:
        settings = {"seconds": given.seconds, "runs": given.runs}
        print(json.dumps({"machine": where, "settings": settings, "jobs": report}))
    good = all(one.status in {"ok", "skipped"} for results in found.values() for one in results)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
