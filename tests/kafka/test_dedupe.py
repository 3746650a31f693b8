"""Events that are sent twice are decided once, though the worker that saw them first was killed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson
import pytest

from tests.kafka import car_loan

DEDUPE = [("  key: id\n", "  key: id\n  id: id\n  dedupe: 24h\n")]
EVENTS, BEFORE, KILLED_AFTER = 1_500, 900, 100


@pytest.mark.timeout(180)
def test_events_sent_again_after_a_kill_are_decided_once(connection: Any) -> None:
    made = car_loan.make(connection, partitions=3, changes=DEDUPE)
    rows = car_loan.events(EVENTS, damaged=False)
    car_loan.produce(connection, made.topic("events"), rows[:BEFORE])
    with car_loan.worker(made, "--session-timeout", "6") as process:
        car_loan.wait_for_results(made, KILLED_AFTER)
        car_loan.produce(connection, made.topic("events"), rows[:BEFORE])
        process.kill()
    car_loan.produce(connection, made.topic("events"), rows)
    car_loan.run_worker_until(made, 2 * BEFORE + EVENTS)
    decided = {one["key"]: one["id"] for one in (orjson.loads(record.value) for record in made.read("decisions"))}
    assert len(made.read("decisions")) == len(decided) == EVENTS
    letters = [(record, dict(record.headers)) for record in made.read("dead-letter")]
    assert all(headers["sp-reason"] == b"duplicate" for _, headers in letters)
    repeated = Counter(record.key.decode() for record, _ in letters)
    assert repeated == {key.decode(): 2 for key, _ in rows[:BEFORE]}
    assert all(headers["sp-first"].decode() == decided[record.key.decode()] for record, headers in letters)
