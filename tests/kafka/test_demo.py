"""The demonstrations, short: a worker dies; a language model goes away, and attacks on it are caught."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import orjson
import pytest

from streamproc.demo.triage_story import FATES
from streamproc.kafka.connection import Connection

PAYMENTS = 12_000
MESSAGES = 300
CAUGHT = FATES[:4]
DEADLINE_MS = 1_000
"""Of the language model in the example."""


def demo(connection: Connection, name: str, events: int, rate: int) -> dict[str, Any]:
    """What a demonstration tells."""
    command = [sys.executable, "-m", "streamproc", "demo", name, "--events", str(events), "--rate", str(rate)]
    done = subprocess.run([*command, "--json", "--kafka", connection.address], capture_output=True, check=False)
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
    like = spent["like"]
    assert like["compared"] > 0
    assert like["wrong"] <= like["compared"] and like["wrong"] / like["compared"] < like["at_most"] < 1
    assert 0 < spent["money"] < spent["money_per_day"]
    assert 0 < spent["tokens"] <= 1_500 * spent["calls"]

    attacks, harmless = story["attacks"], story["harmless"]
    shown = attacks["count"] - attacks["not_shown"]
    assert shown > 5
    assert attacks["flagged"] > 0
    assert sum(attacks[name] for name in CAUGHT) > 0.5 * shown
    assert harmless["flagged"] + harmless["suspicious"] < 0.03 * harmless["count"]
    assert told["measures"]["cohorts"]
