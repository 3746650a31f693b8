"""The small job: six fields, three rules, no model. pipeline.yaml is the same in streamproc's words."""

from __future__ import annotations

import random

from benchmarks.jobs.job import Decision, Event, Features, Job

LARGE, YOUNG = 900.0, 30
COUNTRIES = ("NL", "NL", "NL", "DE", "BE", "FR")


def draw(chance: random.Random) -> Event:
    return {
        "account": f"a-{chance.randrange(10_000):05d}",
        "amount": round(chance.expovariate(1 / 250), 2),
        "country": chance.choice(COUNTRIES),
        "age_days": chance.randrange(400),
        "channel": chance.choice(("online", "shop", "atm")),
    }


def decide(event: Event, _: Features, __: float) -> Decision:
    rules, reasons = [], []
    decision = rule = ""
    if event["amount"] > LARGE:
        decision, rule = "decline", "large"
        rules.append("large")
        reasons.append("S01")
    if event["age_days"] < YOUNG and event["country"] != "NL":
        if not rule:
            decision, rule = "decline", "young-abroad"
        rules.append("young-abroad")
        reasons.append("S02")
    rules.append("rest")
    return Decision(decision or "approve", rule or "rest", rules, reasons)


SMALL = Job("small", draw, decide)
