"""Budgets of false alarms, numbers of windows, and shares, as people write them."""

from __future__ import annotations

import re
from decimal import Decimal
from math import isfinite
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, StringConstraints, WithJsonSchema

from streamproc.core.drift.budget import FEWEST_EVENTS, Budget
from streamproc.core.review.policy import Allowance
from streamproc.plan.durations import to_duration

MOST_WINDOWS = 10_000
WRITTEN = "write `1 per 30d`, or `1 per 1000000 events`"
_SHARE = r"(\d{1,3}(?:\.\d{1,9})?)%"
_RATE = r"(\d{1,12}) per (\S+)"
_SPANS = {"minute": "1m", "hour": "1h", "day": "1d"}
_BUDGET = r"(\d{1,6}) per (?:(\d{1,15}) events|(\S+))"


def to_budget(value: object) -> Budget:
    """``1 per 30d`` or ``1 per 1000000 events``. Raises ValueError for anything else.

    >>> to_budget("2 per 1000000 events")
    Budget(alarms=2.0, events=1000000.0, period=None)
    """
    match = re.fullmatch(_BUDGET, value, re.ASCII) if isinstance(value, str) else None
    if match is None or int(match[1]) == 0:
        raise ValueError(WRITTEN)
    alarms = float(match[1])
    if match[2] is None:
        period = to_duration(match[3])
        if not period:
            raise ValueError(WRITTEN)
        return Budget(alarms, period=period)
    if int(match[2]) < FEWEST_EVENTS * alarms:
        raise ValueError(f"a false alarm in fewer than {FEWEST_EVENTS} events is no monitoring; {WRITTEN}")
    return Budget(alarms, events=float(match[2]))


def to_windows(value: object) -> int:
    """``20`` or ``20 windows``. Raises ValueError for anything else."""
    match = re.fullmatch(r"(\d{1,6})(?: windows?)?", str(value), re.ASCII) if type(value) in (int, str) else None
    if match is None or not 0 < int(match[1]) <= MOST_WINDOWS:
        raise ValueError(f"write a number of windows: `20 windows`, at most {MOST_WINDOWS}")
    return int(match[1])


def to_share(value: object) -> int:
    """``10%`` or ``0.1`` in millionths. Raises ValueError for anything that is no share, or is finer than that.

    >>> to_share("10%"), to_share(0.1), to_share(1)
    (100000, 100000, 1000000)
    """
    number = Decimal(0)
    if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
        number = Decimal(str(value))
    elif isinstance(value, str) and (match := re.fullmatch(_SHARE, value, re.ASCII)):
        number = Decimal(match[1]) / 100
    if not 0 < number <= 1:
        raise ValueError("write a share of the events, more than nothing and at most all: `10%`, or `0.1`")
    millionths = number * 1_000_000
    if millionths != int(millionths):
        raise ValueError("write a share with no more than four digits behind the point: `0.0001%` is the least")
    return int(millionths)


def to_portion(value: object) -> float:
    """``10%`` or ``0.1`` as a number from 0 to 1. Raises ValueError for anything else.

    >>> to_portion("0%"), to_portion(0.25)
    (0.0, 0.25)
    """
    if value in (0, "0%") and not isinstance(value, bool):
        return 0.0
    try:
        return to_share(value) / 1_000_000
    except ValueError:
        raise ValueError("write a share, from nothing to all: `10%`, or `0.1`") from None


def to_rate(value: object) -> float:
    """``100 per 1m`` in events a minute. Raises ValueError for anything else.

    >>> to_rate("100 per 10s")
    600.0
    """
    match = re.fullmatch(_RATE, value, re.ASCII) if isinstance(value, str) else None
    period = to_duration(match[2]) if match is not None else None
    if match is None or not period or int(match[1]) == 0:
        raise ValueError("write a number of events per time: `100 per 1m`")
    return int(match[1]) / period.total_seconds() * 60


def to_allowance(value: object) -> Allowance:
    """``200 per 1h`` or ``200 per hour``. Raises ValueError for anything else.

    >>> to_allowance("20 per day")
    Allowance(count=20, period=datetime.timedelta(days=1))
    """
    match = re.fullmatch(_RATE, value, re.ASCII) if isinstance(value, str) else None
    period = to_duration(_SPANS.get(match[2], match[2])) if match is not None else None
    if match is None or not period or int(match[1]) == 0:
        raise ValueError("write a number per time: `200 per hour`, or `200 per 1h`")
    return Allowance(int(match[1]), period)


def _written(budget: Any) -> str:
    per = f"{budget.events:.0f} events" if budget.events is not None else f"{budget.period.total_seconds():g}s"
    return f"{budget.alarms:g} per {per}"


FalseAlarms = Annotated[
    Budget,
    BeforeValidator(to_budget, json_schema_input_type=Annotated[str, StringConstraints(pattern=f"^{_BUDGET}$")]),
    PlainSerializer(_written),
    WithJsonSchema({"type": "string", "pattern": f"^{_BUDGET}$"}),
]
Rate = Annotated[
    float,
    BeforeValidator(to_rate, json_schema_input_type=Annotated[str, StringConstraints(pattern=f"^{_RATE}$")]),
    WithJsonSchema({"type": "string", "pattern": f"^{_RATE}$"}),
]
"""In events a minute."""
Portion = Annotated[
    float,
    BeforeValidator(to_portion, json_schema_input_type=float | str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 1},
                {"type": "string", "pattern": f"^{_SHARE}$"},
            ]
        }
    ),
]
"""From 0 to 1."""
Allowed = Annotated[
    Allowance,
    BeforeValidator(to_allowance, json_schema_input_type=Annotated[str, StringConstraints(pattern=f"^{_RATE}$")]),
    PlainSerializer(lambda allowance: f"{allowance.count} per {allowance.period.total_seconds():g}s"),
    WithJsonSchema({"type": "string", "pattern": f"^{_RATE}$"}),
]
Windows = Annotated[int, BeforeValidator(to_windows, json_schema_input_type=int | str)]
Share = Annotated[
    int,
    BeforeValidator(to_share, json_schema_input_type=float | str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
                {"type": "string", "pattern": f"^{_SHARE}$"},
            ]
        }
    ),
]
"""In millionths."""
