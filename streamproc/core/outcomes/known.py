"""What became of one decision after it was made, and what that adds to the counts of its group."""

from __future__ import annotations

from typing import Final

import msgspec

from streamproc.core.outcomes.costs import total
from streamproc.core.outcomes.measures import Counts, add

VERSION: Final = 1


class Known(msgspec.Struct, array_like=True, frozen=True):
    """``decision`` is what holds now and ``by`` who made it: `own` for the pipeline itself, `explored` for chance,
    `reviewer` and `expiry`. ``revision`` is the number of that, ``why`` how it came about, ``overrides`` whether a
    person decided otherwise than automation would have. ``value`` is what came true, and ``amount`` the money in it;
    ``realised`` and ``baseline`` are what that costs, in millionths, ``regret`` what declining would have cost more, by
    ``weight`` decisions of which an experiment is one.
    """

    version: int
    decision: str
    by: str
    revision: int = 0
    why: str | None = None
    overrides: bool | None = None
    value: str | None = None
    amount: float | None = None
    realised: int | None = None
    baseline: int | None = None
    regret: int | None = None
    weight: float = 1.0


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Known).decode


def dumps(known: Known) -> bytes:
    """The value of the lane's table."""
    return _encode(known)


def loads(raw: bytes) -> Known:
    """Its inverse. Raises ValueError where it is of a later version."""
    known = _decode(raw)
    if known.version != VERSION:
        raise ValueError(f"what is known of a decision has version {known.version}, and this program reads {VERSION}")
    return known


def counts_of(known: Known) -> Counts:
    """What is counted because of it: all of it depends on ``known`` alone, so it can be taken back."""
    counts = Counts()
    if known.revision:
        counts |= {f"revised/{known.why}": 1, f"became/{known.by}/{known.decision}": 1}
    if known.overrides is not None:
        counts |= {"compared": 1, "overrides": int(known.overrides)}
    if known.value is None:
        return counts
    counts[f"came/{known.by}/{known.decision}/{known.value}"] = 1
    if known.realised is not None:
        counts |= total("realised", known.realised)
        if known.baseline is not None:
            counts |= total("baseline", known.baseline)
            counts |= total("saved", known.baseline - known.realised)
    if known.regret is not None:
        counts |= total("regret", known.regret, known.weight)
    return {name: count for name, count in counts.items() if count}


def change(counts: Counts, before: Known, after: Known) -> None:
    """Count ``after`` instead of ``before``."""
    if before.revision or before.value is not None:
        add(counts, counts_of(before), -1)
    add(counts, counts_of(after))
