"""What automation may do is said on the control topic, and workers obey, on a real Kafka."""

from __future__ import annotations

import time
from typing import Any

import orjson

from streamproc.kafka.connection import Connection
from tests.kafka.car_loan import Example, command, events, make, produce, worker
from tests.kafka.test_drift import read
from tests.record_schemas import record_problems

SECONDS = 30.0
"""It should take two, of a machine that has nothing else to do."""


class Stream:
    """Sends events and reads what becomes of them."""

    def __init__(self, made: Example) -> None:
        self._made, self._rows, self._sent = made, events(5_000, damaged=False), 0

    def decided(self) -> list[dict[str, Any]]:
        """What becomes of 20 events that are sent now."""
        produce(self._made.connection, self._made.topic("events"), self._rows[self._sent : self._sent + 20])
        self._sent += 20
        found = read(self._made, "decisions", self._sent)
        newest = sorted(found, key=lambda record: record.timestamp)[-20:]
        return [orjson.loads(record.value) for record in newest]

    def until_tier(self, tier: str, reasons: set[str | None], seconds: float) -> list[dict[str, Any]]:
        """All decisions up to some that are all of this tier, once all these reasons for no score have been seen."""
        deadline, missing, found = time.monotonic() + seconds, set(reasons), list[dict[str, Any]]()
        while True:
            decisions = self.decided()
            found += decisions
            missing -= {one["score_reason"] for one in decisions}
            if not missing and all(one["tier"].startswith(tier) for one in decisions):
                return found
            assert time.monotonic() < deadline, (missing, decisions[-1])

    def until(self, why: set[str]) -> list[dict[str, Any]]:
        """The first decisions that are all for one of these reasons."""
        deadline = time.monotonic() + SECONDS
        while True:
            decisions = self.decided()
            if {one["why"] for one in decisions} <= why:
                return decisions
            assert time.monotonic() < deadline, decisions


def test_workers_obey_and_decisions_say_so(connection: Connection) -> None:
    made = make(connection, 2)
    file, stream = str(made.file), Stream(made)
    with worker(made), worker(made):
        stream.until({"rule"})
        assert "nobody ever said" in command(made, "control", file, "show").output
        for mode, why in (("review-all", "mode_review_all"), ("fallback", "mode_fallback")):
            command(made, "control", file, "mode", mode, "--why", "a test", "--by", "ada")
            found = stream.until({why})
            assert all(one["seen"][f"{made.topic('control')}-0"] > 0 for one in found)
            assert command(made, "control", file, "show").output.startswith(f"{mode}: ada at ")
        command(made, "control", file, "mode", "automatic", "--why", "well again")
        stream.until({"rule"})
    command(made, "control", file, "mode", "review-all", "--why", "again")
    with worker(made):  # what was said holds for those that start later
        assert {one["why"] for one in stream.decided()} == {"mode_review_all"}
    said = [orjson.loads(record.value) for record in made.read("audit")]
    assert [one["mode"] for one in said] == ["review-all", "fallback", "automatic", "review-all"]
    for record in (*made.read("control"), *made.read("audit"), *made.read("decisions")):
        assert record_problems(record.value, record.headers) == []
