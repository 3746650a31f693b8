"""Decision records as far as measures need them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Annotated, Any, Final, Protocol, TypeAlias, cast

import msgspec

from streamproc.core.records import ID

SAFE: Final = 1 << 53
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=SAFE)]
Milliseconds: TypeAlias = Annotated[int, msgspec.Meta(ge=-SAFE, le=SAFE)]
Moment: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]
Share: TypeAlias = Annotated[float, msgspec.Meta(ge=1e-9, le=1)]
"""Below the least, one record would outweigh all others."""


class _Source(msgspec.Struct, gc=False):
    offset: Count
    timestamp: Milliseconds


class Reviewed(msgspec.Struct, gc=False):
    opened: Moment
    decided: Moment


class Explored(msgspec.Struct, gc=False):
    instead_of: str
    share: Share


class Slim(msgspec.Struct, gc=False):
    """A decision record without what nobody counts by."""

    id: str
    source: _Source
    key: str | None
    decision: str
    tier: str
    why: str
    rule: str | None
    would_be: str | None
    score: float | None
    score_reason: str | None
    plan: str
    model: str | None
    fallback_reason: str | None = None
    scored_by: str | None = None
    revision: Count = 0
    review: Reviewed | None = None
    explored: Explored | None = None


class Decision(Protocol):
    """A slim decision with the columns that are asked for, as the fields of ``features`` in their order."""

    features: Any


def decoder(columns: Sequence[str]) -> Callable[[bytes], Slim]:
    """A function from a decision record's value to what is needed of it. It raises ValueError for anything else.

    The result also has ``features``, whose values `values_of` tells.
    """
    if not columns:
        plain: Callable[[bytes], Slim] = msgspec.json.Decoder(Slim).decode
        return plain
    names = {f"c{number}": name for number, name in enumerate(columns)}
    features = msgspec.defstruct("Features", [(field, Any, None) for field in names], rename=names, gc=False)
    whole = msgspec.defstruct(
        "Whole", [("features", features, msgspec.field(default_factory=features))], bases=(Slim,), gc=False
    )
    return cast("Callable[[bytes], Slim]", msgspec.json.Decoder(whole).decode)


def reason_of(why: str, score_reason: str | None, fallback_reason: str | None) -> str:
    """Why the tier decided, as the decision says it; where it does not, why there is no score, if that is why."""
    return fallback_reason or (score_reason if why == "no_score" else None) or why


def values_of(decisions: Sequence[Slim], columns: Sequence[str]) -> dict[str, list[Any]]:
    """The columns of decisions that were read for them."""
    return {name: list(map(attrgetter(f"features.c{number}"), decisions)) for number, name in enumerate(columns)}


def scalar(value: Any) -> Any:
    """A column's value as it can be kept; ``None`` for what no column has: lists, objects, integers beyond 64 bits."""
    if isinstance(value, list | dict) or (isinstance(value, int) and abs(value) >= 1 << 63):
        return None
    return value


def have_good_ids(decisions: Sequence[Slim]) -> bool:
    """Whether all can be kept by their ids."""
    return all(map(ID.fullmatch, [one.id for one in decisions]))


def readable(decode: Callable[[bytes], Slim], value: bytes | None) -> Slim | None:
    """The decision of a record; ``None`` where it is none that can be kept."""
    try:
        slim = decode(value or b"")
    except (ValueError, RecursionError):
        return None
    return slim if have_good_ids([slim]) else None


def id_bytes(decision: str) -> bytes:
    """The 12 bytes of an id without its lane. Raises ValueError where it is none."""
    if ID.fullmatch(decision) is None:
        raise ValueError("that is no decision's id")
    return bytes.fromhex(decision[-24:])
