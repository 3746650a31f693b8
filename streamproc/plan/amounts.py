"""Numbers of tokens, amounts of money and rates, as people write them. All of them are integers inside."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, StringConstraints, WithJsonSchema

from streamproc.core.llm.rates import Rate
from streamproc.plan.durations import to_duration

MILLION = 1_000_000
MOST = 10**15
"""What is counted together stays exact also where numbers are floats of 64 bits."""
MICROSECOND = timedelta(microseconds=1)
_THOUSANDS = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}
_COUNT = r"(\d{1,15}(?:\.\d{1,9})?)(k|M|G|)"
_AMOUNT = r"(\d{1,9}(?:\.\d{1,6})?) ([A-Z]{3})"
_RATE = r"(\d{1,9})/(\d{1,9}(?:\.\d{1,6})?)?(ms|s|m|h|d)"


@dataclass(frozen=True, slots=True)
class Money:
    """``micros`` are millionths of the currency."""

    micros: int
    currency: str


def to_count(value: object) -> int:
    """``200k``, ``1.5M`` or ``500``. Raises ValueError for anything else.

    >>> to_count("200k"), to_count("1.5M"), to_count(500)
    (200000, 1500000, 500)
    """
    match = re.fullmatch(_COUNT, str(value), re.ASCII) if type(value) in (int, str) else None
    number = Decimal(match[1]) * _THOUSANDS[match[2]] if match is not None else Decimal(0)
    if number < 1 or number != int(number) or number > MOST:
        raise ValueError("write a number of tokens: `200k`, `1.5M` or `5000`")
    return int(number)


def to_money(value: object) -> Money:
    """``2.50 USD``. Raises ValueError for anything else.

    >>> to_money("2.50 USD")
    Money(micros=2500000, currency='USD')
    """
    match = re.fullmatch(_AMOUNT, value, re.ASCII) if isinstance(value, str) else None
    if match is None:
        raise ValueError("write an amount and its currency: `20 USD`, or `0.15 EUR`")
    return Money(int(Decimal(match[1]) * MILLION), match[2])


def to_rate(value: object) -> Rate:
    """``50/s`` or ``1/20ms``. Raises ValueError for anything else.

    >>> to_rate("50/s"), to_rate("1/20ms")
    (Rate(requests=50, period=1000000), Rate(requests=1, period=20000))
    """
    match = re.fullmatch(_RATE, value, re.ASCII) if isinstance(value, str) else None
    period = to_duration((match[2] or "1") + match[3]) // MICROSECOND if match is not None else 0
    if match is None or not 0 < int(match[1]) <= period:
        raise ValueError("write a number of requests in a time: `50/s`, `300/m`, or `1/20ms`")
    return Rate(int(match[1]), period)


Count = Annotated[
    int,
    BeforeValidator(to_count, json_schema_input_type=int | str),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": f"^{_COUNT}$"}]},
    ),
]
"""Of tokens."""
Amount = Annotated[
    Money,
    BeforeValidator(to_money, json_schema_input_type=Annotated[str, StringConstraints(pattern=f"^{_AMOUNT}$")]),
    PlainSerializer(lambda money: f"{Decimal(money.micros) / MILLION} {money.currency}"),
    WithJsonSchema({"type": "string", "pattern": f"^{_AMOUNT}$"}),
]
RateOf = Annotated[
    Rate,
    BeforeValidator(to_rate, json_schema_input_type=Annotated[str, StringConstraints(pattern=f"^{_RATE}$")]),
    PlainSerializer(lambda rate: f"{rate.requests}/{rate.period / MILLION}s"),
    WithJsonSchema({"type": "string", "pattern": f"^{_RATE}$"}),
]
"""Of requests."""
