"""The benchmark works, and what is compared agrees. No time is asserted."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import orjson
import psutil
import pytest

from benchmarks.compare import Outputs, check
from benchmarks.events import BODIES, make_pool
from benchmarks.jobs import JOBS

ROOT = Path(__file__).parents[2]
SECONDS = 280
ONLY = ("copy-aiokafka", "streamproc-1")


@contextmanager
def benchmark(*words: str, errors: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The command, ended by pid if it still runs when the context is left."""
    command = [sys.executable, "-m", "benchmarks", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 80)
def test_a_short_benchmark_runs_and_its_outputs_agree(tmp_path: Path) -> None:
    log = tmp_path / "stderr"
    words = ["--job", "small", "--seconds", "2", "--runs", "1", "--only", ",".join(ONLY), "--json"]
    with log.open("wb") as errors, benchmark(*words, errors=errors) as process:
        out, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, log.read_text()[-2000:]
    found = orjson.loads(out)["jobs"]["small"]["contestants"]
    assert tuple(found) == ONLY
    assert [found[name]["status"] for name in ONLY] == ["ok", "ok"]
    assert [found[name]["outputs"] for name in ONLY] == ["exempt", "agree"]
    for figures in found.values():
        for name in ("events_per_second", "cpu_us_per_event", "peak_rss_mb"):
            assert figures[name]["min"] <= figures[name]["median"] <= figures[name]["max"]
        assert figures["events_per_second"]["min"] > 0
        assert {"1,000", "half"} <= set(figures["latency_ms"]) <= {"1,000", "5,000", "half"}


@pytest.mark.long
def test_an_interrupted_benchmark_leaves_no_process(tmp_path: Path) -> None:
    log = tmp_path / "stderr"
    words = ["--only", "copy-aiokafka", "--job", "small"]
    with log.open("wb") as errors, benchmark(*words, errors=errors) as process:
        _until(lambda: _started(process.pid, "copy_aiokafka"))
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def _started(pid: int, script: str) -> bool:
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            if script in " ".join(child.cmdline()):
                return True
    return False


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("name", sorted(JOBS))
def test_the_input_is_the_same_every_time_and_every_decision_is_met(name: str) -> None:
    pool, again = make_pool(JOBS[name]), make_pool(JOBS[name])
    assert pool.bodies == again.bodies
    assert orjson.loads(pool.value(BODIES + 5))["id"] == BODIES + 5
    expected = [one for one in pool.expected if one is not None]
    assert len(pool.bodies) - len(expected) == round(BODIES * JOBS[name].damaged_share)
    met = {rule for one in expected for rule in one.decision.rules}
    assert len(met) == {"small": 3, "full": 20}[name]


def test_a_wrong_decision_is_noticed() -> None:
    pool = make_pool(JOBS["small"])
    expected = pool.expected[0]
    assert expected is not None
    right = expected.decision
    record = {"decision": right.decision, "rule": right.rule, "rules": right.rules, "reasons": right.reasons}
    outputs = Outputs(2, bytearray(2))
    outputs.note(1, 0)
    check(0, orjson.dumps(record), expected, outputs)
    assert outputs.complaint() == "1 missing"
    outputs.note(2, 1)
    assert outputs.complaint() is None
    check(0, orjson.dumps(record | {"rules": []}), expected, outputs)
    assert "1 wrong" in (outputs.complaint() or "")
