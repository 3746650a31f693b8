"""Answers that are kept for a while: a key that comes again soon is not asked for again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Row: TypeAlias = "tuple[Any, ...] | None"
"""The values of the fields that are asked for, in their order; ``None`` where there is nothing of the key."""


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """At most ``rows`` entries, each for ``seconds``."""

    rows: int
    seconds: float


class Cache:
    """Rows by key, also that there is none. Where it is full the oldest entries go; times are monotonic seconds."""

    def __init__(self, policy: CachePolicy) -> None:
        self._policy = policy
        self._kept: dict[bytes, tuple[float, Row]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def known(self, keys: Iterable[bytes], now: float) -> dict[bytes, Row]:
        """What is known of some keys."""
        kept, found = self._kept, dict[bytes, Row]()
        for key in keys:
            entry = kept.get(key)
            if entry is not None and entry[0] > now:
                found[key] = entry[1]
        return found

    def keep(self, rows: Mapping[bytes, Row], now: float) -> None:
        """Keep rows that were just answered."""
        kept, until = self._kept, now + self._policy.seconds
        for key, row in rows.items():
            kept.pop(key, None)  # the order is that of their ends
            kept[key] = until, row
        while len(kept) > self._policy.rows:
            del kept[next(iter(kept))]
