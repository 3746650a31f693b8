"""What the door for HTTP costs: ``python -m benchmarks.serve [--rate 500] [--seconds 20] [--partitions 12]``.

Callers ask for decisions at a steady rate, each at its own moment: a latency is from when a request was due until its
answer was read, so one that had to wait for a connection counts from there. Then lines are sent in requests of 1,000.

Beside it the same is asked of a plain aiohttp handler that runs the pipeline's own processor in its process. That
loses what the door is for: an event is on no topic, nothing of it is left when the process ends, a repeated one is
decided again, features with memory, drift, people and outcomes know nothing of it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import aiohttp
import numpy as np
import orjson
import psutil  # type: ignore[import-untyped]
from aiohttp import web

from benchmarks.calls import Calls
from benchmarks.contestants import CONTESTANTS
from benchmarks.contestants.process import Running
from benchmarks.events import Pool
from benchmarks.jobs import JOBS
from benchmarks.lab import Lab, say
from benchmarks.topics import PARTITIONS
from streamproc.demo import free_ports

READY_SECONDS = 60.0
CONNECTIONS = 200
LINES = 1_000
SENDERS = 4
WARM_SECONDS = 3.0
LAST_SECONDS = 60.0


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=500.0, help="Decisions a second.")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--partitions", type=int, default=PARTITIONS, help="Of the events topic, and so lanes.")
    parser.add_argument("--handler", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.handler is not None:
        serve_plainly(given.handler, given.port)
        return
    columns = (("asked", 8), ("answered", 9), ("p50 ms", 8), ("p99 ms", 8), ("lines/s", 9), ("CPU ms", 7))
    print(f"{'':<22} {' '.join(name.rjust(width) for name, width in columns)} {'CPU µs a line':>14}")
    with Lab() as lab:
        job, worker = JOBS["full"], CONTESTANTS["streamproc-1"]
        pool = lab.pool(job)
        with lab.setup(worker, job, lab.empty_input(job, given.partitions)) as setup:
            file = setup.folder / "pipeline.yaml"
            door, plain = free_ports(1), free_ports(1)
            with running(worker.command(setup), setup.folder):
                words = ["serve", str(file), "--port", str(door), "--kafka", setup.address]
                with running([sys.executable, "-m", "streamproc", *words], setup.folder) as process:
                    wait_until_ready(door)
                    wait_for_decision(door, pool)
                    measure("door and worker", process, door, pool, given.rate, given.seconds)
            handler = [sys.executable, "-m", "benchmarks.serve", "--handler", str(file), "--port", str(plain)]
            with running(handler, setup.folder) as process:
                wait_until_ready(plain)
                measure("plain handler", process, plain, pool, given.rate, given.seconds)


@contextmanager
def running(command: list[str], folder: Path) -> Iterator[Running]:
    """A process, until the end."""
    process = Running(command, folder)
    try:
        yield process
        process.check()
    finally:
        process.stop()


def wait_until_ready(port: int) -> None:
    """Wait for ``/readyz``."""
    until = time.monotonic() + READY_SECONDS
    while True:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            if answer.status == 200:
                return
        if time.monotonic() > until:
            raise SystemExit("it did not become ready")
        time.sleep(0.1)


def wait_for_decision(port: int, pool: Pool) -> None:
    """Wait until a worker decides: it may start more slowly than the door."""
    until = time.monotonic() + READY_SECONDS
    while True:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/decide?deadline=20s",
            pool.value(2 * 10**9),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=40) as answer:
            if answer.status == 200:
                return
        if time.monotonic() > until:
            raise SystemExit("no worker decides")


def measure(name: str, process: Running, port: int, pool: Pool, rate: float, seconds: float) -> None:
    """Ask, and print what came of it. The time on a CPU is that of the process that answers, workers left out."""
    say(f"{name}: {rate:.0f} decisions a second for {seconds:.0f} s, then lines for as long")
    begun = cpu_seconds(process)
    latencies, asked = asyncio.run(decide(port, pool, rate, seconds))
    between, made = cpu_seconds(process), rate * (seconds + WARM_SECONDS)
    taken = asyncio.run(send_lines(port, pool, seconds))
    of_line = (cpu_seconds(process) - between) / max(taken, 1) * 1e6
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000 if len(latencies) else (float("nan"),) * 2
    print(
        f"{name:<22} {asked:>8,} {len(latencies):>9,} {p50:>8.1f} {p99:>8.1f} {taken / seconds:>9,.0f}"
        f" {(between - begun) / made * 1e3:>7.2f} {of_line:>14.1f}",
        flush=True,
    )


def cpu_seconds(process: Running) -> float:
    """What a process has used so far."""
    times = psutil.Process(process.pid).cpu_times()
    used: float = times.user + times.system
    return used


async def decide(port: int, pool: Pool, rate: float, seconds: float) -> tuple[list[float], int]:
    """The latencies of decisions that were answered with 200, and how many were asked for; the first seconds are not
    counted: all is cold."""
    latencies, asked, under_way = list[float](), 0, 0
    calls, idle = Calls(port, CONNECTIONS), asyncio.Event()

    def answered(status: int, due: float, counts: bool) -> None:
        nonlocal under_way
        under_way -= 1
        if counts and status == 200:
            latencies.append(time.perf_counter() - due)
        if not under_way:
            idle.set()

    began = time.perf_counter()
    for number in range(int((WARM_SECONDS + seconds) * rate)):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        counts = number >= WARM_SECONDS * rate
        asked, under_way = asked + counts, under_way + 1
        idle.clear()
        calls.send(
            calls.request("/v1/decide?deadline=5s", pool.value(number)), partial(answered, due=due, counts=counts)
        )
    await asyncio.wait_for(idle.wait(), LAST_SECONDS)
    calls.close()
    return latencies, asked


async def send_lines(port: int, pool: Pool, seconds: float) -> int:
    """How many lines were taken, in requests of 1,000 from a few senders."""
    taken, until = 0, time.perf_counter() + seconds
    bodies = [b"\n".join(pool.value(10**9 + LINES * n + i) for i in range(LINES)) for n in range(16)]
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

        async def sender(number: int) -> None:
            nonlocal taken
            headers = {"Content-Type": "application/x-ndjson"}
            while time.perf_counter() < until:
                number += SENDERS
                async with session.post("/v1/events", data=bodies[number % len(bodies)], headers=headers) as answer:
                    told = orjson.loads(await answer.read())
                taken += told["taken"]

        await asyncio.gather(*map(sender, range(SENDERS)))
    return taken


def serve_plainly(file: Path, port: int) -> None:
    """A handler that decides in its own process."""
    from streamproc.core.decide import TABLES
    from streamproc.offline import Offline, batch_of
    from streamproc.pipeline import open_pipeline

    pipeline = open_pipeline(file)
    topic = pipeline.plan.events.topic
    offline = Offline(pipeline.processor, pipeline.answers.now, tables=TABLES)

    async def decided(request: web.Request) -> web.Response:
        effects = offline.process(batch_of(topic, [await request.read()]))
        found = next(one for one in effects.records if one.topic == pipeline.plan.topics.decisions)
        return web.Response(body=found.values[0], content_type="application/json")

    async def events(request: web.Request) -> web.Response:
        lines = (await request.read()).split(b"\n")
        effects = offline.process(batch_of(topic, lines))
        return web.Response(body=orjson.dumps({"taken": len(lines) if effects.records else 0}))

    async def ready(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/decide", decided)
    app.router.add_post("/v1/events", events)
    app.router.add_get("/readyz", ready)
    web.run_app(app, host="127.0.0.1", port=port, print=None)


if __name__ == "__main__":
    main()
