"""The worker as a process: its pages, its logs, its exit codes, and how it goes."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import psutil  # type: ignore[import-untyped]
import pytest

from benchmarks.start import serving
from streamproc import demo
from streamproc.core.plan import Plan
from streamproc.kafka.connection import Connection
from streamproc.pipeline import open_pipeline
from tests.kafka.car_loan import bare
from tests.kafka.processes import ROOT
from tests.kafka.records import read_all

EVENTS = 500
READY_SECONDS = 60.0
MARKER = "marker-5e1f"
FAUST_ROUTES = (
    "/router",
    "/router/",
    "/table",
    "/table/",
    "/graph",
    "/graph/",
    "/stats",
    "/stats/",
    "/performance",
)


@contextmanager
def running(arguments: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``streamproc`` as a process with its output in a file; killed at the end if it is still there."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "streamproc", *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={name: value for name, value in os.environ.items() if not name.startswith("STREAMPROC_")},
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def until(look: Callable[[], Any], what: str, seconds: float = READY_SECONDS) -> Any:
    """Look until there is something, or fail."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found is not None:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


def get(port: int, path: str) -> tuple[int, bytes] | None:
    """Status and body, or nothing while nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except OSError:
        return None


def lanes(port: int) -> dict[str, dict[str, int]] | None:
    """The lanes that a healthy worker has open, by agent and partition."""
    answer = get(port, "/healthz")
    if answer is None or answer[0] != 200:
        return None
    health = orjson.loads(answer[1])
    found: dict[str, dict[str, int]] = health["lanes"]
    return None if health["opening"] else found


def with_lanes(port: int, count: int) -> Callable[[], dict[str, dict[str, int]] | None]:
    def look() -> dict[str, dict[str, int]] | None:
        found = lanes(port)
        return found if found is not None and len(found) == count else None

    return look


def samples(port: int) -> dict[str, float]:
    """Every sample of /metrics, by name and labels."""
    answer = get(port, "/metrics")
    assert answer is not None and answer[0] == 200
    lines = [line for line in answer[1].decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def made(connection: Connection, folder: Path) -> tuple[Path, Plan]:
    """The example's pipeline under a name of its own, with its events topic."""
    file = demo.prepare(folder / "car_loan", f"loans-{uuid4().hex[:8]}")
    file.write_text(bare(file.read_text()))
    plan = open_pipeline(file).plan
    asyncio.run(demo.make_events_topic(connection, plan))
    return file, plan


def events() -> demo.Events:
    """Good events, and some whose values and keys would be recognised anywhere."""
    sample = demo.real_events(EVENTS, 0.0)
    for number in range(0, EVENTS, 50):
        event = orjson.loads(sample.values[number] or b"")
        sample.values[number] = orjson.dumps(event | {"salary_range": MARKER})
        sample.keys[number] = f"{MARKER}-{number}".encode()
    for number in range(1, EVENTS, 50):
        sample.values[number] = f'{{"id": "{MARKER}'.encode()
    return sample


@dataclass(frozen=True)
class Served:
    """A worker that has decided ``EVENTS`` events and has nothing left to do."""

    port: int
    log: Path
    plan: Plan


@pytest.fixture(scope="module")
def served(connection: Connection, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    file, plan = made(connection, folder)
    port = demo.free_ports(1)
    arguments = ["run", str(file), "--kafka", connection.address, "--web-port", str(port), "--log-format", "json"]
    with running(arguments, folder / "worker.log") as worker:
        until(with_lanes(port, demo.PARTITIONS), "four lanes are open")
        asyncio.run(demo.produce(connection, plan.events.topic, events(), None))

        def all_committed() -> bool | None:
            places = lanes(port) or {}
            return sum(at for place in places.values() for at in place.values()) == EVENTS or None

        until(all_committed, "all events are committed")
        yield Served(port, folder / "worker.log", plan)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(40) == 0


def test_a_healthy_worker_says_so(served: Served) -> None:
    answer = get(served.port, "/healthz")
    assert answer is not None
    status, body = answer
    health = orjson.loads(body)
    assert status == 200
    assert health["ok"] is True
    assert health["stuck"] is None
    assert set(health["lanes"]) == {f"decide/{number}" for number in range(demo.PARTITIONS)}


def test_the_front_page_says_what_else_there_is(served: Served) -> None:
    answer = get(served.port, "/")
    assert answer is not None and answer[0] == 200
    text = answer[1].decode()
    assert text.startswith(f"streamproc worker of {served.plan.pipeline}\n")
    paths = re.findall(r"^(/\w+)  ", text, re.MULTILINE)
    assert paths == ["/healthz", "/metrics"]
    assert [get(served.port, path)[0] for path in paths] == [200, 200]  # type: ignore[index]


def test_metrics_agree_with_what_is_in_the_topics(served: Served, connection: Connection) -> None:
    topics, counted = served.plan.topics, f'streamproc_events_total{{label="{served.plan.events.topic}"}}'
    deadline = time.monotonic() + 10  # a batch is counted when its commit was answered, which its readers may precede
    while (found := samples(served.port)).get(counted, 0.0) < EVENTS and time.monotonic() < deadline:
        time.sleep(0.05)
    decisions = asyncio.run(read_all(connection, topics.decisions))
    letters = asyncio.run(read_all(connection, topics.dead_letters))
    assert len(decisions) + len(letters) == EVENTS
    assert len(letters) == EVENTS // 25

    def total(metric: str) -> float:
        return sum(value for name, value in found.items() if name.startswith(f"streamproc_{metric}{{"))

    assert found[counted] == EVENTS
    assert total("decisions_total") == total("tiers_total") == len(decisions)
    assert total("dead_letters_total") == len(letters)
    assert found['streamproc_latency_seconds_count{agent="decide"}'] == EVENTS
    assert found['streamproc_latency_seconds_bucket{agent="decide",le="+Inf"}'] == EVENTS
    assert found['streamproc_batch_events_sum{agent="decide"}'] == EVENTS
    assert found['streamproc_transactions_total{outcome="committed"}'] == found["streamproc_transaction_seconds_count"]
    assert found['streamproc_lanes{state="open"}'] == demo.PARTITIONS
    assert total("lag_records") == 0
    assert found["streamproc_restarts"] == found["streamproc_broker_away"] == 0


@pytest.mark.parametrize("path", FAUST_ROUTES)
def test_routes_of_faust_are_off(served: Served, path: str) -> None:
    answer = get(served.port, path)
    assert answer is not None
    assert answer[0] == 404, answer


def test_logs_are_one_json_object_a_line_without_payloads(served: Served) -> None:
    text = served.log.read_text()
    lines = [orjson.loads(line) for line in text.splitlines()]
    assert lines
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    assert any("opened 4 lanes" in line["message"] for line in lines)
    assert MARKER not in text


def test_sigterm_leaves_the_group_at_once(connection: Connection, tmp_path: Path) -> None:
    session = 45.0
    file, _ = made(connection, tmp_path)
    ports = [demo.free_ports(1)]

    def command(port: int) -> list[str]:
        return [
            "run", str(file), "--kafka", connection.address, "--web-port", str(port), "--session-timeout", str(session),
        ]  # fmt: skip

    with running(command(ports[0]), tmp_path / "first.log") as first:
        until(with_lanes(ports[0], 4), "the first worker has every lane")
        ports.append(demo.free_ports(1))
        with running(command(ports[1]), tmp_path / "second.log") as second:
            for port in ports:
                until(with_lanes(port, 2), "each worker has two lanes")
            first.send_signal(signal.SIGTERM)
            left = time.monotonic()
            assert first.wait(30) == 0, (tmp_path / "first.log").read_text()[-2000:]
            until(with_lanes(ports[1], 4), "the second worker has every lane", session / 4)
            assert time.monotonic() - left < session / 4
            second.send_signal(signal.SIGTERM)
            assert second.wait(30) == 0, (tmp_path / "second.log").read_text()[-2000:]
    assert not list(ROOT.glob("*-data")), "Faust keeps nothing"


def test_without_a_broker_it_ends_with_one_line(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples" / "car_loan", tmp_path / "car_loan")
    file = str(tmp_path / "car_loan" / "pipeline.yaml")
    nobody = demo.free_ports(1)
    with running(["run", file, "--kafka", f"127.0.0.1:{nobody}"], tmp_path / "worker.log") as worker:
        assert worker.wait(60) == 3
    said = (tmp_path / "worker.log").read_text().splitlines()
    assert [line.partition(":")[0] for line in said] == ["error", "hint"], said
    assert f"127.0.0.1:{nobody}" in said[0]


def test_a_broken_pipeline_ends_with_its_problems(connection: Connection, tmp_path: Path) -> None:
    folder = tmp_path / "car_loan"
    shutil.copytree(ROOT / "examples" / "car_loan", folder)
    file = folder / "pipeline.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("score < 0.6", "scoer < 0.6"), encoding="utf-8")
    with running(["run", str(file), "--kafka", connection.address], tmp_path / "worker.log") as worker:
        assert worker.wait(60) == 1
    said = (tmp_path / "worker.log").read_text()
    assert re.match(rf"{re.escape(str(file))}:\d+:\d+: .*scoer", said), said
    assert "Traceback" not in said


def test_a_parent_starts_killed_workers_again_and_stops_them_all(connection: Connection, tmp_path: Path) -> None:
    file, _ = made(connection, tmp_path)
    port = demo.free_ports(2)
    arguments = ["run", str(file), "--kafka", connection.address, "--workers", "2", "--web-port", str(port)]
    with running(arguments, tmp_path / "workers.log") as parent:
        for number in (port, port + 1):
            until(with_lanes(number, 2), "each worker has two lanes")
        victim = serving(parent.pid, port)
        assert victim is not None
        other = serving(parent.pid, port + 1)
        spare = until(lambda: _children(parent.pid) - {victim, other} or None, "another process stands by", 60).pop()
        victim.kill()
        until(lambda: serving(parent.pid, port) == spare or None, "it takes the place of the killed worker", 30)
        for number in (port, port + 1):
            until(with_lanes(number, 2), "each worker has two lanes again")
        assert samples(port)["streamproc_restarts"] == 1
        assert samples(port + 1)["streamproc_restarts"] == 0
        until(lambda: _children(parent.pid) - {spare, other} or None, "another one stands by", 60)
        children = _children(parent.pid)
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(45) == 0, (tmp_path / "workers.log").read_text()[-2000:]
        assert [child.pid for child in children if child.is_running()] == []


def _children(pid: int) -> set[psutil.Process]:
    return {child for child in psutil.Process(pid).children() if child.status() != psutil.STATUS_ZOMBIE}
