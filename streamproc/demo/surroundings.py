"""What the demonstration runs in: a copy of the example, a worker process, topics."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from aiokafka import TopicPartition

from streamproc.core.plan import Plan
from streamproc.errors import EnvironmentFault
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.group import GroupOffsets
from streamproc.sample import example

PARTITIONS = 4
READY_SECONDS = 120.0
POLL_MS = 100


def prepare(folder: Path, name: str | None) -> Path:
    """A copy of the pipeline of the example that the folder is called like; ``name`` renames it with its topics.

    Returns the pipeline file.
    """
    shutil.copytree(example(folder.name), folder, dirs_exist_ok=True)
    path = folder / "pipeline.yaml"
    if name is not None:
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(folder.name.replace("_", "-"), name), encoding="utf-8")
    return path


def free_ports(count: int) -> int:
    """The first of ``count`` ports in a row that nobody listens on at the moment."""
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first: int = probe.getsockname()[1]
        if first + count < 65536 and all(map(_is_free, range(first, first + count))):
            return first
    raise EnvironmentFault("no free ports on 127.0.0.1", "stop something that listens there")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class Child:
    """A command of streamproc as a process of its own, ``what`` in sentences, with its log in a file."""

    def __init__(self, what: str, words: list[str], log: Path) -> None:
        self._what, self.log = what, log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "streamproc", *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env=os.environ,
            )

    @property
    def pid(self) -> int:
        """The process id; of several workers that of their parent."""
        return self._process.pid

    def check(self) -> None:
        """Raise EnvironmentFault when it has ended."""
        if self._process.poll() is not None:
            tail = self.log.read_text(errors="replace").strip().splitlines()[-3:]
            raise EnvironmentFault(f"the {self._what} ended with code {self._process.returncode}", " | ".join(tail))

    def stop(self) -> None:
        """Let it finish what is in flight; it is killed after a minute."""
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Worker(Child):
    """The worker process of the demonstration."""

    def __init__(self, file: Path, connection: Connection, workers: int, web_port: int, log: Path) -> None:
        words = ["run", str(file), "--kafka", connection.address]
        super().__init__("worker", [*words, "--workers", str(workers), "--web-port", str(web_port)], log)

    def kill_one(self) -> None:
        """kill -9 of one of several workers; their parent starts another."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)


async def make_events_topic(connection: Connection, plan: Plan) -> None:
    """The events topic, which is the producers' to make."""
    await admin.create(connection, [admin.TopicSpec(plan.events.input, PARTITIONS, 1)])


async def remove_topics(connection: Connection, plan: Plan) -> None:
    """Leave a broker that is not ours as it was."""
    there = await admin.describe(connection)
    await admin.delete_topics(connection, [name for name in there if name.startswith(f"{plan.pipeline}.")])


async def until_ready(connection: Connection, plan: Plan, worker: Worker) -> None:
    """Wait until every lane has been claimed. Raises EnvironmentFault when the worker ends or takes too long."""
    group = GroupOffsets(connection, plan.pipeline)
    await group.start()
    wanted = [TopicPartition(plan.events.topic, number) for number in range(PARTITIONS)]
    deadline = time.monotonic() + READY_SECONDS
    try:
        while True:
            worker.check()
            committed = await group.fetch(wanted, stable=False)
            if all(entry.claim is not None for entry in committed.values()):
                return
            if time.monotonic() > deadline:
                raise EnvironmentFault(f"the worker was not ready after {READY_SECONDS:.0f} s", f"see {worker.log}")
            await asyncio.sleep(POLL_MS / 1000)
    finally:
        await group.stop()
