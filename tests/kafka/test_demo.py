"""The demonstration of card payments, short: a worker dies, nothing is lost, and frauds are stopped."""

from __future__ import annotations

import subprocess
import sys

import orjson
import pytest

from streamproc.kafka.connection import Connection

EVENTS = 12_000


@pytest.mark.timeout(300)
def test_a_worker_dies_and_frauds_are_stopped(connection: Connection) -> None:
    command = [sys.executable, "-m", "streamproc", "demo", "card_fraud", "--events", str(EVENTS), "--rate", "1000"]
    done = subprocess.run([*command, "--json", "--kafka", connection.address], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    told = orjson.loads(done.stdout)
    assert (told["events"], told["missing"], told["duplicates"]) == (EVENTS, 0, 0)
    assert told["dead_letters"] == round(EVENTS * 0.005)
    story = told["story"]
    assert story["killed"]
    frauds, genuine = ({name: one["amount"] for name, one in story[what].items()} for what in ("frauds", "genuine"))
    assert frauds["decline"] > 0.8 * sum(frauds.values())
    assert genuine.get("decline", 0) < 0.02 * sum(genuine.values())
    assert genuine["review"] < 0.1 * sum(genuine.values())
