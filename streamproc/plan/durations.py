"""Durations as people write them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, StringConstraints

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
PATTERN = r"^\d+(\.\d+)?(ms|s|m|h|d)$"
LONGEST = timedelta(days=36_500)
WRITTEN = "a duration is a number with ms, s, m, h or d behind it, like 90s or 1.5h"


def to_duration(value: object) -> timedelta:
    """``90s``, ``1.5h``, ``30d`` as a timedelta. Raises ValueError for anything else.

    >>> to_duration("1.5h")
    datetime.timedelta(seconds=5400)
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)(ms|s|m|h|d)", value, re.ASCII) if isinstance(value, str) else None
    if match is None:
        number = type(value) in (int, float)
        raise ValueError(f"it needs a unit: {value}s, {value}m, {value}h or {value}d" if number else WRITTEN)
    seconds = float(match[1]) * UNITS[match[2]]
    if seconds > LONGEST.total_seconds():
        raise ValueError(f"the longest is {LONGEST.days}d")
    return timedelta(seconds=seconds)


def in_words(duration: timedelta) -> str:
    """As people write it, in the largest unit that fits.

    >>> in_words(timedelta(hours=36)), in_words(timedelta(days=2)), in_words(timedelta(milliseconds=1500))
    ('36h', '2d', '1500ms')
    """
    milliseconds = round(duration.total_seconds() * 1000)
    for unit, seconds in reversed(UNITS.items()):
        count, rest = divmod(milliseconds, round(seconds * 1000))
        if count and not rest:
            return f"{count}{unit}"
    return f"{milliseconds}ms"


def _positive(value: object) -> timedelta:
    duration = to_duration(value)
    if not duration:
        raise ValueError("it must be more than 0")
    return duration


_SCHEMA = Annotated[str, StringConstraints(pattern=PATTERN)]
_AS_SECONDS = PlainSerializer(lambda value: value.total_seconds())

Duration = Annotated[timedelta, BeforeValidator(_positive, json_schema_input_type=_SCHEMA), _AS_SECONDS]
Age = Annotated[timedelta, BeforeValidator(to_duration, json_schema_input_type=_SCHEMA), _AS_SECONDS]
"""A duration that may be 0."""
