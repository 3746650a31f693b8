"""What decisions say that was remembered, beside a plain loop over the events of each lane."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import orjson

from tests.torture.telling import some

if TYPE_CHECKING:
    from tests.torture.checks import Found

FEATURES: Final = """
windows: {lateness: 90d, ttl: 180d}

features:
  seen: {by: loan_length, agg: count, where: car_value > 30000}
  usual_debt: {by: loan_length, agg: mean, of: debt_to_income_ratio}
  unusual: {by: loan_length, agg: zscore, of: car_value}
  lately: {window: 6h, by: salary_range, agg: count}
  dearest: {window: 3d, by: salary_range, agg: max, of: car_value}
"""
"""Events come round in their times, and so all of them are late by less than the lateness."""
SECOND: Final = 1_000_000
SIX_HOURS, THREE_DAYS = 6 * 3600 * SECOND, 3 * 24 * 3600 * SECOND


@dataclass
class Memory:
    """All that a key of one lane had."""

    seen: int = 0
    debts: tuple[float, int] | None = None
    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    lately: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    dearest: dict[int, float] = field(default_factory=dict)


def remembered(found: Found) -> Iterator[str]:
    """Windows hold what came before in their lane, of the events that were decided, and nothing twice."""
    decided = {(one["source"]["partition"], one["source"]["offset"]): one["features"] for one in found.decided}
    lengths: dict[Any, Memory] = defaultdict(Memory)
    ranges: dict[Any, Memory] = defaultdict(Memory)
    wrong = defaultdict[str, list[Any]](list)
    for event in sorted(found.events, key=lambda event: (event.partition, event.offset)):
        place = event.partition, event.offset
        features = decided.get(place)
        if features is None or "seen" not in features:
            continue
        row = orjson.loads(event.value)
        at = _microseconds(row["timestamp"])
        length, pay = lengths[event.partition, row["loan_length"]], ranges[event.partition, row["salary_range"]]
        expected = _by_length(length, row)
        if row["salary_range"] is not None:
            expected |= _by_range(pay, row, at)
        else:
            expected |= {"lately": None, "dearest": None}
        for name, value in expected.items():
            if not _same(features[name], value):
                wrong[name].append((place, features[name], value))
    for name, places in wrong.items():
        yield from some(f"windows `{name}` that are not what a plain loop says", places)


def _by_length(memory: Memory, row: dict[str, Any]) -> dict[str, Any]:
    value, debt = float(row["car_value"]), row["debt_to_income_ratio"]
    spread = math.sqrt(memory.squares / (memory.count - 1)) if memory.count > 1 else 0.0
    expected = {
        "seen": memory.seen,
        "usual_debt": memory.debts[0] / memory.debts[1] if memory.debts else None,
        "unusual": (value - memory.mean) / spread if spread else None,
    }
    memory.seen += value > 30_000
    if debt is not None:
        total, many = memory.debts or (0.0, 0)
        memory.debts = (total + debt, many + 1)
    memory.count += 1
    before = memory.mean
    memory.mean += (value - before) / memory.count
    memory.squares += (value - before) * (value - memory.mean)
    return expected


def _by_range(memory: Memory, row: dict[str, Any], at: int) -> dict[str, Any]:
    short, long = at // (SIX_HOURS // 60), at // (THREE_DAYS // 60)
    dearest = [memory.dearest[one] for one in range(long - 59, long + 1) if one in memory.dearest]
    expected = {
        "lately": sum(memory.lately.get(one, 0) for one in range(short - 59, short + 1)),
        "dearest": max(dearest, default=None),
    }
    memory.lately[short] += 1
    memory.dearest[long] = max(memory.dearest.get(long, -math.inf), float(row["car_value"]))
    return expected


def _microseconds(text: str) -> int:
    at = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return (at - datetime.fromtimestamp(0, UTC)) // (datetime.resolution)


def _same(found: Any, expected: Any) -> bool:
    if isinstance(found, float) and isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=1e-7, abs_tol=1e-9)
    return bool(found == expected)
