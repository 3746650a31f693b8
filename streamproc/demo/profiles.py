"""What the bank of the demonstration knows of its customers: rows for a table, since the real data has no customers."""

from __future__ import annotations

import random

import orjson

from streamproc.demo.events import Events

CUSTOMERS = 40_000
KNOWN = 0.9
"""Of the customers: the others are new."""
YEARS = 6.0
"""On average at the bank."""
LONGEST = 60.0
SPREAD = 7_919
"""A prime, so that neighbouring applications are of different customers."""


def customer_of(application: int) -> int:
    """Who makes an application; some customers make several."""
    return application * SPREAD % CUSTOMERS


def profiles(seed: int) -> Events:
    """The rows of all customers that are known, keyed by them."""
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    keys, values = list[bytes](), list[bytes | None]()
    for customer in range(CUSTOMERS):
        years = round(min(chance.expovariate(1 / YEARS), LONGEST), 1)
        loans = int(chance.random() * years / 2)
        if chance.random() < KNOWN:
            keys.append(b"%d" % customer)
            values.append(orjson.dumps({"customer_id": customer, "years_at_bank": years, "earlier_loans": loans}))
    return Events(keys, values, 0)
