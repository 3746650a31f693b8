"""The repartition agent: events to the lane of a field's value, for windows by it.

What cannot be read goes on as it is, and the decide agent says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from streamproc.core.processor import Batch, Effects, Output, Records, Seen, State, Steps
from streamproc.core.records import CAME_FROM, Source

LEAST_INTEGER: Final = -(2**63)
INTEGERS_END: Final = 2**64
"""What is read as an integer is from the first of them up to before the second; others are doubles."""


@dataclass(frozen=True, slots=True)
class RepartitionProcessor:
    """Sends events of a topic on to ``target``, keyed by a field; a dot leads into an object.

    Bytes and headers stay, and one more header says where the event stood.
    """

    field: str
    target: str

    def process(self, batch: Batch, state: State, seen: Seen, now: datetime) -> Steps:
        """The events of a batch, with their new keys."""
        outputs = [self._routed(records) for records in batch.topics.values()]
        return Effects(records=outputs)
        yield []

    def tick(self, state: State, seen: Seen, now: datetime) -> Steps:
        """Nothing happens by time alone."""
        return Effects()
        yield []

    def _routed(self, records: Records) -> Output:
        keys = keys_by(self.field, records.keys, records.values)
        places = zip(records.offsets.tolist(), records.timestamps.tolist(), strict=True)
        headers = [
            (*own, (CAME_FROM, Source(records.topic, records.partition, offset, timestamp).text.encode()))
            for own, (offset, timestamp) in zip(records.headers, places, strict=True)
        ]
        return Output(self.target, keys, records.values, headers)


def keys_by(field: str, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> list[bytes | None]:
    """The keys with which records go on: that of the field, or else the record's own."""
    path = field.split(".")
    found = (_own_key(value, path) for value in values)
    return [before if key is None else key for before, key in zip(keys, found, strict=True)]


def _own_key(value: bytes | None, path: Sequence[str]) -> bytes | None:
    try:
        found = at_path(orjson.loads(value or b"null"), path)
    except orjson.JSONDecodeError:
        return None
    return None if isinstance(found, dict | list) else key_text(found)


def at_path(here: Any, path: Sequence[str]) -> Any:
    """What stands in a JSON value under names, one in the other; ``None`` for nothing."""
    for part in path:
        if not isinstance(here, dict):
            return None
        here = here.get(part)
    return here


def key_text(value: Any) -> bytes | None:
    """A JSON value as a record's key: a text as it is, else its JSON; ``None`` for null.

    Equal numbers have one key, that of the integer where there is one. What is written with a point or an exponent is
    the nearest double first, and so is an integer of more than 64 bits.

    >>> [key_text(value) for value in (1, 1.0, -0.0, 1e3, 0.5, 2.0**53, 1e300)]
    [b'1', b'1', b'0', b'1000', b'0.5', b'9007199254740992', b'1e+300']
    """
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer() and LEAST_INTEGER <= value < INTEGERS_END:
        value = int(value)
    return value.encode() if isinstance(value, str) else orjson.dumps(value)
