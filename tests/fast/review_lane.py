"""One lane of the review agent on its own: cases and what people say go in, at times that a test chooses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from streamproc.core.processor import NOTHING_SEEN, Effects, Headers, run
from streamproc.core.records import SIGNED, TYPED
from streamproc.core.review.desk import TABLES
from streamproc.core.review.policy import ReviewPlan
from streamproc.core.review.processor import ReviewProcessor
from streamproc.core.state import Tables
from streamproc.offline import batch_of
from tests.record_schemas import record_problems

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
ACTIONS = {"approve": "t.approvals", "decline": "t.declines", "escalate": "t.escalations"}
PLAN = ReviewPlan(ttl=4 * HOUR, on_expiry="escalate", choices=frozenset(ACTIONS))


def decision_id(number: int, lane: int = 3) -> str:
    return f"{lane}-{number:024x}"


def decision(number: int, decided: str = "review", **more: Any) -> dict[str, Any]:
    """A decision record, whole."""
    return {
        "id": decision_id(number),
        "source": {"topic": "t.events", "partition": 3, "offset": number, "timestamp": 0},
        "key": f"k{number}",
        "time": "2025-12-31T10:00:00.000000Z",
        "decision": decided,
        "tier": "automatic",
        "why": "rule",
        "rule": "unsure",
        "fallback_reason": None,
        "scored_by": "onnx",
        "would_be": "approve",
        "rules": ["unsure"],
        "reasons": [],
        "observed": [],
        "undecided": [],
        "score": 0.5,
        "scored": True,
        "score_reason": None,
        "confidence": None,
        "features": {"amount": 12.5},
        "pipeline": "t",
        "plan": "0" * 32,
        "model": "v1",
        "confidence_hash": None,
        "seen": {},
        **more,
    }


def case(number: int, **more: Any) -> bytes:
    """What the decide agent writes of a case."""
    kind = more.pop("kind", "review")
    priority, share = more.pop("priority", None), more.pop("share", None)
    whole = {"version": 1, "id": decision_id(number), "kind": kind, "share": share, "priority": priority}
    about = decision(number, more.pop("decided", "review"), **more)
    return orjson.dumps({**whole, "decision": about, "event": {"id": number}})


def said(number: int | str, **more: Any) -> bytes:
    """What a person says of a case; a verdict where a decision is among it."""
    item = number if isinstance(number, str) else decision_id(number)
    kind = {} if "decision" in more else {"kind": more.pop("kind")}
    return orjson.dumps({"id": item, "by": more.pop("by", "ada"), **kind, **more})


def is_case(value: bytes) -> bool:
    return b'"event":' in value


@dataclass
class Lane:
    """``sent`` are the values that went to each topic, all of them checked against their schemas."""

    plan: ReviewPlan = PLAN
    lanes: int = 4
    partition: int = 3
    now: datetime = BEGIN
    wake_at: datetime | None = None
    offset: int = 0
    sent: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    headers: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    counts: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    tables: Tables = field(default_factory=lambda: Tables(TABLES))

    def give(self, *values: bytes, signed: bool = False, headers: Headers = ()) -> dict[str, list[Any]]:
        """Process records in one batch; what it sent, by topic."""
        batch = batch_of(
            "t.cases",
            list(values),
            partition=self.partition,
            first_offset=self.offset,
            keys=[b"k"] * len(values),
            timestamp=int(self.now.timestamp() * 1000),
        )
        records = batch.topics["t.cases"]
        for place, value in enumerate(values):
            typed = TYPED["case"] if is_case(value) else (*TYPED["verdict"], (SIGNED, b"%d" % signed))
            records.headers[place] = typed + headers
        self.offset += len(values)
        return self._take(run(self.processor.process(batch, self.tables, NOTHING_SEEN, self.now), None))

    def wait(self, span: timedelta) -> dict[str, list[Any]]:
        """Let time pass, with the ticks that were asked for; what they sent, by topic."""
        until, sent = self.now + span, dict[str, list[Any]]()
        while self.wake_at is not None and self.wake_at <= until:
            self.now = max(self.now, self.wake_at)
            self.wake_at = None
            for topic, values in self.tick().items():
                sent.setdefault(topic, []).extend(values)
        self.now = until
        return sent

    def tick(self) -> dict[str, list[Any]]:
        return self._take(run(self.processor.tick(self.tables, NOTHING_SEEN, self.now), None))

    @property
    def processor(self) -> ReviewProcessor:
        return ReviewProcessor("t", self.plan, ACTIONS, self.lanes)

    def _take(self, effects: Effects) -> dict[str, list[Any]]:
        self.tables.apply(effects.state)
        self.wake_at = effects.wake_at
        for name, count in effects.counts.items():
            self.counts[name] += count
        sent: dict[str, list[Any]] = defaultdict(list)
        for output in effects.records:
            for value, headers in zip(output.values, output.headers, strict=True):
                assert record_problems(value, headers) == [], (output.topic, value)
                named = dict(headers)
                whole = named if output.topic.endswith("dead-letter") else orjson.loads(value or b"null")
                self.headers[output.topic].append(named)
                sent[output.topic].append(whole)
                self.sent[output.topic].append(whole)
            if output.topic.startswith(("t.review", "t.decisions", "t.dead-letter")):
                assert output.places is not None and set(output.places.tolist()) == {self.partition}
        return sent

    def steps(self) -> list[str]:
        return [event["step"] for event in self.sent["t.review-events"]]


def steps(sent: dict[str, list[Any]]) -> list[str]:
    return [event["step"] for event in sent.get("t.review-events", [])]


def decided(sent: dict[str, list[Any]]) -> Sequence[tuple[str, str, str]]:
    return [(one["decision"], one["tier"], one["why"]) for one in sent.get("t.decisions", [])]
