"""A topic that is deleted and made anew, while the worker stands still and while it runs."""

from __future__ import annotations

import asyncio
import subprocess

from streamproc.errors import Exit
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from tests.kafka import car_loan
from tests.kafka.car_loan import Example

EVENTS = 20
SECONDS = 90.0
WORD = "was deleted and made anew"


async def recreated(connection: Connection) -> list[str]:
    """A topic that is deleted and made anew stops the lane with a clear word."""
    return await asyncio.to_thread(lambda: [*_standing(connection), *_running(connection)])


def _standing(connection: Connection) -> list[str]:
    made = car_loan.make(connection)
    _feed(made)
    car_loan.run_worker_until(made, EVENTS)
    _anew(made)
    with car_loan.worker(made) as process:
        return _said(made, process, "between two runs")


def _running(connection: Connection) -> list[str]:
    made = car_loan.make(connection)
    _feed(made)
    with car_loan.worker(made) as process:
        car_loan.wait_for_results(made, EVENTS)
        _anew(made)
        return _said(made, process, "under a worker")


def _feed(made: Example) -> None:
    car_loan.produce(made.connection, made.topic("events"), car_loan.events(EVENTS))


def _anew(made: Example) -> None:
    topic = made.topic("events")
    asyncio.run(admin.delete_topics(made.connection, [topic]))
    asyncio.run(admin.create(made.connection, [admin.TopicSpec(topic, 2)]))
    _feed(made)


def _said(made: Example, process: subprocess.Popen[bytes], when: str) -> list[str]:
    """What is wrong with how a worker took it."""
    try:
        code = process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        return [f"{when}: the worker still runs after {SECONDS:.0f} s, {len(made.read('decisions'))} decisions"]
    log = (made.file.parent / "worker.log").read_text()
    wrong = [] if code == Exit.INPUT else [f"{when}: the worker ended with {code}"]
    return wrong if WORD in log else [*wrong, f"{when}: the log does not say that the topic {WORD}: {log[-300:]!r}"]
