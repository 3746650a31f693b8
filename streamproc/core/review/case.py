"""A case: one question to people, from its opening to its end, as the lane keeps it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypeAlias

import msgspec
import orjson

from streamproc.core.records import VERSIONS, lane_of
from streamproc.core.review.event import Kind
from streamproc.core.versioned import read_kept

VERSION: Final = 1
Status: TypeAlias = Literal["open", "decided", "expired", "shed", "cancelled"]
REMEMBERED: Final = 64
"""So many verdicts of a case are known again when they are sent again."""


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """What the decide agent writes to the topic of cases. ``decision`` and ``event`` are JSON."""

    version: int = VERSIONS["case"]
    id: str
    kind: Kind
    share: float | None
    priority: float | None
    decision: msgspec.Raw
    event: msgspec.Raw


class Decided(msgspec.Struct, frozen=True):
    """What a case needs to know of the decision that it is about. ``time`` stays as it is written."""

    id: str
    time: str
    decision: str
    tier: str
    rule: str | None
    would_be: str | None
    plan: str


class Claim(msgspec.Struct, array_like=True, frozen=True):
    """A lease: who works on a case, and until when."""

    by: str
    fence: int
    until: datetime

    def holds(self, now: datetime) -> bool:
        return now < self.until


class Case(msgspec.Struct, array_like=True, kw_only=True):
    """One case. ``decision`` and ``event`` are JSON; ``event`` is let go of when nobody is to see it any more.

    ``answer`` is what counts now, and ``by`` who said so. ``fences`` counts claims, ``revision`` the decisions after
    the first. ``verdicts`` are the ids of what was answered, the newest last.
    """

    version: int = VERSION
    item: str
    id: str
    kind: Kind
    status: Status
    opened: datetime
    deadline: datetime
    priority: float | None
    share: float | None
    was: str
    key: bytes | None
    passed: tuple[tuple[str, bytes | None], ...]
    decision: bytes
    event: bytes | None
    claim: Claim | None = None
    fences: int = 0
    answer: str | None = None
    tier: str
    by: str | None = None
    revision: int = 0
    verdicts: tuple[str, ...] = ()

    @property
    def is_open(self) -> bool:
        return self.status == "open"

    def claimed(self, now: datetime) -> bool:
        """Whether somebody works on it."""
        return self.claim is not None and self.claim.holds(now)

    def heard(self, verdict: str) -> None:
        """Know a verdict when it comes again."""
        self.verdicts = (*self.verdicts, verdict)[-REMEMBERED:]


encode = msgspec.msgpack.Encoder().encode
_openings: msgspec.json.Decoder[Opening] = msgspec.json.Decoder(Opening)
_decided: msgspec.json.Decoder[Decided] = msgspec.json.Decoder(Decided)


def read(raw: bytes) -> Case:
    """A case as the lane kept it. Raises ValueError where it is of another version of this program."""
    return read_kept(raw, Case, VERSION, "a case")


def read_opening(raw: bytes) -> Opening:
    """What the decide agent wrote. Raises ValueError where it is nothing of the kind: others may write there too."""
    try:
        opening = _openings.decode(raw)
        orjson.loads(bytes(opening.decision))
        decided(opening.decision)
    except (msgspec.MsgspecError, orjson.JSONDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if lane_of(opening.id) is None:
        raise ValueError("its `id` is no decision's")
    if opening.version != VERSIONS["case"]:
        raise ValueError(f"a case of version {opening.version} is met, and this is for version {VERSIONS['case']}")
    return opening


def decided(decision: bytes | msgspec.Raw) -> Decided:
    """What a decision record says."""
    return _decided.decode(decision)


def later(now: datetime, span: timedelta) -> datetime:
    """``span`` after a time; the end of time where that is too long."""
    try:
        return now + span
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)
