"""Records on their way, collected one by one, for processors whose records are few."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from streamproc.core.processor import Headers, Output


@dataclass(slots=True)
class _Column:
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    headers: list[Headers] = field(default_factory=list)
    lanes: list[int] = field(default_factory=list)


class Outbox:
    """Records by topic, each in the order in which they were added."""

    def __init__(self) -> None:
        self._by_lane: dict[str, _Column] = {}
        self._by_key: dict[str, _Column] = {}

    def to_lane(self, topic: str, lane: int, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        """A record for the partition with a lane's number."""
        _add(self._by_lane.setdefault(topic, _Column()), key, value, headers)
        self._by_lane[topic].lanes.append(lane)

    def by_key(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        """A record for the partition of its key."""
        _add(self._by_key.setdefault(topic, _Column()), key, value, headers)

    def outputs(self) -> list[Output]:
        """All of them."""
        return [
            *(
                Output(topic, one.keys, one.values, one.headers, np.array(one.lanes, np.int64))
                for topic, one in self._by_lane.items()
            ),
            *(Output(topic, one.keys, one.values, one.headers) for topic, one in self._by_key.items()),
        ]


def _add(column: _Column, key: bytes | None, value: bytes | None, headers: Headers) -> None:
    column.keys.append(key)
    column.values.append(value)
    column.headers.append(headers)
