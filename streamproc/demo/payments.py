"""The card payments of the demonstration: what is sent of them, and which of them were frauds."""

from __future__ import annotations

import random
from dataclasses import dataclass

import orjson
import polars as pl

from streamproc import payments
from streamproc.demo.events import Events, Fields, damage
from streamproc.payments import FRAUD

SEED = 7
FIELDS = Fields("amount", "card_id", "store_id")


@dataclass(frozen=True, slots=True)
class Payments:
    """What is sent, and by the events' numbers what was true of it: columns ``number``, ``kind``, ``time``, ``amount``
    and ``fraud``."""

    events: Events
    truth: pl.DataFrame


def real_payments(count: int | None, bad_share: float) -> Payments:
    """The last so many events of the history, or all of it, some of them damaged."""
    rows = payments.events()
    rows = rows if count is None else rows.tail(count)
    keys = [b"%d" % card for card in rows["card_id"].to_list()]
    values: list[bytes | None] = [orjson.dumps(row) for row in rows.drop(FRAUD).to_dicts()]
    damaged = damage(values, bad_share, FIELDS, random.Random(SEED))  # noqa: S311 - not for secrets
    truth = rows.select("kind", "time", "amount", FRAUD).with_row_index("number")
    return Payments(Events(keys, values, len(damaged)), truth)
