"""Counting what happens to cases of review. Each step says enough by itself: nothing is joined."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from streamproc.core.outcomes.book import Book
from streamproc.core.outcomes.decision import Moment, Share
from streamproc.core.outcomes.measures import MILLION, Counts, add, buckets
from streamproc.core.review.event import CLOSING, Kind


class Step(msgspec.Struct, gc=False):
    """A review event without what nobody counts by."""

    step: str
    kind: Kind
    time: Moment
    opened: Moment
    was: str
    share: Share | None = None
    decision: str | None = None


decode = msgspec.json.Decoder(Step).decode


def count(book: Book, steps: Sequence[Step]) -> None:
    """Count steps in the window in which their case was opened."""
    for one in steps:
        start = int(book.windows(np.array([int(one.opened.timestamp())]))[0])
        add(book.opened(start).own(), counts_of(one))


def counts_of(one: Step) -> Counts:
    """What one step adds.

    Samples are counted by what had been decided and what a person says, once as they are and once by how many
    decisions each stands for.
    """
    counts = {f"review/{one.kind}/{one.step}": 1}
    minute = f"open/{one.kind}/{int(one.opened.timestamp()) // 60}"
    if one.step == "opened":
        counts[minute] = 1
    elif one.step in CLOSING:
        counts[minute] = -1
    if one.step != "decided":
        return counts
    spent = round((one.time - one.opened).total_seconds() * 1000)
    counts[f"answer/{one.kind}/{buckets(np.array([spent]))[0]}"] = 1
    if one.kind != "review" and one.decision is not None:
        weight = round(MILLION / one.share) if one.share else MILLION
        pair = f"{one.kind}/{one.was}/{one.decision}"
        counts |= {f"agree/{pair}": 1, f"weighted/{pair}": weight, f"squares/{one.kind}": weight * weight}
    return counts
