"""The car-loan example under a name of its own: its file, its events, its worker."""

from __future__ import annotations

import asyncio
import atexit
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import polars as pl
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner, Result

from streamproc.cli import cli
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.sample import car_loans, example
from tests.kafka.records import read_all

_WATCHING = re.compile(
    r"^# What an alarm means.*?(?=^rules:)|^# Who answers.*?(?=^actions:)|^  escalate:.*?\n"
    r"|^# What the bank knows.*?(?=^features:)|^  years_at_bank:.*?\n|^  - \{id: stranger.*?\n"
    r"|^  - name: a large loan of somebody.*?(?=^  - name: a bad score)"
    r"|^  - \{id: unsure-in-drift.*?\n"
    r"|^  - name: while the score drifts.*?(?=^  - )",
    re.M | re.S,
)
DAMAGED = 5  # of these kinds, one each among every 50 events
SECONDS = 90.0


@dataclass(frozen=True)
class Example:
    """A copy of the example: ``name`` begins all its topics."""

    name: str
    file: Path
    connection: Connection

    def topic(self, role: str) -> str:
        return f"{self.name}.{role}"

    def read(self, role: str) -> list[Any]:
        """Every committed record of one of its topics."""
        return asyncio.run(read_all(self.connection, self.topic(role)))


def make(connection: Connection, partitions: int = 2, changes: Sequence[tuple[str, str]] = ()) -> Example:
    """A fresh copy with an events topic of its own, with texts of the pipeline file replaced."""
    name = f"loans-{uuid4().hex[:8]}"
    parent = Path(tempfile.mkdtemp(prefix="streamproc-"))
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    folder = parent / name
    shutil.copytree(example("car_loan"), folder)
    file = folder / "pipeline.yaml"
    text = bare(file.read_text()).replace("car-loan", name)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    asyncio.run(admin.create(connection, [admin.TopicSpec(f"{name}.events", partitions)]))
    return Example(name, file, connection)


def bare(text: str) -> str:
    """The example's pipeline file as if it watched nothing, looked nothing up, and nobody answered.

    Most tests count lanes and compare bytes, and what a worker has seen of drift depends on the moment.
    """
    return _WATCHING.sub("", text)


def loans() -> pl.DataFrame:
    """All 100,000 real applications in time order, as events; from row 75,000 on they are others."""
    files = car_loans()
    after = pl.read_csv(files.analysis).select(pl.exclude("y_pred_proba", "y_pred"))
    return pl.concat([pl.read_csv(files.reference).select(after.columns), after])


def events(count: int, damaged: bool = True) -> list[tuple[bytes, bytes | None]]:
    """Real applications, as keys and values; some damaged on purpose."""
    rows = pl.read_csv(car_loans().analysis).select(pl.exclude("y_pred_proba", "y_pred")).head(count).to_dicts()
    made: list[tuple[bytes, bytes | None]] = []
    for number, row in enumerate(rows):
        value: bytes | None = orjson.dumps(row)
        if damaged:
            match number % 50:
                case 7:
                    value = (value or b"")[:-20]
                case 9:
                    value = orjson.dumps({**row, "car_value": -1})
                case 11:
                    value = None
                case 13:
                    value = b"\xff\xfe\x00"
                case 15:
                    value = orjson.dumps({**row, "timestamp": "yesterday or so"})
                case 17:
                    value = orjson.dumps({**row, "driver_tenure": None, "car_value": 75_000})
        made.append((str(row["id"]).encode(), value))
    return made


def produce(connection: Connection, topic: str, rows: Sequence[tuple[bytes, bytes | None]]) -> None:
    """Send events, each with a traceparent."""

    async def send() -> None:
        producer = AIOKafkaProducer(**connection.client_kwargs(), enable_idempotence=True, linger_ms=5)
        await producer.start()
        try:
            for key, value in rows:
                await producer.send(topic, value, key=key, headers=[("traceparent", b"00-" + key)])
        finally:
            await producer.stop()

    asyncio.run(send())


@contextmanager
def worker(made: Example, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """``streamproc run`` as a process of its own, ended with SIGTERM."""
    log = (made.file.parent / "worker.log").open("ab")
    process = subprocess.Popen(
        [sys.executable, "-m", "streamproc", "run", str(made.file), "--kafka", made.connection.address, *more],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def wait_for_results(made: Example, count: int) -> None:
    """Wait until decisions and dead letters are so many, all committed."""
    deadline = time.monotonic() + SECONDS
    found = -1
    while time.monotonic() < deadline:
        infos = asyncio.run(admin.describe(made.connection, [made.topic("dead-letter"), made.topic("decisions")]))
        if len(infos) == 2:
            found = len(made.read("decisions")) + len(made.read("dead-letter"))
            if found >= count:
                return
        time.sleep(0.1)
    log = (made.file.parent / "worker.log").read_text()[-1500:]
    raise AssertionError(f"{found} results after {SECONDS:.0f} s, not {count}: {log}")


def run_worker_until(made: Example, count: int) -> None:
    """Start a worker, wait for so many results in all, and stop it."""
    with worker(made):
        wait_for_results(made, count)


@cache
def decided(address: str) -> Example:
    """300 events, 30 of them bad, decided by a worker that has ended. Shared by tests that only look."""
    made = make(Connection((address,)))
    produce(made.connection, made.topic("events"), events(300))
    run_worker_until(made, 300)
    return made


def command(made: Example, *arguments: str, code: int = 0, stdin: str | None = None) -> Result:
    """Run a ``streamproc`` command in this process. Errors of ours are raised."""
    result = CliRunner().invoke(cli, [*arguments, "--kafka", made.connection.address], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result
