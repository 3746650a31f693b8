"""What people say about review items, as records of the topic of verdicts."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias

import msgspec

from streamproc.core.records import ID, VERSIONS, lane_of

SECOND = ".2"
"""Behind a decision's id: the item that asks for a second opinion on it."""
ITEM = re.compile(ID.pattern + r"(?:\.2)?", re.ASCII)

SaidKind: TypeAlias = Literal["verdict", "claim", "release", "cancel"]
MOST_FENCES = 2**31
Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Said(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that one person said about one item. ``lease`` is in seconds, ``fence`` the number of a claim."""

    version: int = VERSIONS["verdict"]
    kind: SaidKind = "verdict"
    id: str
    by: Name
    verdict: Name | None = None
    decision: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] | None = None
    fence: Annotated[int, msgspec.Meta(ge=1, le=MOST_FENCES)] | None = None
    lease: Annotated[float, msgspec.Meta(gt=0)] | None = None
    note: Annotated[str, msgspec.Meta(max_length=4000)] | None = None


_decoder: msgspec.json.Decoder[Said] = msgspec.json.Decoder(Said)
encode = msgspec.json.Encoder().encode


def loads(raw: bytes) -> Said:
    """What a record's value says. Raises ValueError where it is nothing of the kind."""
    try:
        said = _decoder.decode(raw)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if said.version != VERSIONS["verdict"]:
        raise ValueError(f"it has version {said.version}, and this is for version {VERSIONS['verdict']}")
    if ITEM.fullmatch(said.id) is None:
        raise ValueError("its `id` is no review item's")
    if (said.kind == "verdict") != (said.decision is not None):
        raise ValueError("a verdict has a `decision`" if said.kind == "verdict" else f"a {said.kind} has no `decision`")
    return said


def decision_of(item: str) -> str:
    """The id of the decision that an item is about."""
    return item.removesuffix(SECOND)


def lane_of_item(item: str) -> int | None:
    """The lane of an item; ``None`` where it is no such id."""
    return lane_of(decision_of(item))
