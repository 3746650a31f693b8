"""How long a worker takes from its start to its first decision: ``python -m benchmarks.start [--job small|full]``.

Cold: ``streamproc run`` from the shell, on topics with events that wait. Warm: one of two workers under a parent is
told to end, and the spare takes its place; from the end of the one to the first decision of the other, while events
come all the time.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress

import psutil  # type: ignore[import-untyped]

from benchmarks import topics
from benchmarks.contestants import CONTESTANTS, Setup
from benchmarks.contestants.process import Running
from benchmarks.jobs import JOBS, Job
from benchmarks.lab import Lab
from streamproc.demo import free_ports

LOOK_SECONDS = 0.02
LIMIT_SECONDS = 120.0
STEP = 1_200
FED_SECONDS = 0.5
IDLE_SECONDS = 0.5
DECIDED = "streamproc_events_total"


class Feed:
    """Produces some events twice a second while it is entered."""

    def __init__(self, lab: Lab, job: Job, topic: str) -> None:
        self._lab, self._job, self._topic = lab, job, topic
        self._over, self._next = threading.Event(), 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join(LIMIT_SECONDS)

    def _run(self) -> None:
        while not self._over.wait(FED_SECONDS):
            topics.fill(self._lab.connection, self._topic, self._lab.pool(self._job), self._next, STEP)
            self._next += STEP


def cold(lab: Lab, job: Job, times: int) -> list[float]:
    """Seconds of each start; the first one, which makes the topics, is left out."""
    contestant, source, found = CONTESTANTS["streamproc-1"], lab.empty_input(job), list[float]()
    with lab.setup(contestant, job, source) as setup:
        for number in range(times + 1):
            topics.fill(lab.connection, source, lab.pool(job), STEP * number, STEP)
            found.append(asyncio.run(_first_decision(lab, setup, contestant.command(setup))))
    return found[1:]


async def _first_decision(lab: Lab, setup: Setup, command: list[str]) -> float:
    names = [setup.topics.decisions, setup.topics.dead_letters]
    consumer = topics.make_consumer(lab.connection)
    await consumer.start()
    try:
        before = await topics.ends(lab.connection, consumer, names)
        started = time.monotonic()
        worker = Running(command, setup.folder)
        try:
            while await topics.ends(lab.connection, consumer, names) <= before:
                worker.check()
                if time.monotonic() - started > LIMIT_SECONDS:
                    raise TimeoutError("no decision")
                await asyncio.sleep(LOOK_SECONDS)
            return time.monotonic() - started
        finally:
            await asyncio.to_thread(worker.stop)
    finally:
        await consumer.stop()


def warm(lab: Lab, job: Job, times: int) -> list[float]:
    """Seconds of each start of a spare."""
    contestant, source, port = CONTESTANTS["streamproc-2"], lab.empty_input(job), free_ports(2)
    with lab.setup(contestant, job, source) as setup, Feed(lab, job, source):
        command = [*contestant.command(setup), "--web-port", str(port)]
        with Running(command, setup.folder) as parent:
            return [_replaced(parent, port) for _ in range(times)]


def _replaced(parent: Running, port: int) -> float:
    _until(parent, lambda: _decides(port) and _decides(port + 1))
    victim = serving(parent.pid, port)
    _until(parent, lambda: any(_has_imported(child) for child in psutil.Process(parent.pid).children()))
    assert victim is not None
    victim.terminate()
    psutil.wait_procs([victim], LIMIT_SECONDS)
    started = time.monotonic()
    _until(parent, lambda: serving(parent.pid, port) not in {None, victim} and _decides(port))
    return time.monotonic() - started


def _until(parent: Running, condition: Callable[[], bool]) -> None:
    started = time.monotonic()
    while not condition():
        parent.check()
        if time.monotonic() - started > LIMIT_SECONDS:
            raise TimeoutError
        time.sleep(LOOK_SECONDS)


def serving(pid: int, port: int) -> psutil.Process | None:
    """The child of a process that listens on a port."""
    for child in psutil.Process(pid).children():
        with suppress(psutil.Error):
            if any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in child.net_connections()):
                return child
    return None


def _has_imported(process: psutil.Process) -> bool:
    """Whether it stands by: it listens nowhere, and waits for its input."""
    with suppress(psutil.Error):
        return not process.net_connections() and process.cpu_times().user > 1 and process.cpu_percent(IDLE_SECONDS) == 0
    return False


def _decides(port: int) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        lines = page.read().decode().splitlines()
        return any(line.startswith(DECIDED) and float(line.rsplit(" ", 1)[1]) > 0 for line in lines)
    return False


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", choices=sorted(JOBS), default="full")
    parser.add_argument("--times", type=int, default=3, help="default: 3")
    given = parser.parse_args()
    with Lab() as lab:
        for name, measure in (("cold", cold), ("warm", warm)):
            found = measure(lab, JOBS[given.job], given.times)
            print(f"{name}: {statistics.median(found):.1f} s ({min(found):.1f} to {max(found):.1f})", flush=True)


if __name__ == "__main__":
    main()
