"""What happens while the demonstration runs: a model goes away and comes back, people answer, something comes true."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from streamproc.core.plan import Plan
from streamproc.core.records import lane_of
from streamproc.demo.people import ModelServer
from streamproc.demo.show import Due
from streamproc.kafka.connection import Connection
from streamproc.measuring import measured, outcomes_plan

KILLED, BACK = 0.4, 0.5
"""The shares of the events after which the model server is killed, and started again."""
SETTLED_SECONDS = 60.0
OF_THE_EVENT = "not_finite"
"""Why there is no score where a value is missing: the model is well."""
UNSCORED = b'"scored":false'
ID = re.compile(rb'\{"id":"([^"\\]*)"')
TEXTS = {name: re.compile(rb'"%s":"([^"\\]*)"' % name.encode()) for name in ("decision", "tier", "score_reason")}


@dataclass(slots=True)
class LoanStory:
    """What the decisions tell of it. Times are in seconds since the epoch."""

    killed: float | None = None
    back: float | None = None
    recovered: float | None = None
    """When the first decision with a score was made after the server was back."""
    first: float | None = None
    last: float | None = None
    """The first and the last decision that the model was missed for."""
    unscored: Counter[str] = field(default_factory=Counter)
    tiers: Counter[str] = field(default_factory=Counter)
    gap: Counter[str] = field(default_factory=Counter)
    """What was decided in the gap, and by what tier."""
    later: Counter[str] = field(default_factory=Counter)
    """By whom decisions were made after automation's."""
    approved: dict[str, str] = field(default_factory=dict)
    """The keys of what is approved now, by the decisions' ids."""
    due: Due = field(default_factory=lambda: Due(KILLED, BACK))

    def see(self, number: int, value: bytes, key: bytes, timestamp: int) -> None:
        """Take the decision on an event into account."""
        decision = self._holds(value, key)
        at, tier = timestamp / 1000, _text("tier", value)
        self.tiers[tier.partition(":")[0]] += 1
        if UNSCORED in value:
            reason = _text("score_reason", value)
            self.unscored[reason] += 1
            if reason == OF_THE_EVENT:
                return
            self.gap[f"{decision}, {tier}"] += 1
            self.first = at if self.first is None else min(self.first, at)
            self.last = at if self.last is None else max(self.last, at)
        elif self.back is not None and at >= self.back:
            self.recovered = at if self.recovered is None else min(self.recovered, at)

    def revise(self, value: bytes, key: bytes) -> None:
        """Take into account what people or time have decided after it."""
        self._holds(value, key)
        self.later[_text("tier", value)] += 1

    def _holds(self, value: bytes, key: bytes) -> str:
        """What is decided now."""
        decision, match = _text("decision", value), ID.match(value)
        assert match is not None
        if decision == "approve":
            self.approved[match[1].decode()] = key.decode()
        else:
            self.approved.pop(match[1].decode(), None)
        return decision

    def as_json(self) -> dict[str, Any]:
        """The figures, as ``streamproc demo --json`` prints them."""
        gap = None if self.first is None or self.last is None else round(self.last - self.first, 2)
        recovery = None if self.recovered is None or self.back is None else round(self.recovered - self.back, 2)
        return {
            "tiers": dict(sorted(self.tiers.items())),
            "without_score": dict(sorted(self.unscored.items())),
            "gap": {"seconds": gap, "decided": dict(self.gap.most_common()), "recovered_after_seconds": recovery},
            "decided_later": dict(sorted(self.later.items())),
        }


def _text(name: str, value: bytes) -> str:
    match = TEXTS[name].search(value)
    return "" if match is None else match[1].decode()


def told(file: Path, url: str) -> None:
    """Change a copy of the example for the story: its model is behind HTTP, and people have seconds and not hours."""
    text = file.read_text(encoding="utf-8")
    for old, new in (
        ("  onnx: model.onnx\n", f"  http: {url}\n  breaker: {{calls: 4, wait: 1s}}\n"),
        ("  timeout: 5s\n", "  timeout: 2s\n"),
        ("  ttl: 4h\n", "  ttl: 10s\n"),
        ("  capacity: 400 per hour\n", "  capacity: 4000000 per hour\n"),
    ):
        assert old in text, old
        text = text.replace(old, new)
    file.write_text(text, encoding="utf-8")


def without_people(file: Path) -> None:
    """Change a copy of the example to what decides alone."""
    text = file.read_text(encoding="utf-8")
    text = re.sub(r"^# Who answers.*?(?=^actions:)|^  escalate:.*?\n", "", text, flags=re.M | re.S)
    file.write_text(text, encoding="utf-8")


async def interrupt(server: ModelServer, story: LoanStory) -> None:
    """Kill the model server when part of the events are decided, and start it again later."""
    await story.due.wait(KILLED)
    await asyncio.to_thread(server.kill)
    story.killed = time.time()
    await story.due.wait(BACK)
    await asyncio.to_thread(server.start)
    story.back = time.time()


def came_true(approved: Mapping[str, str], repaid: Mapping[str, bool]) -> dict[str, str]:
    """What came true of the loans that were given, by their decisions' ids; ``approved`` are their keys.

    Of those that were declined nobody will ever know.
    """
    return {
        decision: "repaid" if repaid[key] else "defaulted"
        for decision, key in approved.items()
        if key in repaid and lane_of(decision) is not None
    }


async def settled(connection: Connection, plan: Plan, outcomes: int) -> dict[str, Any]:
    """The measures, once they know of so many outcomes; as they are after a minute."""
    until = time.monotonic() + SETTLED_SECONDS
    while True:
        now = datetime.now(UTC)
        found = (await measured(connection, plan, now)).as_json(outcomes_plan(plan), None, now)
        known = sum(cohort["outcomes"] for cohort in found["cohorts"])
        if known >= outcomes or time.monotonic() > until:
            return found
        await asyncio.sleep(0.5)
