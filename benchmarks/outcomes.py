"""Processor time of the outcome agent, an event: ``python -m benchmarks.outcomes``.

Decisions are like those of the car loans, of about 1,000 bytes; what is measured is the processor alone, with its
state, and without Kafka.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import numpy as np
import orjson
import polars as pl

from streamproc.core.expressions import compile_expression
from streamproc.core.outcomes.book import TABLE
from streamproc.core.outcomes.policy import AMOUNT, OutcomesPlan
from streamproc.core.outcomes.processor import OutcomeProcessor
from streamproc.core.processor import NOTHING_SEEN, Batch, Effects, Records, run
from streamproc.core.records import Topics
from streamproc.core.state import Tables

TOPICS = Topics.of("b")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
START = int(NOW.timestamp() * 1000)
TYPES = {"car_value": pl.Float64(), "salary_range": pl.String(), AMOUNT: pl.Float64()}
RANGES = ("0 - 20K €", "20K - 40K €", "40K - 60K €", "60K+ €")
COSTS = {
    "approve": {"repaid": "-0.05 * car_value", "defaulted": "COALESCE(outcome_amount, 0.6 * car_value)"},
    "decline": {"repaid": "0.02 * car_value", "defaulted": "0"},
}


def make_plan(kind: str) -> OutcomesPlan:
    """``counts`` alone, ``costs`` of what came true, or costs that are expected of each decision too."""
    costs = {} if kind == "counts" else COSTS
    compiled = {
        decision: {value: compile_expression(text, TYPES, finite=True) for value, text in row.items()}
        for decision, row in costs.items()
    }
    return OutcomesPlan(
        ("repaid", "defaulted"),
        {"approve": frozenset({"defaulted"})},
        compiled,
        score="repaid" if kind == "expected" else None,
        segments=("salary_range",),
        columns=TYPES,
    )


def decision(number: int, rng: np.random.Generator) -> bytes:
    """A decision record."""
    score, value = float(rng.random()), float(rng.integers(5_000, 90_000))
    decided, rule = ("approve", "good") if score > 0.5 else ("decline", "low-score")
    features = {
        "salary": 30.0, "downpayment": 0.4, "repaid_before": 1.0, "tenure": 4.963102897846603, "financed": value * 0.6,
        "monthly_rate": value / 12, "rate_to_salary": 0.31, "debt_per_year": 0.11, "car_to_salary": 1.2,
        "first_loan": False, "car_value": value, "debt_to_income_ratio": 0.63295, "loan_length": 19.0,
        "salary_range": RANGES[number % 4], "driver_tenure": 4.963102897846603,
    }  # fmt: skip
    return orjson.dumps(
        {
            "id": f"3-{blake2b(b'%d' % number, digest_size=12).hexdigest()}",
            "source": {"topic": "car-loan.events", "partition": 3, "offset": number, "timestamp": START + number // 50},
            "key": str(50_000 + number),
            "time": "2018-10-30T18:08:43.152000Z",
            "decision": decided, "tier": "automatic", "why": "rule", "rule": rule, "would_be": decided,
            "rules": [rule, "good"], "reasons": ["R01"], "observed": [], "undecided": [],
            "score": score, "scored": True, "score_reason": None, "confidence": abs(score - 0.5) * 2,
            "features": features,
            "pipeline": "car-loan", "plan": "af0ff2c73dff30b69c181558d18bb683",
            "model": "1f98978ee804391cca928a6fb0cfe874", "seen": {},
        }
    )  # fmt: skip


class Lane:
    """A lane that commits at once."""

    def __init__(self, plan: OutcomesPlan) -> None:
        self.processor, self.tables = OutcomeProcessor("b", plan), Tables([TABLE])
        self.written = self.spent = 0.0

    def give(self, topic: str, values: list[bytes], first: int, stamp: int) -> None:
        """Process a batch; the time of that alone counts."""
        count = len(values)
        offsets, stamps = np.arange(first, first + count), np.full(count, stamp, np.int64)
        records = Records(topic, 3, [None] * count, list(values), [()] * count, offsets, stamps)
        batch = Batch(3, {topic: records})
        started = time.process_time()
        effects: Effects = run(self.processor.process(batch, self.tables, NOTHING_SEEN, NOW), None)
        self.spent += time.process_time() - started
        changes = effects.state.get(TABLE, {})
        self.written += sum(len(key) + len(value or b"") for key, value in changes.items())
        self.tables.apply(effects.state)


def measure(events: int, batch: int) -> Iterator[dict[str, Any]]:
    """Figures for each kind of plan, and for batches as they are when little comes."""
    rng = np.random.default_rng(7)
    made = [decision(number, rng) for number in range(events)]
    for kind in ("counts", "costs", "expected"):
        lane = Lane(make_plan(kind))
        for first in range(0, events, batch):
            lane.give(TOPICS.decisions, made[first : first + batch], first, START + first // 50)
        yield _said(f"decisions, {kind}, batches of {batch:,}", lane, events)
        lane.spent = lane.written = 0
        chosen = rng.permutation(events)
        said = [
            orjson.dumps(
                {
                    "id": orjson.loads(made[number])["id"],
                    "value": "repaid" if number % 9 else "defaulted",
                    "time": "2026-01-01T00:00:00Z",
                    "amount": None,
                }
            )
            for number in chosen.tolist()
        ]
        for first in range(0, events, batch):
            lane.give(TOPICS.outcomes_by_lane, said[first : first + batch], first, START)
        yield _said(f"outcomes, {kind}, batches of {batch:,}", lane, events)
    lane, few = Lane(make_plan("counts")), events // 10
    for first in range(0, few, 40):
        lane.give(TOPICS.decisions, made[first : first + 40], first, START + first // 50)
    yield _said("decisions, counts, batches of 40", lane, few)


def _said(what: str, lane: Lane, events: int) -> dict[str, Any]:
    return {"what": what, "us": lane.spent / events * 1e6, "bytes": lane.written / events}


def main() -> None:
    """Print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=4_000)
    options = parser.parse_args()
    print(f"{'':48}{'µs an event':>14}{'state, bytes':>14}")
    for row in measure(options.events, options.batch):
        print(f"{row['what']:48}{row['us']:>14.2f}{row['bytes']:>14.0f}", flush=True)


if __name__ == "__main__":
    main()
