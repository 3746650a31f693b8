"""What a model learns from is what was decided with: `streamproc features` beside the decide processor."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from streamproc.core.decide import TABLES
from streamproc.core.processor import Batch, Records
from streamproc.offline import Offline
from streamproc.pipeline import open_pipeline
from tests import features_history
from tests.features_history import LANES, History

EVENTS, CARDS = 100_000, 700
NOW = datetime(2026, 3, 1, tzinfo=UTC)
ROWS = features_history.history(20_000, CARDS, datetime(2026, 1, 1, tzinfo=UTC))


def decided(file: Path, made: History, seed: int) -> list[dict[str, Any]]:
    """The decisions of the history, lane by lane, in batches of random sizes."""
    pipeline, random = open_pipeline(file), np.random.default_rng(seed)
    offline = Offline(pipeline.processor, pipeline.answers.now, tables=TABLES, now=NOW)
    topic, found = pipeline.plan.events.topic, list[dict[str, Any]]()
    for lane, rows in enumerate(made.lanes()):
        first = 0
        while first < len(rows):
            own = rows[first : first + int(random.choice([1, 2, 7, 90, 1_000, 6_000]))]
            columns = [made.keys[row] for row in own], [made.values[row] for row in own], [()] * len(own)
            offsets = np.arange(first, first + len(own))
            effects = offline.process(Batch(lane, {topic: Records(topic, lane, *columns, offsets, made.written[own])}))
            for output in effects.records:
                if output.topic == pipeline.plan.topics.decisions:
                    found += [orjson.loads(value or b"") for value in output.values]
            first += len(own)
    return found


def test_every_feature_of_every_decision_is_that_of_the_file(tmp_path: Path) -> None:
    file = features_history.pipeline(tmp_path)
    made = features_history.history(EVENTS, CARDS, datetime(2026, 1, 1, tzinfo=UTC))
    assert all(made.lanes()) and len(made.lanes()) == LANES
    table = features_history.offline(file, made, tmp_path)
    assert EVENTS * 0.98 < len(table) < EVENTS  # some were bad, and some came again
    features_history.check(made, table, decided(file, made, seed=2))


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    file, out = features_history.pipeline(tmp_path), tmp_path / "train.parquet"
    there = sorted(tmp_path.iterdir())
    command = [sys.executable, "-m", "streamproc", "features", str(file), "-", "--out", str(out)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None and process.stderr is not None
    parts = os.pidfd_open(process.pid)
    try:
        for value in ROWS.values:  # more than the pipe holds: it reads, and has begun to write
            process.stdin.write(value + b"\n")
        process.stdin.flush()
        assert sorted(tmp_path.iterdir()) != there
        process.send_signal(signal.SIGINT)
        assert select.select([parts], [], [], 30)[0]
    finally:
        os.close(parts)
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert sorted(tmp_path.iterdir()) == there


def test_rows_come_from_standard_input(tmp_path: Path) -> None:
    file, out = features_history.pipeline(tmp_path), tmp_path / "train.parquet"
    rows = b"".join(value + b"\n" for value in ROWS.values)
    command = [sys.executable, "-m", "streamproc", "features", str(file), "-", "--out", str(out)]
    done = subprocess.run(command, input=rows, capture_output=True, check=True)
    assert b"20,000 rows" in done.stdout
    assert pl.read_parquet(out)["row"].is_sorted()
