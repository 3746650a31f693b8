"""What turned out to be true of one event, as whoever knows it says so."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final, TypeAlias

import msgspec

from streamproc.core.records import VERSIONS, lane_of

Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Whole: TypeAlias = Annotated[int, msgspec.Meta(ge=-(1 << 53), le=1 << 53)]
"""What every reader of JSON takes as it is."""
LARGEST: Final = 1e15


class Outcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The value that came true, when, and the money in it.

    Either ``id``, the decision's, or ``key``, the event's key as the decision shows it, says whose it is. A later
    record for the same decision replaces an earlier one.
    """

    version: int = VERSIONS["outcome"]
    id: str | None = None
    key: Name | None = None
    value: Name | bool | Whole | float
    time: Annotated[datetime, msgspec.Meta(tz=True)]
    amount: Annotated[float, msgspec.Meta(ge=-LARGEST, le=LARGEST)] | None = None


_decoder: msgspec.json.Decoder[Outcome] = msgspec.json.Decoder(Outcome)
encode = msgspec.json.Encoder().encode


def loads(raw: bytes) -> Outcome:
    """The outcome of a record's value. Raises ValueError where it is none."""
    try:
        outcome = _decoder.decode(raw)
        outcome.time.astimezone(UTC)  # at the ends of the calendar it has no UTC, and could not be kept
    except (msgspec.MsgspecError, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if outcome.version != VERSIONS["outcome"]:
        raise ValueError(f"it has version {outcome.version}, and this is for version {VERSIONS['outcome']}")
    if (outcome.id is None) == (outcome.key is None):
        raise ValueError("it names either a decision's `id` or an event's `key`")
    if outcome.id is not None and lane_of(outcome.id) is None:
        raise ValueError("its `id` is no decision's")
    return outcome
