"""What a batch costs whose model fails: ``python -m benchmarks.model_faults``.

A model server on loopback does everything that a server can do wrong, and a Python model hangs, crashes and raises. For
each fault, some batches are decided as a worker decides them; printed is how long they took, beside their deadline.
A stand-in that always answers is asked for what has no score, so the deadline is the sum of two times.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np

from streamproc.core.processor import Score
from streamproc.io.answers import Answers, Source
from streamproc.io.breaker import BreakerPolicy
from streamproc.io.model import Model
from streamproc.io.python import PythonModel
from tests.faulty_server import FAULTS, Handler, Server, good

TIMEOUT = timedelta(milliseconds=200)
NEVER = BreakerPolicy(calls=1_000)
FUNCTION = """
import os, threading
from pathlib import Path

def score(columns):
    fault = Path(__file__).with_name("fault").read_text()
    if fault == "hang":
        threading.Event().wait()
    if fault == "crash":
        os._exit(1)
    if fault == "raise":
        raise ValueError
    return columns["x"] / 100
"""


def ask(rows: int) -> Score:
    """An ask for so many rows."""
    columns = {"x": np.arange(rows, dtype=np.float64), "y": np.arange(rows)}
    return Score("m", columns, [str(row) for row in range(rows)])


async def took(answers: Answers, rows: int, batches: int) -> tuple[list[float], str]:
    """Seconds of each batch, and the reason that its rows had no score."""
    seconds, reason = list[float](), "scored"
    for _ in range(batches):
        began = time.perf_counter()
        [answer] = await answers([ask(rows)])
        missing = [row for row, why in enumerate(answer.reasons) if why is not None]
        if missing:
            await answers([replace(ask(len(missing)), model="stand-in")])
            reason = str(answer.reasons[missing[0]])
        seconds.append(time.perf_counter() - began)
    return seconds, reason


@contextmanager
def served() -> Iterator[Server]:
    """The faulty server."""
    server = Server()
    server.start()
    try:
        yield server
    finally:
        server.stop()


def sources(model: Model, stand_in: Model, breaker: BreakerPolicy = NEVER) -> Answers:
    """The model with its stand-in."""
    return Answers({"m": Source(model, TIMEOUT, breaker), "stand-in": Source(stand_in, TIMEOUT, NEVER)})


def tell(name: str, seconds: Sequence[float], reason: str) -> None:
    """One line of the report."""
    middle, worst = float(np.median(seconds)) * 1e3, max(seconds) * 1e3
    print(f"{name:<22} {reason:<18} {middle:8.1f} {worst:8.1f} {2 * TIMEOUT.total_seconds() * 1e3:8.0f}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line per fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000, help="events in a batch")
    parser.add_argument("--batches", type=int, default=10, help="batches for each fault")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)  # each failure is logged, and here they are what is wanted
    rows, batches = options.rows, options.batches
    print(f"{'ms a batch':<22} {'reason':<18} {'median':>8} {'worst':>8} {'deadline':>8}")
    with served() as server, served() as other:
        stand_in = other.model(seconds=TIMEOUT.total_seconds())
        handlers: dict[str, Handler] = {"http, nothing": good} | {
            f"http, {name}": handler for name, (handler, _) in FAULTS.items()
        }
        for name, handler in handlers.items():
            server.handler = handler
            answers = sources(server.model(seconds=TIMEOUT.total_seconds()), stand_in)
            tell(name, *asyncio.run(took(answers, rows, batches)))
        server.handler = FAULTS["hang"][0]
        breaker = BreakerPolicy(calls=1, wait=60.0)
        answers = sources(server.model(seconds=TIMEOUT.total_seconds()), stand_in, breaker)
        asyncio.run(took(answers, rows, 1))
        tell("http, breaker open", *asyncio.run(took(answers, rows, batches)))
        _python(stand_in, rows, batches)


def _python(stand_in: Model, rows: int, batches: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "faulty_function.py").write_text(FUNCTION, encoding="utf-8")
        model = PythonModel("faulty_function:score", Path(folder), TIMEOUT)
        for fault in ("nothing", "raise", "hang", "crash"):
            (Path(folder) / "fault").write_text(fault, encoding="utf-8")
            tell(f"python, {fault}", *asyncio.run(took(sources(model, stand_in), rows, batches)))
        (Path(folder) / "fault").write_text("nothing", encoding="utf-8")
        began = time.perf_counter()
        answers = sources(model, stand_in)
        while asyncio.run(took(answers, rows, 1))[1] != "scored":
            pass
        print(f"python, until it scores again: {time.perf_counter() - began:.1f} s")
        model.close()


if __name__ == "__main__":
    main()
