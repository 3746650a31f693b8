"""The one broker, the input topics on it, and a folder: what all runs of a benchmark share."""

from __future__ import annotations

import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks import topics
from benchmarks.contestants import Contestant, Setup
from benchmarks.contestants.process import Running
from benchmarks.events import Pool, make_pool
from benchmarks.jobs import Job, Topics
from streamproc.kafka.connection import Connection
from streamproc.kafka.dev_broker import BrokerConfig, DevBroker

POLL_SECONDS = 0.25
BROKER = BrokerConfig(
    properties={
        # Records of every contestant are stamped by one clock, the broker's: see runs.py.
        "log.message.timestamp.type": "LogAppendTime",
        # Workers that start together join together, as with Kafka's own default of 3 s.
        "group.initial.rebalance.delay.ms": "2000",
    }
)


def say(text: str) -> None:
    """Progress, for people: standard output has the results alone."""
    print(f"benchmarks: {text}", file=sys.stderr, flush=True)


class Lab:
    """Starts the broker, makes input, starts contestants, and leaves nothing behind."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._pools: dict[str, Pool] = {}
        self._filled: set[str] = set()
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamproc-benchmarks-")))
            self.broker = stack.enter_context(DevBroker(BROKER, notify=say))
            self.connection = Connection((self.broker.address,))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def pool(self, job: Job) -> Pool:
        if job.name not in self._pools:
            self._pools[job.name] = make_pool(job)
        return self._pools[job.name]

    def input(self, job: Job, count: int) -> str:
        """A topic with events 0 to ``count - 1``, made the first time that it is asked for."""
        name = f"input-{job.name}-{count}"
        if name not in self._filled:
            say(f"producing {count:,} events for the job {job.name}")
            topics.create(self.connection, [name])
            topics.fill(self.connection, name, self.pool(job), 0, count)
            self._filled.add(name)
        return name

    def empty_input(self, job: Job, partitions: int = topics.PARTITIONS) -> str:
        """A topic without events."""
        name = f"input-{job.name}-live-{next(self._numbers)}"
        topics.create(self.connection, [name], partitions)
        return name

    @contextmanager
    def setup(self, contestant: Contestant, job: Job, source: str) -> Iterator[Setup]:
        """Topics and a folder of a run's own; the topics go when it ends."""
        prefix = f"run-{next(self._numbers)}-{contestant.name}"
        folder = self.folder / prefix
        folder.mkdir()
        setup = Setup(self.broker.address, job, source, Topics(prefix), folder)
        try:
            if not contestant.makes_topics:
                topics.create(self.connection, setup.topics.all)
            yield setup
        finally:
            topics.remove(self.connection, prefix)
            if "-live-" in source:
                topics.remove(self.connection, source)

    def until(
        self,
        names: list[str],
        enough: Callable[[int], bool],
        seconds: float,
        processes: list[Running],
    ) -> bool:
        """Whether the sum of the topics' end offsets became ``enough`` in time. Raises Ended when a process ended."""

        async def run() -> bool:
            consumer: Any = topics.make_consumer(self.connection)
            await consumer.start()
            try:
                deadline = time.monotonic() + seconds
                while True:
                    for process in processes:
                        process.check()
                    if enough(await topics.ends(self.connection, consumer, names)):
                        return True
                    if time.monotonic() > deadline:
                        return False
                    await asyncio.sleep(POLL_SECONDS)
            finally:
                await consumer.stop()

        return asyncio.run(run())
