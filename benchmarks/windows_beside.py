"""Whole workers on a real broker, with and without windowed features, and Quix Streams on the same events."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import psutil  # type: ignore[import-untyped]
from aiokafka import AIOKafkaProducer

from benchmarks import topics
from benchmarks.contestants import script_python
from benchmarks.contestants.base import ROOT
from benchmarks.contestants.process import Running
from benchmarks.lab import Lab, say
from streamproc.kafka import admin

PARTITIONS = 4
SECONDS = 900.0
POLL_SECONDS = 0.25
Events = Callable[[int, int, int], Iterator[list[bytes]]]


def beside(keys: int, count: int, write_file: Callable[[Path, str], Path], features: str, events: Events) -> None:
    """Print processor time an event and events a second of each, with and without windows."""
    with Lab() as lab:
        source = "bench-windows.events"
        asyncio.run(admin.create(lab.connection, [admin.TopicSpec(source, PARTITIONS, 1)]))
        say(f"producing {count:,} events")
        asyncio.run(_produce(lab.connection, source, events(count, keys, 4_000)))
        for name, own in (("without", ""), ("with", features)):
            folder = lab.folder / f"streamproc-{name}"
            folder.mkdir()
            file = write_file(folder, own)
            file.write_text(file.read_text().replace("pipeline: bench-windows", f"pipeline: bench-{name}"))
            command = [sys.executable, "-m", "streamproc", "run", str(file), "--kafka", lab.broker.address]
            _tell(f"streamproc {name} windows", *_measure(lab, command, folder, f"bench-{name}.decisions", count))
        python = script_python("quix_windows", lab.folder)
        for name in ("without", "with"):
            folder = lab.folder / f"quix-{name}"
            folder.mkdir()
            output = f"quix-{name}.decisions"
            asyncio.run(admin.create(lab.connection, [admin.TopicSpec(output, PARTITIONS, 1)]))
            script = str(ROOT / "benchmarks" / "contestants" / "quix_windows.py")
            command = [python, script, lab.broker.address, source, output, name]
            _tell(f"quix {name} windows", *_measure(lab, command, folder, output, count))


async def _produce(connection: Any, topic: str, lists: Iterator[list[bytes]]) -> None:
    producer = AIOKafkaProducer(**connection.client_kwargs(), linger_ms=20, max_batch_size=1 << 18)
    await producer.start()
    try:
        for values in lists:
            for value in values:
                card = orjson.loads(value)["card"]
                await producer.send(topic, value, key=b"%d" % card, partition=card % PARTITIONS)
        await producer.flush()
    finally:
        await producer.stop()


def _measure(lab: Lab, command: list[str], folder: Path, output: str, count: int) -> tuple[float, float, float]:
    """Processor microseconds an event, events a second after the first, and resident bytes at the end."""
    with Running(command, folder) as process:
        lab.until([output], lambda end: end > 0, SECONDS, [process])
        watched = psutil.Process(process.pid)
        began, spent = time.monotonic(), _cpu(watched)
        seen = asyncio.run(_count(lab, output))
        if not lab.until([output], lambda end: end >= count, SECONDS, [process]):
            raise SystemExit(f"not done in {SECONDS:.0f} s: {process.last_words()}")
        seconds, cpu = time.monotonic() - began, _cpu(watched) - spent
        size = sum(one.memory_info().rss for one in (watched, *watched.children(recursive=True)))
    return 1e6 * cpu / (count - seen), (count - seen) / seconds, size


async def _count(lab: Lab, output: str) -> int:
    consumer = topics.make_consumer(lab.connection)
    await consumer.start()
    try:
        return await topics.ends(lab.connection, consumer, [output])
    finally:
        await consumer.stop()


def _cpu(process: Any) -> float:
    """Seconds of processor time of a process and of those that it started."""
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


def _tell(name: str, cpu: float, rate: float, size: float) -> None:
    print(f"{name:<28} {cpu:6.1f} us CPU an event, {rate:8,.0f} events/s, {size / 1e6:5.0f} MB", flush=True)
