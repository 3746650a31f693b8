"""The demonstrations, short: a worker dies, also while callers ask by HTTP; a language model goes away, and attacks."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from typing import Any

import orjson
import psutil  # type: ignore[import-untyped]
import pytest

from streamproc.demo.triage_story import FATES
from streamproc.kafka.connection import Connection

PAYMENTS = 12_000
ASKED = 5_000
MESSAGES = 300
CAUGHT = FATES[:4]
DEADLINE_MS = 1_000
"""Of the language model in the example."""


def command(connection: Connection, name: str, events: int, rate: int, *more: str) -> list[str]:
    words = [sys.executable, "-m", "streamproc", "demo", name, "--events", str(events), "--rate", str(rate)]
    return [*words, "--kafka", connection.address, *more]


def demo(connection: Connection, name: str, events: int, rate: int) -> dict[str, Any]:
    """What a demonstration tells."""
    done = subprocess.run(command(connection, name, events, rate, "--json"), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    told: dict[str, Any] = orjson.loads(done.stdout)
    assert (told["events"], told["missing"], told["duplicates"]) == (events, 0, 0)
    return told


@pytest.mark.timeout(300)
def test_a_worker_dies_and_frauds_are_stopped(connection: Connection) -> None:
    told = demo(connection, "card_fraud", PAYMENTS, 1000)
    assert told["dead_letters"] == round(PAYMENTS * 0.005)
    story = told["story"]
    assert story["killed"]
    frauds, genuine = ({name: one["amount"] for name, one in story[what].items()} for what in ("frauds", "genuine"))
    assert frauds["decline"] > 0.8 * sum(frauds.values())
    assert genuine.get("decline", 0) < 0.02 * sum(genuine.values())
    assert genuine["review"] < 0.1 * sum(genuine.values())


@pytest.mark.timeout(600)
def test_a_worker_dies_while_callers_ask_by_http_too(connection: Connection) -> None:
    done = subprocess.run(
        command(connection, "card_fraud", ASKED, 300, "--http"), capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in done.stderr.splitlines() if "│" in line]
    told = {name: cells for name, *cells in rows}
    assert "a worker was killed" in told
    assert told["missing, duplicates"] == ["0, 0"]
    assert told["missing"] == told["duplicates"] == ["0", "0"]
    [by_http] = [int(cells[1]) for name, *cells in rows if name == "events" and len(cells) == 2]
    answered = {name: int(cells[1]) for name, cells in told.items() if cells[:1] == [""]}
    in_time, late, then, refused = (
        next(count for name, count in answered.items() if word in name)
        for word in ("in time (200)", "late: pending (202)", "when asked again", "refused (422)")
    )
    assert in_time + late + refused == by_http > 0.05 * ASKED
    assert in_time > 0 and then <= late
    for of in ("p50", "p95", "p99"):
        assert all(cell.endswith(" ms") for cell in told[f"latency {of}"])
    assert "2 workers and a door" in done.stderr


@pytest.mark.timeout(400)
def test_a_door_that_ends_is_told_of(connection: Connection) -> None:
    words = command(connection, "car_loan", 20_000, 100, "--http", "--alone", "--json")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            kill_door(process.pid)
            _, told = process.communicate(timeout=200)
        finally:
            process.terminate()  # it ends what it has started
    assert process.returncode == 3, told.decode()
    assert b"the door ended with code -9" in told


def kill_door(demonstration: int) -> None:
    """kill -9 of its door, once that is ready."""
    until = time.monotonic() + 150
    while time.monotonic() < until:
        for child in psutil.Process(demonstration).children():
            with suppress(OSError, psutil.Error, ValueError):
                line = child.cmdline()
                port = line[line.index("--port") + 1]
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                    child.send_signal(signal.SIGKILL)
                    return
        time.sleep(0.1)
    raise AssertionError("there is no door")


@pytest.mark.timeout(600)
def test_a_language_model_goes_away_and_attacks_are_caught(connection: Connection) -> None:
    told = demo(connection, "support_triage", MESSAGES, 15)
    story = told["story"]
    outage, server, spent = story["outage"], story["server"], story["spent"]
    count = sum(story["tiers"].values())
    assert count + told["dead_letters"] == MESSAGES
    assert count == sum(told["decisions"].values())
    assert told["dead_letters"] >= story["sent_again"]["count"] - story["sent_again"]["decided"] > 0

    # Meanwhile the chain decides, and hardly any call is made in vain; afterwards the model is asked again.
    assert 5 < outage["seconds"] < 20
    meanwhile = sum(outage["decided"].values())
    by_chain = sum(number for name, number in outage["decided"].items() if ", fallback:" in name)
    assert meanwhile > 0.3 * count and by_chain > 0.8 * meanwhile
    assert 0 < server["away"] < 0.5 * by_chain
    assert outage["recovered_after_seconds"] < 8
    assert story["tiers"]["automatic"] > 0.3 * count
    assert story["without_score"]["breaker_open"] > 0.5 * by_chain

    # A message waits for the batch before its own, and for its own: each has the deadline.
    assert story["latency_ms"]["all"]["p50"] < 2 * DEADLINE_MS
    assert story["latency_ms"]["all"]["p99"] < 6 * DEADLINE_MS  # with room for a busy machine
    assert spent["calls"] >= 0.7 * server["answered"] > 0.2 * count
    assert spent["calls"] <= 1.1 * (server["answered"] + server["left"] + server["away"])

    # Another version of the prompt is used at once, what a copy asks is not asked again, and what it cost is known.
    changed = story["relabelled"]
    assert changed["prompt"] == "triage@2"
    assert 0 <= changed["first_after_seconds"] < 2 + 3 * DEADLINE_MS / 1000
    assert {*story["prompts"]} == {"triage@1", "triage@2"}
    assert spent["cache"]["exact"] > 0
    like = spent["like"]  # of so few messages there may be none, where the machine is slow
    assert 0 <= like["wrong"] <= like["compared"]
    assert like["compared"] == 0 or like["wrong"] / like["compared"] < like["at_most"] < 1
    assert 0 < spent["money"] < spent["money_per_day"]
    assert 0 < spent["tokens"] <= 1_500 * spent["calls"]

    attacks, harmless = story["attacks"], story["harmless"]
    shown = attacks["count"] - attacks["not_shown"]
    assert shown > 5
    assert attacks["flagged"] > 0
    assert sum(attacks[name] for name in CAUGHT) > 0.5 * shown
    assert harmless["flagged"] + harmless["suspicious"] < 0.03 * harmless["count"]
    assert told["measures"]["cohorts"]
