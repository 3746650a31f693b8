"""The full job: contract, ten features, a model, twenty rules. pipeline.yaml is the same in streamproc's words."""

from __future__ import annotations

import random

from benchmarks.jobs.job import Event, Features, Job, Rule, first_of

DAMAGED_SHARE = 0.002
START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
CATEGORIES = ("grocery", "grocery", "travel", "gift", "crypto", "fuel", "other")


def draw(chance: random.Random) -> Event:
    limit = chance.choice((500, 1000, 2000, 5000))
    return {
        "account": f"a-{chance.randrange(10_000):05d}",
        "time": START_MS + chance.randrange(86_400_000),
        "amount": round(chance.expovariate(1 / 180) + 1, 2),
        "limit": limit,
        "balance": round(chance.uniform(0, limit), 2),
        "country": chance.choice(("NL", "NL", "NL", "NL", "DE", "BE", "FR")),
        "home": chance.choice(("NL", "NL", "NL", "NL", "NL", "DE")),
        "category": chance.choice(CATEGORIES),
        "channel": chance.choice(("online", "shop", "atm")),
        "card": {"brand": chance.choice(("visa", "mastercard", "amex")), "age_days": chance.randrange(1500)},
        "attempts": min(int(chance.expovariate(0.7)), 12),
        "items": chance.randrange(12),
        "previous": None if chance.random() < 0.1 else round(chance.expovariate(1 / 120), 2),
    }


def features(event: Event) -> Features:
    amount, limit, previous = event["amount"], event["limit"], event.get("previous")
    return {
        "ratio": amount / limit,
        "left_over": (event["balance"] - amount) / limit,
        "abroad": 1.0 if event["country"] != event["home"] else 0.0,
        "online": 1.0 if event["channel"] == "online" else 0.0,
        "risky": 1.0 if event["category"] in {"gift", "crypto"} else 0.0,
        "young": 1.0 / (1.0 + event["card"]["age_days"] / 30.0),
        "retries": min(event["attempts"], 5) / 5.0,
        "basket": amount / max(event["items"], 1) / 100.0,
        "jump": amount / max(50.0 if previous is None else previous, 1.0),
        "night": 1.0 if event["time"] // HOUR_MS % 24 < 6 else 0.0,
    }


RULES: list[Rule] = [
    ("over-limit", "decline", "R01", lambda e, f, s: f["ratio"] > 1),
    ("certain", "decline", "R02", lambda e, f, s: s > 0.95),
    ("crypto-abroad", "decline", "R03", lambda e, f, s: e["category"] == "crypto" and f["abroad"] == 1),
    ("many-tries", "decline", "R04", lambda e, f, s: e["attempts"] > 6),
    ("broke", "decline", "R05", lambda e, f, s: f["left_over"] < -0.5),
    ("new-card-large", "review", "R06", lambda e, f, s: e["card"]["age_days"] < 7 and e["amount"] > 400),
    ("likely", "review", "R07", lambda e, f, s: s > 0.8),
    ("night-cash", "review", "R08", lambda e, f, s: f["night"] == 1 and e["channel"] == "atm" and e["amount"] > 300),
    ("big-jump", "review", "R09", lambda e, f, s: f["jump"] > 25),
    ("gift-run", "review", "R10", lambda e, f, s: e["category"] == "gift" and e["items"] > 8),
    ("online-abroad-new", "review", "R11", lambda e, f, s: f["online"] == 1 and f["abroad"] == 1 and f["young"] > 0.6),
    ("unlikely-pair", "review", "R12", lambda e, f, s: s > 0.5 and f["retries"] > 0.5),
    ("empty-basket", "review", "R13", lambda e, f, s: e["items"] == 0 and e["amount"] > 600),
    ("brand-limit", "review", "R14", lambda e, f, s: e["card"]["brand"] == "amex" and f["ratio"] > 0.9),
    ("small", "approve", "R15", lambda e, f, s: e["amount"] < 20),
    ("groceries", "approve", "R16", lambda e, f, s: e["category"] in {"grocery", "fuel"} and f["ratio"] < 0.3),
    ("known", "approve", "R17", lambda e, f, s: e["card"]["age_days"] > 1000 and s < 0.3),
    ("at-home", "approve", "R18", lambda e, f, s: f["abroad"] == 0 and e["channel"] == "shop"),
    ("low-score", "approve", "R19", lambda e, f, s: s < 0.1),
    ("rest", "approve", "R20", lambda e, f, s: True),
]

FULL = Job("full", draw, first_of(RULES), features, DAMAGED_SHARE)
