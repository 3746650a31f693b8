"""Fields of a file's rows that are for streamproc and not for the contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Taken:
    """A row without a field, whether it was ``there``, and its value."""

    row: bytes
    there: bool = False
    value: Any = None


def taken(row: bytes, field: str, *, keep: bool) -> Taken:
    """Take a field out of a row, or only look at it. What is no JSON object is a dead letter, told of elsewhere.

    >>> taken(b'{"a": 1, "b": 2}', "b", keep=False)
    Taken(row=b'{"a":1}', there=True, value=2)
    """
    try:
        data = orjson.loads(row)
    except orjson.JSONDecodeError:
        data = None
    if not isinstance(data, dict) or field not in data:
        return Taken(row)
    value = data[field] if keep else data.pop(field)
    return Taken(row if keep else orjson.dumps(data), True, value)
