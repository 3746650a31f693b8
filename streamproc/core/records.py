"""Every record type, header and topic name, once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Self

from streamproc.core.processor import Headers

RecordType = Literal[
    "decision",
    "review-item",
    "dead-letter",
    "artefact",
    "panes",
    "drift",
    "drift-escalation",
    "drift-state",
    "control",
    "case",
    "verdict",
    "review-event",
    "action-result",
    "outcome",
    "measures",
    "unseen",
]

TYPE: Final = "sp-type"
VERSION: Final = "sp-version"
TRACEPARENT: Final = "traceparent"
REDRIVEN_FROM: Final = "sp-redriven-from"
"""``topic-partition-offset`` of the dead letter that an event was made from again."""

BODY: Final = "sp-body"
BodyForm = Literal["plain", "masked", "encrypted"]
"""What the value of a dead letter is: the event's bytes, a hash of them, or their encryption."""

DUPLICATE: Final = "duplicate"
"""The reason of dead letters that are no broken events: their id was seen before."""
FIRST: Final = "sp-first"
"""On the dead letter of a duplicate: the id of the decision of the event that it repeats."""

EVENT: Final = "sp-event"
"""On events that came by HTTP, and on what is made of them: a digest of the event's id. Its answer is found by it."""

SIGNED: Final = "sp-signed"
"""On what an intake passes on: ``1`` where it was signed with a key of the pipeline's, ``0`` where it was not."""
CAME_FROM: Final = "sp-from"
"""On the same: where the record stood, ``topic partition offset timestamp``."""

TRACESTATE: Final = "tracestate"
PASSED_THROUGH: Final = (TRACEPARENT, TRACESTATE, REDRIVEN_FROM, EVENT)

VERSIONS: Final[dict[RecordType, int]] = {
    "decision": 1,
    "review-item": 2,
    "dead-letter": 1,
    "artefact": 1,
    "panes": 1,
    "drift": 1,
    "drift-escalation": 1,
    "drift-state": 1,
    "control": 1,
    "case": 1,
    "verdict": 1,
    "review-event": 1,
    "action-result": 1,
    "outcome": 1,
    "measures": 2,
    "unseen": 1,
}

TYPED: Final[dict[RecordType, Headers]] = {
    name: ((TYPE, name.encode()), (VERSION, b"%d" % version)) for name, version in VERSIONS.items()
}
"""The two headers that every record of a type carries."""

TRUNCATED_BYTES: Final = 4096
ID: Final = re.compile(r"(\d{1,5})-[0-9a-f]{24}", re.ASCII)
"""A decision's id: the number of its lane, then a hash of where its event stands."""


def lane_of(decision: str) -> int | None:
    """The lane that a decision's id names; ``None`` where it is no such id.

    >>> lane_of("3-7dfeef45b225ff4c1b1a09c9"), lane_of("ada")
    (3, None)
    """
    match = ID.fullmatch(decision)
    return None if match is None else int(match[1])


def headers_for(record: RecordType, source: Headers) -> Headers:
    """The type's headers, with what is passed through from the source record."""
    common = TYPED[record]
    if not source:
        return common
    passed = tuple(header for header in source if header[0] in PASSED_THROUGH)
    return common + passed if passed else common


def headers_of(record: RecordType, sources: Sequence[Headers]) -> list[Headers]:
    """``headers_for`` each of many source records."""
    if not any(sources):
        return [TYPED[record]] * len(sources)
    return [headers_for(record, source) for source in sources]


@dataclass(frozen=True, slots=True)
class Topics:
    """The names of a pipeline's own topics.

    People and other systems write to ``verdicts``, ``action_results`` and ``outcomes``, with whatever partitioner. What
    they say reaches the lane of the decision by ``cases`` and ``outcomes_by_lane``, which nobody else writes or reads.
    """

    decisions: str
    review: str
    abstained: str
    dead_letters: str
    artefacts: str
    panes: str
    drift: str
    drift_state: str
    control: str
    audit: str
    cases: str
    verdicts: str
    review_events: str
    action_results: str
    outcomes: str
    outcomes_by_lane: str
    metrics: str
    repartitioned: str
    unseen: str

    @classmethod
    def of(cls, pipeline: str) -> Topics:
        return cls(
            decisions=f"{pipeline}.decisions",
            review=f"{pipeline}.review",
            abstained=f"{pipeline}.abstained",
            dead_letters=f"{pipeline}.dead-letter",
            artefacts=f"{pipeline}.artefacts",
            panes=f"{pipeline}.panes",
            drift=f"{pipeline}.drift",
            drift_state=f"{pipeline}.drift-state",
            control=f"{pipeline}.control",
            audit=f"{pipeline}.audit",
            cases=f"{pipeline}.cases",
            verdicts=f"{pipeline}.verdicts",
            review_events=f"{pipeline}.review-events",
            action_results=f"{pipeline}.action-results",
            outcomes=f"{pipeline}.outcomes",
            outcomes_by_lane=f"{pipeline}.outcomes-by-lane",
            metrics=f"{pipeline}.metrics",
            repartitioned=f"{pipeline}.repartitioned",
            unseen=f"{pipeline}.unseen",
        )


@dataclass(frozen=True, slots=True)
class Source:
    """Where a record came from."""

    topic: str
    partition: int
    offset: int
    timestamp: int

    @property
    def text(self) -> str:
        """As it stands in a header."""
        return f"{self.topic} {self.partition} {self.offset} {self.timestamp}"

    @classmethod
    def of(cls, text: str) -> Self:
        """The inverse of ``text``. Raises ValueError where it is none."""
        topic, partition, offset, timestamp = text.split(" ")
        return cls(topic, int(partition), int(offset), int(timestamp))


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Why an event could not be taken. ``path`` is a JSON path into the event, ``detail`` is for people.

    ``stage`` is the stage that refused it, ``reason`` a stable code for programs. ``first`` is the id of the
    decision of the event that a duplicate repeats.
    """

    stage: str
    reason: str
    path: str = ""
    detail: str = ""
    first: str = ""

    def headers(self, pipeline: str, source: Source, passed: Headers = (), body: BodyForm = "plain") -> Headers:
        """Everything about the dead letter but its bytes, which are the record's value, in the form of ``body``."""
        return (
            *headers_for("dead-letter", passed),
            ("sp-pipeline", pipeline.encode()),
            ("sp-stage", self.stage.encode()),
            ("sp-reason", self.reason.encode()),
            ("sp-path", self.path.encode(errors="replace")),
            ("sp-detail", self.detail.encode(errors="replace")[:1000]),
            ("sp-topic", source.topic.encode()),
            ("sp-partition", b"%d" % source.partition),
            ("sp-offset", b"%d" % source.offset),
            ("sp-timestamp", b"%d" % source.timestamp),
            (BODY, body.encode()),
            *(((FIRST, self.first.encode()),) if self.first else ()),
        )


def too_large(topic: str, value: bytes | None, headers: Headers) -> tuple[bytes, Headers]:
    """The dead letter of an outgoing record that its topic cannot hold: a truncated body, its size and its hash."""
    body = value or b""
    return body[:TRUNCATED_BYTES], (
        *TYPED["dead-letter"],
        ("sp-stage", b"effects"),
        ("sp-reason", b"record_too_large"),
        ("sp-detail", f"{len(body)} bytes are more than topic {topic} takes".encode()),
        ("sp-sha256", hashlib.sha256(body).hexdigest().encode()),
        ("sp-size", b"%d" % len(body)),
        ("sp-target", topic.encode()),
        (BODY, b"truncated"),
        *((name, content) for name, content in headers if name in PASSED_THROUGH),
    )


def text_headers(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    """Headers for people and JSON: the last of each name, decoded."""
    return {name: (content or b"").decode(errors="replace") for name, content in headers}
