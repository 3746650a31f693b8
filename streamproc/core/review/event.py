"""What happened to a case: a record of the topic of review events for each step."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal, TypeAlias

import msgspec

from streamproc.core.records import VERSIONS

Kind: TypeAlias = Literal["review", "audit", "second_opinion"]
"""Why a person looks: automation asked for it; a sample of what it decides alone; a sample of what people decide."""
Step: TypeAlias = Literal[
    "opened",
    "claimed",
    "released",
    "decided",
    "confirmed",
    "disagreed",
    "corrected",
    "expired",
    "shed",
    "cancelled",
    "refused",
]


CLOSING: Final[frozenset[Step]] = frozenset({"decided", "expired", "shed", "cancelled"})
"""The steps that end a case: each has exactly one of them."""


class ReviewEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One step of one case.

    ``item`` is the review item, ``id`` the decision that it is about. ``was`` is what had been decided when a person
    was asked, ``decision`` what that person (or expiry) decided. ``share`` is the chance with which a sample chose the
    event. ``reason`` says why something was refused. ``event_time`` is that of the event, ``opened`` and ``deadline``
    are of the case, ``time`` is when this happened. ``tier`` and ``rule`` are those of the decision.
    """

    item: str
    id: str
    version: int = VERSIONS["review-event"]
    pipeline: str
    plan: str
    step: Step
    kind: Kind
    time: datetime
    event_time: str
    opened: datetime
    deadline: datetime
    was: str
    would_be: str | None
    tier: str
    rule: str | None
    priority: float | None = None
    share: float | None = None
    decision: str | None = None
    by: str | None = None
    signed: bool | None = None
    verdict: str | None = None
    fence: int | None = None
    until: datetime | None = None
    reason: str | None = None
    note: str | None = None


encode = msgspec.json.Encoder().encode
